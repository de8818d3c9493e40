//! What this provider measures, through the `metrics` facade. Names and labels in one place:
//! [`METRICS`], from which the table in `deploy/kubernetes/README.md` is made.

use std::time::Duration;

use hodei_core::{failure::FailureCause, id::ProviderId};
use http::{HeaderValue, Request, Response, header};
use kube::{Client, client::Body};
use tokio::time::Instant;

use crate::watch::Heard;

/// How a metric counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// The value now.
    Gauge,
    /// A distribution; its count is a counter too.
    Histogram,
}

/// One metric of this provider.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// How it counts.
    pub kind: MetricKind,
    /// Its labels beside `provider`.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub help: &'static str,
}

const REQUESTS: &str = "hodei_kubernetes_request_duration_seconds";
const THROTTLED: &str = "hodei_kubernetes_throttled_seconds";
const INTERRUPTIONS: &str = "hodei_kubernetes_watch_interruptions_total";
const RESTARTS: &str = "hodei_kubernetes_watch_restarts_total";
const VIEW_AGE: &str = "hodei_kubernetes_view_age_seconds";
const LIVE: &str = "hodei_kubernetes_live_workers";
const CREATE: &str = "hodei_worker_create_seconds";
const STAGE: &str = "hodei_worker_stage_seconds";
const READY: &str = "hodei_worker_ready_seconds";
const DESTROY: &str = "hodei_worker_destroy_seconds";
const FAILURES: &str = "hodei_worker_failures_total";

/// Every metric of this provider.
pub const METRICS: &[Metric] = &[
    Metric {
        name: REQUESTS,
        kind: MetricKind::Histogram,
        labels: &["verb", "resource", "code"],
        help: "Time until the API server began to answer; `code` is `none` without an answer",
    },
    Metric {
        name: THROTTLED,
        kind: MetricKind::Histogram,
        labels: &[],
        help: "Time that requests waited for their turn, of those that had to wait",
    },
    Metric {
        name: INTERRUPTIONS,
        kind: MetricKind::Counter,
        labels: &[],
        help: "Errors that broke the watch off",
    },
    Metric {
        name: RESTARTS,
        kind: MetricKind::Counter,
        labels: &[],
        help: "Times that the watch had to begin with a new list",
    },
    Metric {
        name: VIEW_AGE,
        kind: MetricKind::Gauge,
        labels: &[],
        help: "Time since the watch heard from the API server, set every second",
    },
    Metric {
        name: LIVE,
        kind: MetricKind::Gauge,
        labels: &[],
        help: "Workers that exist in the cluster",
    },
    Metric {
        name: CREATE,
        kind: MetricKind::Histogram,
        labels: &[],
        help: "Time until the API server had accepted Secret and Pod",
    },
    Metric {
        name: STAGE,
        kind: MetricKind::Histogram,
        labels: &["stage"],
        help: "Time of a stage: `schedule` (pod created to node), `sandbox` (to \
            PodReadyToStartContainers), `pull` (to the container running, with the image pull); by \
            the moments at which the watch told them, and a stage not seen by itself is part of \
            the next",
    },
    Metric {
        name: READY,
        kind: MetricKind::Histogram,
        labels: &[],
        help: "Time from the pod's creation to its container running, by the same moments",
    },
    Metric {
        name: DESTROY,
        kind: MetricKind::Histogram,
        labels: &[],
        help: "Time until the removal was confirmed",
    },
    Metric {
        name: FAILURES,
        kind: MetricKind::Counter,
        labels: &["cause"],
        help: "Workers that could not be made or were seen to fail",
    },
];

/// Tells the recorder what the metrics are.
pub(crate) fn describe() {
    for Metric { name, kind, help, .. } in METRICS {
        match kind {
            MetricKind::Counter => metrics::describe_counter!(*name, *help),
            MetricKind::Gauge => metrics::describe_gauge!(*name, *help),
            MetricKind::Histogram => metrics::describe_histogram!(*name, *help),
        }
    }
}

/// The stages of a worker's start that the provider can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// From its creation to its node.
    Schedule,
    /// From its node to its sandbox.
    Sandbox,
    /// From its sandbox to its running container.
    Pull,
}

impl Stage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Sandbox => "sandbox",
            Self::Pull => "pull",
        }
    }
}

/// Longest time until the API server begins to answer. Admission webhooks may take 30 s in all.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);

/// The API server did not begin to answer in time.
#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
pub(crate) struct NoAnswer;

/// Who we are in the API server's audit log.
const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("hodei-kubernetes/", env!("CARGO_PKG_VERSION")));

/// The same client with each request signed, timed, counted and limited in time, the watch's included.
pub(crate) fn instrument(client: Client, provider: &ProviderId, heard: Heard) -> Client {
    let namespace = client.default_namespace().to_owned();
    let provider = provider.clone();
    let service = tower::service_fn(move |mut request: Request<Body>| {
        let client = client.clone();
        request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
        let labels = Labels::of(&provider, &request);
        let heard = heard.clone();
        async move {
            let start = Instant::now();
            let answer: Result<Response<Body>, tower::BoxError> =
                match tokio::time::timeout(ANSWER_TIMEOUT, client.send(request)).await {
                    Ok(answer) => answer.map_err(Into::into),
                    Err(_) => Err(NoAnswer.into()),
                };
            let code = match &answer {
                Ok(response) => response.status().as_str().to_owned(),
                Err(_) => "none".to_owned(),
            };
            if labels.is_watch() && answer.as_ref().is_ok_and(|r| r.status().is_success()) {
                heard.now();
            }
            labels.record(code, start.elapsed());
            answer
        }
    });
    Client::new(service, namespace)
}

struct Labels {
    provider: String,
    verb: &'static str,
    resource: String,
}

impl Labels {
    fn of<B>(provider: &ProviderId, request: &Request<B>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        let verb = match request.method().as_str() {
            "POST" => "create",
            "DELETE" => "delete",
            "GET" if query.split('&').any(|part| part == "watch=true") => "watch",
            "GET" if is_collection(request.uri().path()) => "list",
            "GET" => "get",
            _ => "other",
        };
        Self { provider: provider.to_string(), verb, resource: resource_of(request.uri().path()) }
    }

    fn is_watch(&self) -> bool {
        self.verb == "watch"
    }

    fn record(self, code: String, took: Duration) {
        let labels = [
            ("provider", self.provider),
            ("verb", self.verb.to_owned()),
            ("resource", self.resource),
            ("code", code),
        ];
        metrics::histogram!(REQUESTS, &labels).record(took);
    }
}

/// Whether an API path ends with a resource rather than with a name.
fn is_collection(path: &str) -> bool {
    let resource = resource_of(path);
    path.trim_end_matches('/').ends_with(&format!("/{resource}")) && !resource.contains('/')
}

/// The resource of an API path without the names in it: `pods`, `pods/log`, `secrets`.
fn resource_of(path: &str) -> String {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let group = parts.by_ref().take(1).last();
    let skip = if group == Some("apis") { 2 } else { 1 };
    let rest: Vec<_> = parts.skip(skip).collect();
    let rest = match rest.as_slice() {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    match rest {
        [resource, _, subresource, ..] => format!("{resource}/{subresource}"),
        [resource, ..] => (*resource).to_owned(),
        [] => "none".to_owned(),
    }
}

/// A worker's pod was accepted by the API.
pub(crate) fn worker_created(provider: &ProviderId, took: Duration) {
    metrics::histogram!(CREATE, "provider" => provider.to_string()).record(took);
}

/// A worker's container was seen running for the first time, this long after the pod was created.
pub(crate) fn worker_ready(provider: &ProviderId, took: Duration) {
    metrics::histogram!(READY, "provider" => provider.to_string()).record(took);
}

/// A worker's removal was confirmed.
pub(crate) fn worker_destroyed(provider: &ProviderId, took: Duration) {
    metrics::histogram!(DESTROY, "provider" => provider.to_string()).record(took);
}

/// A worker could not be made, or was seen failed.
pub(crate) fn worker_failed(provider: &ProviderId, cause: FailureCause) {
    let labels = [("provider", provider.to_string()), ("cause", cause.to_string())];
    metrics::counter!(FAILURES, &labels).increment(1);
}

/// The watch broke off with an error.
pub(crate) fn watch_interrupted(provider: &ProviderId) {
    let provider = provider.to_string();
    metrics::counter!(INTERRUPTIONS, "provider" => provider).increment(1);
}

/// How many workers the view holds.
pub(crate) fn live_workers(provider: &ProviderId, count: usize) {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    metrics::gauge!(LIVE, "provider" => provider.to_string()).set(count);
}

/// How long ago the watch heard from the API.
pub(crate) fn view_age(provider: &ProviderId, age: Duration) {
    metrics::gauge!(VIEW_AGE, "provider" => provider.to_string()).set(age.as_secs_f64());
}

/// A worker came through a stage of its start.
pub(crate) fn worker_stage(provider: &ProviderId, stage: Stage, took: Duration) {
    let labels = [("provider", provider.to_string()), ("stage", stage.as_str().to_owned())];
    metrics::histogram!(STAGE, &labels).record(took);
}

/// The watch began with a new list.
pub(crate) fn watch_restarted(provider: &ProviderId) {
    metrics::counter!(RESTARTS, "provider" => provider.to_string()).increment(1);
}

/// A request had to wait for its turn.
pub(crate) fn throttled(provider: &ProviderId, waited: Duration) {
    metrics::histogram!(THROTTLED, "provider" => provider.to_string()).record(waited);
}

#[cfg(test)]
#[path = "measure_tests.rs"]
mod tests;

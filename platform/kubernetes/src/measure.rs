//! What this provider measures, through the `metrics` facade. Names and labels in one place.

use std::time::{Duration, Instant};

use hodei_core::{failure::FailureCause, id::ProviderId};
use http::{Request, Response};
use kube::{Client, client::Body};

use crate::watch::Heard;

/// Longest time until the API server begins to answer. Admission webhooks may take 30 s in all.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);

/// The API server did not begin to answer in time.
#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
pub(crate) struct NoAnswer;

/// The same client with each request timed, counted and limited in time, the watch's included.
pub(crate) fn instrument(client: Client, provider: &ProviderId, heard: Heard) -> Client {
    let namespace = client.default_namespace().to_owned();
    let provider = provider.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let client = client.clone();
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
        metrics::histogram!("hodei_kubernetes_request_duration_seconds", &labels).record(took);
    }
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
    metrics::histogram!("hodei_worker_create_seconds", "provider" => provider.to_string())
        .record(took);
}

/// A worker's container was seen running for the first time, this long after the pod was created.
pub(crate) fn worker_ready(provider: &ProviderId, took: Duration) {
    metrics::histogram!("hodei_worker_ready_seconds", "provider" => provider.to_string())
        .record(took);
}

/// A worker's removal was confirmed.
pub(crate) fn worker_destroyed(provider: &ProviderId, took: Duration) {
    metrics::histogram!("hodei_worker_destroy_seconds", "provider" => provider.to_string())
        .record(took);
}

/// A worker could not be made, or was seen failed.
pub(crate) fn worker_failed(provider: &ProviderId, cause: FailureCause) {
    let labels = [("provider", provider.to_string()), ("cause", cause.to_string())];
    metrics::counter!("hodei_worker_failures_total", &labels).increment(1);
}

/// The watch broke off with an error.
pub(crate) fn watch_interrupted(provider: &ProviderId) {
    let provider = provider.to_string();
    metrics::counter!("hodei_kubernetes_watch_interruptions_total", "provider" => provider)
        .increment(1);
}

/// How many workers the view holds.
pub(crate) fn live_workers(provider: &ProviderId, count: usize) {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    metrics::gauge!("hodei_kubernetes_live_workers", "provider" => provider.to_string()).set(count);
}

/// How long ago the watch heard from the API.
pub(crate) fn view_age(provider: &ProviderId, age: Option<Duration>) {
    if let Some(age) = age {
        metrics::gauge!("hodei_kubernetes_view_age_seconds", "provider" => provider.to_string())
            .set(age.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_gets_into_a_label() {
        for (path, resource) in [
            ("/api/v1/namespaces/a/pods", "pods"),
            ("/api/v1/namespaces/a/pods/x", "pods"),
            ("/api/v1/namespaces/a/pods/x/log", "pods/log"),
            ("/api/v1/nodes", "nodes"),
            ("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", "selfsubjectrulesreviews"),
            ("/version", "none"),
        ] {
            assert_eq!(resource_of(path), resource, "{path}");
        }
    }
}

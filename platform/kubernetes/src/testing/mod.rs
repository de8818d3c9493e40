//! A fake API server for the tests of this crate: it keeps objects, counts requests, serves lists and
//! watches of any resource with resource versions, and fails on demand. It has no kubelet: a test plays it.

mod body;
mod store;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use hodei_core::{id::ProviderId, provider::WorkerSpec, secret::Secret, spec::Resources};
use http::{Request, Response};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::sync::watch;

pub(crate) use self::{
    body::{End, Streamed},
    store::parameter,
};
use self::{
    body::{FakeBody, full, later},
    store::Store,
};
use crate::{KubernetesConfig, KubernetesProvider, api::RetryPolicy};

pub(crate) fn provider_id() -> ProviderId {
    "k8s-test".parse().unwrap()
}

pub(crate) fn make_spec() -> WorkerSpec {
    WorkerSpec {
        worker: "0190b3a2-0000-7000-8000-000000000001".parse().unwrap(),
        attempt: None,
        image: None,
        resources: Resources::default(),
        server_address: "http://host.docker.internal:50051".to_owned(),
        otp: Secret::generate(),
        labels: BTreeMap::new(),
        env: BTreeMap::new(),
        avoid_nodes: Vec::new(),
        deadline: None,
    }
}

/// What a prepared failure does instead of the real answer.
#[derive(Clone)]
pub(crate) enum Fault {
    /// This answer, and no effect.
    Answer { code: u16, body: String, retry_after: Option<u32> },
    /// The connection breaks before the request has its effect.
    Broken,
    /// The request has its effect, and the connection breaks before the answer.
    AnswerLost,
    /// No answer ever comes, and the request has no effect.
    Silent,
    /// The answer begins and goes on as the test wants.
    Streamed(Streamed),
}

impl Fault {
    pub(crate) fn status(code: u16, reason: &str, message: &str) -> Self {
        let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
            "code": code, "reason": reason, "message": message});
        Self::Answer { code, body: body.to_string(), retry_after: None }
    }
}

#[derive(Default)]
struct State {
    store: Store,
    requests: Vec<String>,
    faults: Vec<(String, Fault)>,
    /// What every request of a kind meets.
    lasting: BTreeMap<String, Fault>,
    logs: Option<LogScript>,
}

/// Answers a request for a log by its query.
type LogScript = Box<dyn FnMut(&str) -> Fault + Send>;

/// The fake. Clones are the same cluster.
#[derive(Clone)]
pub(crate) struct FakeCluster {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

impl FakeCluster {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), changed: watch::Sender::new(()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A provider on this cluster that retries quickly.
    pub(crate) fn provider(&self, config: KubernetesConfig) -> KubernetesProvider {
        let retry = RetryPolicy {
            first: Duration::from_millis(1),
            longest: Duration::from_millis(1500),
            tries: 4,
        };
        KubernetesProvider::assemble(provider_id(), config, self.client(), None, retry)
    }

    fn client(&self) -> Client {
        let cluster = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let cluster = cluster.clone();
            async move { cluster.serve(request).await }
        });
        Client::new(service, "default")
    }

    /// The next request of this kind (`POST pods`, `DELETE secrets`, …) fails so.
    pub(crate) fn fail_next(&self, kind: &str, fault: Fault) {
        self.state().faults.push((kind.to_owned(), fault));
    }

    /// Every request of this kind fails so, until it is told otherwise.
    pub(crate) fn fail_always(&self, kind: &str, fault: Option<Fault>) {
        let mut state = self.state();
        match fault {
            Some(fault) => state.lasting.insert(kind.to_owned(), fault),
            None => state.lasting.remove(kind),
        };
    }

    /// Answers every request for a log.
    pub(crate) fn serve_logs(&self, script: impl FnMut(&str) -> Fault + Send + 'static) {
        self.state().logs = Some(Box::new(script));
    }

    /// How many requests of a kind there were, the shared watch's included.
    pub(crate) fn count(&self, kind: &str) -> usize {
        self.state().requests.iter().filter(|one| *one == kind).count()
    }

    /// Requests so far, but for the shared watch: `POST pods`, `GET pods/name`, …
    pub(crate) fn requests(&self) -> Vec<String> {
        let state = self.state();
        let shared = |kind: &&String| *kind == "WATCH pods" || *kind == "LIST pods";
        state.requests.iter().filter(|kind| !shared(kind)).cloned().collect()
    }

    /// Names of all objects of a resource.
    pub(crate) fn names(&self, resource: &str) -> Vec<String> {
        self.state().store.names(resource)
    }

    /// Puts an object there, as anybody else may do.
    pub(crate) fn put(&self, resource: &str, object: Value) {
        self.state().store.put(resource, object);
        self.changed.send_replace(());
    }

    /// Plays kubelet or operator: changes the object, or removes it where `change` says `false`.
    pub(crate) fn change(
        &self,
        resource: &str,
        name: &str,
        change: impl FnOnce(&mut Value) -> bool,
    ) {
        self.state().store.change(resource, name, change);
        self.changed.send_replace(());
    }

    /// Makes pods stay, being deleted, until a test removes them.
    pub(crate) fn keep_deleted_pods(&self) {
        self.state().store.keeps_deleted_pods = true;
    }

    /// Answers every `GET`, or `POST` that makes nothing, of this path with this body.
    pub(crate) fn answer(&self, path: &str, body: Value) {
        self.state().store.fixed.insert(path.to_owned(), body);
    }

    fn fault_of(&self, kind: &str, query: &str) -> Option<Fault> {
        let mut state = self.state();
        state.requests.push(kind.to_owned());
        let found = state.faults.iter().position(|(wanted, _)| wanted == kind);
        if let Some(index) = found {
            return Some(state.faults.remove(index).1);
        }
        if let Some(fault) = state.lasting.get(kind) {
            return Some(fault.clone());
        }
        let logs = state.logs.as_mut().filter(|_| kind == "GET pods/log");
        logs.map(|script| script(query))
    }

    async fn serve(&self, request: Request<Body>) -> Result<Response<FakeBody>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let query = parts.uri.query().unwrap_or_default();
        let path = parts.uri.path().to_owned();
        let kind = store::kind_of(parts.method.as_str(), &path, query);
        let fault = self.fault_of(&kind, query);
        let broken = || Err(std::io::Error::other(format!("connection reset during {path}")));
        match fault {
            Some(Fault::Broken) => return broken(),
            Some(Fault::Silent) => std::future::pending().await,
            Some(Fault::Streamed(streamed)) => return Ok(Response::new(streamed.into_body())),
            Some(Fault::Answer { code, body, retry_after }) => {
                let mut response = Response::builder().status(code);
                if let Some(seconds) = retry_after {
                    response = response.header("Retry-After", seconds);
                }
                return Ok(response.body(full(body)).unwrap());
            }
            Some(Fault::AnswerLost) | None => {}
        }
        if let Some(resource) = kind.strip_prefix("WATCH ")
            && fault.is_none()
        {
            let (cluster, resource, query) = (self.clone(), resource.to_owned(), query.to_owned());
            let told = async move { cluster.serve_watch(&resource, &query).await };
            return Ok(Response::new(later(told)));
        }
        let (code, answer) = self.state().store.serve(parts.method.as_str(), &path, query, &body);
        self.changed.send_replace(());
        if matches!(fault, Some(Fault::AnswerLost)) {
            return broken();
        }
        Ok(Response::builder().status(code).body(full(answer)).unwrap())
    }

    /// A watch that ends as soon as it has told something, or after the time it was asked for.
    async fn serve_watch(&self, resource: &str, query: &str) -> String {
        let mut changed = self.changed.subscribe();
        let number = |name| store::parameter(query, name).and_then(|text| text.parse().ok());
        let from = number("resourceVersion").unwrap_or(0);
        let lasts = Duration::from_secs(number("timeoutSeconds").unwrap_or(290));
        let told = async {
            loop {
                let told = self.state().store.changes_since(resource, from);
                if !told.is_empty() {
                    return told;
                }
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(lasts, told).await.unwrap_or_default()
    }
}

//! A fake API server for the tests of this crate: it keeps objects, counts requests, serves lists and
//! watches of any resource with resource versions, and fails on demand. It has no kubelet: a test plays it.

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

use self::store::Store;
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
}

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

    async fn serve(&self, request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let query = parts.uri.query().unwrap_or_default();
        let path = parts.uri.path().to_owned();
        let kind = store::kind_of(parts.method.as_str(), &path, query);
        let fault = {
            let mut state = self.state();
            state.requests.push(kind.clone());
            let found = state.faults.iter().position(|(wanted, _)| *wanted == kind);
            found.map(|index| state.faults.remove(index).1)
        };
        let broken = || Err(std::io::Error::other(format!("connection reset during {path}")));
        match fault {
            Some(Fault::Broken) => return broken(),
            Some(Fault::Answer { code, body, retry_after }) => {
                let mut response = Response::builder().status(code);
                if let Some(seconds) = retry_after {
                    response = response.header("Retry-After", seconds);
                }
                return Ok(response.body(Body::from(body.into_bytes())).unwrap());
            }
            Some(Fault::AnswerLost) | None => {}
        }
        let (code, answer) = if let Some(resource) = kind.strip_prefix("WATCH ") {
            (200, self.serve_watch(resource, query).await)
        } else {
            let answer = self.state().store.serve(parts.method.as_str(), &path, query, &body);
            self.changed.send_replace(());
            answer
        };
        if matches!(fault, Some(Fault::AnswerLost)) {
            return broken();
        }
        Ok(Response::builder().status(code).body(Body::from(answer.into_bytes())).unwrap())
    }

    /// A watch as a long poll: answered and closed as soon as there is something to tell.
    async fn serve_watch(&self, resource: &str, query: &str) -> String {
        let mut changed = self.changed.subscribe();
        let from = store::parameter(query, "resourceVersion").unwrap_or_default();
        loop {
            let told = self.state().store.changes_since(resource, from.parse().unwrap_or(0));
            if !told.is_empty() {
                return told;
            }
            changed.changed().await.unwrap();
        }
    }
}

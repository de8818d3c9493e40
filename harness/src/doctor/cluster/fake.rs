//! A fake API server for the doctor: a namespace, its nodes and bounds, who may do what, what admission
//! refuses, and how pods end. What is made in it is kept until it is deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// How the fake behaves; the default is a good cluster of two nodes.
pub(super) struct Behaviour {
    pub(super) minor: &'static str,
    pub(super) denied: BTreeSet<&'static str>,
    pub(super) namespace: Option<Value>,
    /// Why admission refuses a worker, one that may be root, a privileged one.
    pub(super) refusals: [Option<&'static str>; 3],
    pub(super) quota: Option<Value>,
    pub(super) range: Option<Value>,
    pub(super) nodes: Vec<Value>,
    /// What a probe's status is; by its node, or by "".
    pub(super) ends: BTreeMap<&'static str, Value>,
    pub(super) said: &'static str,
    pub(super) warning: Option<&'static str>,
    /// Whether the answer to a create is lost on its way.
    pub(super) loses_creates: bool,
    /// Whatever is asked gets no answer but this code.
    pub(super) broken: Option<u16>,
}

pub(super) const RESTRICTED: &str =
    "violates PodSecurity \"restricted:latest\": runAsNonRoot != true";

pub(super) fn node(name: &str, spec: Value) -> Value {
    let conditions = json!([{"type": "Ready", "status": "True"}]);
    json!({"metadata": {"name": name}, "spec": spec, "status": {"conditions": conditions}})
}

pub(super) fn exited(code: i32) -> Value {
    state(json!({"terminated": {"exitCode": code}}))
}

pub(super) fn waits(reason: &str, words: &str) -> Value {
    state(json!({"waiting": {"reason": reason, "message": words}}))
}

fn state(state: Value) -> Value {
    json!({"phase": "Pending", "containerStatuses": [{"name": "agent", "image": "i", "imageID": "",
        "ready": false, "restartCount": 0, "state": state}]})
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            minor: "34",
            denied: BTreeSet::new(),
            namespace: Some(json!({"metadata": {"name": "workers", "labels": {
                "pod-security.kubernetes.io/enforce": "restricted"}}, "status": {"phase": "Active"}})),
            refusals: [None, Some(RESTRICTED), Some(RESTRICTED)],
            quota: None,
            range: None,
            nodes: vec![node("a", json!({})), node("b", json!({}))],
            ends: BTreeMap::from([("", exited(0))]),
            said: "",
            warning: None,
            loses_creates: false,
            broken: None,
        }
    }
}

/// The fake. Clones are the same cluster.
#[derive(Clone)]
pub(super) struct FakeApi {
    behaviour: Arc<Behaviour>,
    pods: Arc<Mutex<BTreeMap<String, Value>>>,
    /// Every pod that was made, by its node.
    pub(super) made: Arc<Mutex<Vec<Value>>>,
}

impl FakeApi {
    pub(super) fn new(behaviour: Behaviour) -> Self {
        Self { behaviour: Arc::new(behaviour), pods: Arc::default(), made: Arc::default() }
    }

    pub(super) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| api.clone().answer(request));
        Client::new(service, "default")
    }

    /// Listens on loopback for as long as the test lasts; the kubeconfig by which it is reached.
    pub(super) async fn listen(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let api = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let api = api.clone();
                let service =
                    hyper::service::service_fn(move |request| api.clone().answer(request));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        format!(
            "clusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}]\n\
             users: [{{name: u, user: {{}}}}]\n\
             contexts: [{{name: fake, context: {{cluster: c, user: u}}}}]\n\
             current-context: fake\n"
        )
    }

    async fn answer<B>(self, request: Request<B>) -> std::io::Result<Response<Full<Bytes>>>
    where
        B: http_body_util::BodyExt<Error: std::fmt::Debug>,
    {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let query = parts.uri.query().unwrap_or_default();
        let (code, answer) = self.serve(parts.method.as_str(), parts.uri.path(), query, &body);
        let answer = Full::new(Bytes::from(answer));
        Ok(Response::builder().status(code).body(answer).unwrap())
    }

    /// Pods that are there.
    pub(super) fn left(&self) -> Vec<String> {
        self.pods.lock().unwrap().keys().cloned().collect()
    }

    fn serve(&self, method: &str, path: &str, query: &str, body: &[u8]) -> (u16, String) {
        let behaviour = &self.behaviour;
        if let Some(code) = behaviour.broken {
            return refusal(code, "Unauthorized");
        }
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let items = |items: Vec<Value>| (200, json!({"metadata": {}, "items": items}).to_string());
        let namespaced = path.strip_prefix("/api/v1/namespaces/workers").unwrap_or_default();
        match (method, path, namespaced) {
            ("GET", "/version", _) => (200, self.version()),
            ("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", _) => {
                let info = json!({"username": "jane"});
                (201, json!({"metadata": {}, "status": {"userInfo": info}}).to_string())
            }
            ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", _) => {
                (201, self.review(body))
            }
            ("GET", "/api/v1/nodes", _) if behaviour.denied.contains("list nodes") => {
                refusal(403, "nodes is forbidden: User \"jane\" cannot list resource \"nodes\"")
            }
            ("GET", "/api/v1/nodes", _) => items(behaviour.nodes.clone()),
            ("GET", "/api/v1/namespaces/workers", _) => match &behaviour.namespace {
                Some(namespace) => (200, namespace.to_string()),
                None => refusal(404, "namespaces \"workers\" not found"),
            },
            ("GET", _, "/resourcequotas") => items(behaviour.quota.clone().into_iter().collect()),
            ("GET", _, "/limitranges") => items(behaviour.range.clone().into_iter().collect()),
            ("GET", _, "/events") => items(self.events()),
            ("POST", _, "/pods") => self.create(body, query.contains("dryRun")),
            (_, _, pod) => match pod.strip_prefix("/pods/") {
                Some(name) => self.pod(method, name),
                None => refusal(404, path),
            },
        }
    }

    fn version(&self) -> String {
        let minor = self.behaviour.minor;
        json!({"major": "1", "minor": minor, "gitVersion": format!("v1.{minor}.0"), "gitCommit": "",
            "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": ""})
        .to_string()
    }

    fn review(&self, mut body: Value) -> String {
        let asked = &body["spec"]["resourceAttributes"];
        let text = |key: &str| asked[key].as_str().unwrap_or_default().to_owned();
        let resource = match text("subresource") {
            sub if sub.is_empty() => text("resource"),
            sub => format!("{}/{sub}", text("resource")),
        };
        let right = format!("{} {resource}", text("verb"));
        body["status"] = json!({"allowed": !self.behaviour.denied.contains(right.as_str())});
        body.to_string()
    }

    fn events(&self) -> Vec<Value> {
        let warning = self.behaviour.warning.iter();
        let event = |words: &&str| {
            json!({"metadata": {"name": "e"}, "involvedObject": {}, "type": "Warning",
                "reason": "FailedCreatePodSandBox", "message": words})
        };
        warning.map(event).collect()
    }

    fn create(&self, mut body: Value, dry_run: bool) -> (u16, String) {
        let security = &body["spec"]["containers"][0]["securityContext"];
        let kind = match (&security["privileged"], &security["runAsNonRoot"]) {
            (Value::Bool(true), _) => 2,
            (_, Value::Bool(true)) => 0,
            _ => 1,
        };
        let name = body["metadata"]["name"].as_str().unwrap().to_owned();
        if let Some(words) = self.behaviour.refusals[kind] {
            return refusal(403, &format!("pods {name:?} is forbidden: {words}"));
        }
        if !dry_run {
            body["metadata"]["uid"] = json!(format!("uid-{name}"));
            let field = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
            let node = body.pointer(field).and_then(Value::as_str).unwrap_or_default();
            let ends = &self.behaviour.ends;
            body["status"] = ends.get(node).or_else(|| ends.get("")).cloned().unwrap_or_default();
            self.made.lock().unwrap().push(body.clone());
            self.pods.lock().unwrap().insert(name, body.clone());
            if self.behaviour.loses_creates {
                return refusal(
                    504,
                    "the server was unable to return a response in the time allotted",
                );
            }
        }
        (201, body.to_string())
    }

    fn pod(&self, method: &str, name: &str) -> (u16, String) {
        if name.ends_with("/log") {
            return (200, self.behaviour.said.to_owned());
        }
        let mut pods = self.pods.lock().unwrap();
        let found = if method == "DELETE" { pods.remove(name) } else { pods.get(name).cloned() };
        match found {
            Some(pod) => (200, pod.to_string()),
            None => refusal(404, &format!("pods {name:?} not found")),
        }
    }
}

fn refusal(code: u16, words: &str) -> (u16, String) {
    let reason = if code == 404 { "NotFound" } else { "Forbidden" };
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": reason, "message": words});
    (code, status.to_string())
}

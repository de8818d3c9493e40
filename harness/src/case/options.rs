//! What a case asks for, beside the usual.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

/// From the beginning of a case's body to its end, unless it says otherwise.
const DEADLINE: Duration = Duration::from_secs(180);

/// What a case asks for.
#[derive(Debug, Clone)]
pub struct CaseOptions {
    pub(super) server: bool,
    pub(super) provider: Option<Map<String, Value>>,
    pub(super) pool: Option<Value>,
    pub(super) server_arguments: Vec<String>,
    pub(super) server_environment: BTreeMap<String, String>,
    pub(super) deadline: Duration,
    pub(super) pod_quota: u32,
    pub(super) api_proxy: bool,
    pub(super) link_proxy: bool,
    pub(super) replica: bool,
    pub(super) tls: bool,
}

impl Default for CaseOptions {
    fn default() -> Self {
        Self {
            server: true,
            provider: Some(Map::new()),
            pool: None,
            server_arguments: Vec::new(),
            server_environment: BTreeMap::new(),
            deadline: DEADLINE,
            pod_quota: 80,
            api_proxy: false,
            link_proxy: false,
            replica: false,
            tls: false,
        }
    }
}

impl CaseOptions {
    /// A namespace, a database, a server with short heartbeats, and a provider named `kind`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A namespace with its policies and nothing else: no database, server or provider.
    #[must_use]
    pub fn cluster_only() -> Self {
        Self { server: false, provider: None, ..Self::default() }
    }

    /// A server to which the case registers providers itself.
    #[must_use]
    pub fn without_provider(mut self) -> Self {
        self.provider = None;
        self
    }

    /// Sets a field of the provider's configuration, over the harness's own choice.
    #[must_use]
    pub fn provider(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.provider.get_or_insert_default().insert(field.to_owned(), value.into());
        self
    }

    /// Lets the provider keep from `minimum` to `maximum` pooled workers, each for so many seconds
    /// without work.
    #[must_use]
    pub fn pool(mut self, minimum: usize, maximum: usize, idle_seconds: u32) -> Self {
        self.pool =
            Some(json!({"minimum": minimum, "maximum": maximum, "idle_seconds": idle_seconds}));
        self
    }

    /// Adds an argument of `hodei-server` with its value; the last one of a name counts.
    #[must_use]
    pub fn server_argument(mut self, flag: &str, value: impl Into<String>) -> Self {
        self.server_arguments.retain(|argument| !argument.starts_with(&format!("{flag}=")));
        self.server_arguments.push(format!("{flag}={}", value.into()));
        self
    }

    /// Sets a variable of `hodei-server`.
    #[must_use]
    pub fn server_variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.server_environment.insert(name.to_owned(), value.into());
        self
    }

    /// Gives the case's body this long in all, instead of three minutes.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Puts a fault proxy between the case's provider and the Kubernetes API:
    /// [`CaseEnv::api_proxy`](super::CaseEnv::api_proxy). Feature `fault-proxy`.
    #[must_use]
    pub fn api_proxy(mut self) -> Self {
        self.api_proxy = true;
        self
    }

    /// Sends workers to the server through a fault proxy:
    /// [`CaseEnv::link_proxy`](super::CaseEnv::link_proxy). Feature `fault-proxy`.
    #[must_use]
    pub fn link_proxy(mut self) -> Self {
        self.link_proxy = true;
        self
    }

    /// Starts a second replica of the server on the same database, and sends workers to both
    /// through the proxy of [`Self::link_proxy`]: [`CaseEnv::replica`](super::CaseEnv::replica).
    #[must_use]
    pub fn replica(mut self) -> Self {
        self.replica = true;
        self
    }

    /// Serves gRPC with a certificate of the case's own authority:
    /// [`CaseEnv::authority`](super::CaseEnv::authority).
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// At most this many pods in the namespace.
    #[must_use]
    pub fn pod_quota(mut self, pods: u32) -> Self {
        self.pod_quota = pods;
        self
    }
}

//! The port through which the control plane gets and removes workers. An adapter (Kubernetes today)
//! stands behind it; nothing here knows which.

mod offer;

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::offer::{
    Fulfilment, GpuOffer, GpuRequest, NodeCount, ProviderCapabilities, Requirements,
    StartupEstimate, StartupTime,
};
use crate::{
    failure::{Failure, FailureCause},
    id::{AttemptKey, ProviderId, WorkerId},
    secret::Secret,
    spec::Resources,
};

/// The worker that is wanted.
#[derive(Debug, Clone)]
pub struct WorkerSpec {
    /// The worker's identity; creating the same one twice gives one worker.
    pub worker: WorkerId,
    /// The attempt it is made for, when it is made for one; shown as labels.
    pub attempt: Option<AttemptKey>,
    /// Image of the agent; `None` for the provider's.
    pub image: Option<String>,
    /// What it needs; each `None` is the provider's default.
    pub resources: Resources,
    /// Where the agent finds the control plane: `http://host:port` or `https://host:port`.
    pub server_address: String,
    /// The one-time password the agent registers with.
    pub otp: Secret,
    /// Labels of the user. They can't override the provider's own.
    pub labels: BTreeMap<String, String>,
    /// Environment of the agent (not of the job), beside what the provider sets. No secrets.
    pub env: BTreeMap<String, String>,
    /// Nodes it is put on only if there is no other, as [`ObservedWorker::node`] names them: earlier
    /// workers of its job were lost there.
    pub avoid_nodes: Vec<String>,
    /// The hard end of the worker's life, enforced by the cluster even if the control plane is gone.
    pub deadline: Option<Duration>,
}

/// A worker that was created.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WorkerHandle {
    /// Which worker.
    pub worker: WorkerId,
    /// The provider's name for it (the pod's name).
    pub resource: String,
    /// The provider's unique id of this very resource (the pod's UID); fences a namesake.
    pub uid: String,
}

/// What the provider sees of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerPhase {
    /// Not on a node yet.
    Pending,
    /// On a node; the container does not run yet.
    Starting,
    /// The container runs.
    Running,
    /// The container ended by itself with exit code 0.
    Succeeded,
    /// It will not do its work any more, or can't begin it.
    Failed(Failure),
    /// It is being removed.
    Terminating,
    /// Nothing of it is left.
    Gone,
}

/// One worker as the provider sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedWorker {
    /// Which worker, and which resource it is.
    pub handle: WorkerHandle,
    /// Where it stands.
    pub phase: WorkerPhase,
    /// How often its container was restarted.
    pub restarts: u32,
    /// The node it is on.
    pub node: Option<String>,
    /// The attempt it was made for, read back from its labels.
    pub attempt: Option<AttemptKey>,
    /// When the provider made it.
    pub created_at: Option<Timestamp>,
    /// What it waits for, in the cluster's words, where it says so of a worker that does not run yet.
    pub waiting_for: Option<String>,
}

impl ObservedWorker {
    /// A worker of which nothing is left.
    #[must_use]
    pub fn gone(handle: WorkerHandle) -> Self {
        Self {
            handle,
            phase: WorkerPhase::Gone,
            restarts: 0,
            node: None,
            attempt: None,
            created_at: None,
            waiting_for: None,
        }
    }
}

/// What a provider tells its subscribers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderEvent {
    /// A worker was seen in a new condition.
    Changed(ObservedWorker),
    /// The view was rebuilt, or events may have been missed: compare with `list_workers`.
    Resynced,
}

/// How long ago the truth was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staleness(pub Duration);

/// A status, and how old the view it was read from is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerStatus {
    /// What was seen.
    pub observed: ObservedWorker,
    /// Time since the watch last heard from the API.
    pub staleness: Staleness,
}

/// Which lines of a worker's own log are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Only this many lines from the end.
    pub tail: Option<u32>,
    /// Only lines from this moment on.
    pub since: Option<Timestamp>,
    /// Of the container before the last restart.
    pub previous: bool,
}

/// One line of a worker's own log (the agent's, not the job's).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// When the cluster took the line; `None` where it did not say.
    pub time: Option<Timestamp>,
    /// The line without its end.
    pub line: String,
}

/// How a provider failed to do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {subject}: {failure}")]
pub struct ProviderError {
    /// What was being done: `create worker`, `destroy worker`, …
    pub operation: &'static str,
    /// To what.
    pub subject: String,
    /// Why it failed.
    pub failure: Failure,
    /// How long to wait before it makes sense to try again, where the provider said so.
    pub retry_after: Option<Duration>,
    /// The error underneath.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl ProviderError {
    /// The kind of failure.
    #[must_use]
    pub fn cause(&self) -> FailureCause {
        self.failure.cause
    }
}

/// Which of the ways to a cluster is broken; each needs the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStage {
    /// The API server's name does not resolve.
    Dns,
    /// Nothing accepts connections there.
    Tcp,
    /// The certificate is not one we trust.
    Tls,
    /// The API server does not know us.
    Authentication,
    /// We may not do what we have to.
    Authorization,
    /// The API server or the namespace does not work as it should.
    Api,
}

impl fmt::Display for HealthStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "DNS",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Authentication => "authentication",
            Self::Authorization => "authorization",
            Self::Api => "API",
        })
    }
}

/// A provider that can't work, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{stage} failed: {message}")]
pub struct Unhealthy {
    /// The first stage that failed.
    pub stage: HealthStage,
    /// What was seen and what to do.
    pub message: String,
}

/// Something that makes workers.
///
/// All operations are idempotent: they may be repeated after a crash with the same arguments.
#[async_trait]
pub trait WorkerProvider: Send + Sync + 'static {
    /// The name it is registered under.
    fn id(&self) -> &ProviderId;

    /// Whether it can work now.
    ///
    /// # Errors
    /// The first stage that failed, with what to do.
    async fn health_check(&self) -> Result<(), Unhealthy>;

    /// Makes a worker, or adopts the one of this id that this provider made before.
    ///
    /// # Errors
    /// `Conflict` for a namesake that is not ours; otherwise what the cluster answered.
    async fn create_worker(&self, spec: &WorkerSpec) -> Result<WorkerHandle, ProviderError>;

    /// Removes the worker's one-time password from the cluster. Call it once it is registered.
    ///
    /// # Errors
    /// When the cluster refuses or does not answer.
    async fn discard_otp(&self, worker: WorkerId) -> Result<(), ProviderError>;

    /// The worker as last seen by the shared watch: no API request is made.
    ///
    /// # Errors
    /// When the watch has never been in step with the cluster.
    async fn worker_status(&self, handle: &WorkerHandle) -> Result<WorkerStatus, ProviderError>;

    /// Removes the worker and all that belongs to it, and waits for the confirmation.
    ///
    /// A worker that is gone already is a success; one of the same name with another UID is not touched.
    ///
    /// # Errors
    /// When it is still there after the grace period and the confirmation deadline.
    async fn destroy_worker(&self, handle: &WorkerHandle) -> Result<(), ProviderError>;

    /// Removes whatever exists under a worker's id, for a worker whose handle was never learnt
    /// because the control plane died while it was created. Nothing there is a success.
    ///
    /// # Errors
    /// As for [`Self::destroy_worker`].
    async fn destroy_unknown(&self, worker: WorkerId) -> Result<(), ProviderError>;

    /// Lines of the worker's own log; none yet is an empty answer.
    ///
    /// # Errors
    /// When the cluster refuses or does not answer.
    async fn worker_logs(
        &self,
        handle: &WorkerHandle,
        query: LogQuery,
    ) -> Result<Vec<LogEntry>, ProviderError>;

    /// Lines of the worker's own log, each once and in order, as they are written; the stream ends
    /// when the container has ended and everything was read. It waits where there is no log yet,
    /// and goes on by itself after a lost connection. Dropping it ends the request.
    ///
    /// With `tail` it begins with that many lines, and with `previous` it ends with the log of that
    /// container. A place where the cluster may have thrown lines away is an entry without a time.
    ///
    /// # Errors
    /// The last item, when the cluster refuses, or the worker went before its log was read.
    fn follow_worker_logs(
        &self,
        handle: &WorkerHandle,
        query: LogQuery,
    ) -> BoxStream<'static, Result<LogEntry, ProviderError>>;

    /// Every worker that this provider owns, as last seen by the shared watch.
    ///
    /// # Errors
    /// When the watch has never been in step with the cluster.
    async fn list_workers(&self) -> Result<Vec<ObservedWorker>, ProviderError>;

    /// What it can offer, from memory; only the first call waits for the cluster.
    ///
    /// # Errors
    /// When the cluster has not been seen yet.
    async fn capabilities(&self) -> Result<ProviderCapabilities, ProviderError>;

    /// Whether these requirements can be met, from memory.
    ///
    /// A yes to an architecture, a system, a region or a GPU model says that there is such a node, not
    /// that the worker will be put there: that is for the provider's own node selector.
    ///
    /// # Errors
    /// When the cluster has not been seen yet, or not for so long that the view can't be trusted.
    async fn can_fulfill(&self, needs: &Requirements) -> Result<Fulfilment, ProviderError>;

    /// How long a worker of this image (`None`: the provider's) takes to start, by the provider's own
    /// measurements of late.
    fn estimated_startup_time(&self, image: Option<&str>) -> StartupEstimate;

    /// How long a worker that has done its work is kept for somebody to look at; it takes no room of a
    /// quota then. `None` removes it at once.
    fn keeps_finished(&self) -> Option<Duration> {
        None
    }

    /// Changes from now on. A slow subscriber gets [`ProviderEvent::Resynced`] for what it missed.
    fn subscribe(&self) -> BoxStream<'static, ProviderEvent>;
}

//! Why a worker or an attempt failed: a closed list, so that a retry policy, a metric and a report
//! agree on what happened.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What made a worker fail, as the provider or the control plane saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCause {
    /// The image could not be pulled: missing, no access, registry away.
    ImagePull,
    /// The image's name is not a name.
    InvalidImage,
    /// The container could not be configured: a missing Secret, ConfigMap or key.
    ContainerConfig,
    /// No node can take the worker.
    Unschedulable,
    /// A quota is full.
    Quota,
    /// An admission rule refused the worker.
    Admission,
    /// The control plane may not do what it has to.
    Forbidden,
    /// Something of this name exists and is not ours.
    Conflict,
    /// The container ends and is restarted again and again.
    CrashLoop,
    /// The agent ended before its work was done.
    AgentExited,
    /// The kernel killed the container at its memory limit.
    OutOfMemory,
    /// The kubelet evicted the worker.
    Evicted,
    /// A worker of higher priority took its place.
    Preempted,
    /// The node is gone or does not answer.
    NodeLost,
    /// The worker ran past its deadline.
    Deadline,
    /// Somebody else deleted the worker.
    DeletedExternally,
    /// The worker did not register in time.
    StartupTimeout,
    /// The worker's lease ran out: no word from it.
    LeaseExpired,
    /// The provider's API does not answer.
    ApiUnavailable,
    /// The provider reported something this version does not know.
    Unknown,
}

impl FailureCause {
    /// The stable name used in the store, metrics and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ImagePull => "image_pull",
            Self::InvalidImage => "invalid_image",
            Self::ContainerConfig => "container_config",
            Self::Unschedulable => "unschedulable",
            Self::Quota => "quota",
            Self::Admission => "admission",
            Self::Forbidden => "forbidden",
            Self::Conflict => "conflict",
            Self::CrashLoop => "crash_loop",
            Self::AgentExited => "agent_exited",
            Self::OutOfMemory => "out_of_memory",
            Self::Evicted => "evicted",
            Self::Preempted => "preempted",
            Self::NodeLost => "node_lost",
            Self::Deadline => "deadline",
            Self::DeletedExternally => "deleted_externally",
            Self::StartupTimeout => "startup_timeout",
            Self::LeaseExpired => "lease_expired",
            Self::ApiUnavailable => "api_unavailable",
            Self::Unknown => "unknown",
        }
    }

    /// Whether another attempt may fare better with nothing changed by a person.
    ///
    /// A wrong image name or a refused pod stays wrong; a lost node does not.
    #[must_use]
    pub fn is_transient(self) -> bool {
        !matches!(
            self,
            Self::ImagePull
                | Self::InvalidImage
                | Self::ContainerConfig
                | Self::Unschedulable
                | Self::Admission
                | Self::Forbidden
                | Self::Conflict
                | Self::CrashLoop
                | Self::OutOfMemory
                | Self::Deadline
        )
    }
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failure with the words of whoever saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind of failure.
    pub cause: FailureCause,
    /// Reason and message as the cluster gave them, for a person.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cause, self.message)
    }
}

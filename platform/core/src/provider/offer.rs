//! What a provider can offer, and its answer to what a job needs.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::Staleness;
use crate::spec::Resources;

/// What a provider can offer.
///
/// What a worker can have at most counts every node that admits workers, also one that is cordoned
/// or not ready: it may come back, and what can wait for it must not be refused for ever.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProviderCapabilities {
    /// CPU of the largest single worker, in thousandths of a core; `None` where nothing bounds it or
    /// the bound is not known.
    pub max_cpu_millis: Option<u64>,
    /// Memory of the largest single worker, in bytes; `None` as above.
    pub max_memory_bytes: Option<u64>,
    /// How many more workers fit the quota; `None` without one.
    pub free_workers: Option<u64>,
    /// CPU requests that the quota leaves, in thousandths of a core; `None` without one.
    pub free_cpu_millis: Option<u64>,
    /// Memory requests that the quota leaves, in bytes; `None` without one.
    pub free_memory_bytes: Option<u64>,
    /// The nodes; `None` where they are not known.
    pub nodes: Option<NodeCount>,
    /// GPUs by extended resource.
    pub gpus: BTreeMap<String, GpuOffer>,
    /// Architectures as Kubernetes names them (`amd64`, `arm64`).
    pub architectures: Vec<String>,
    /// Operating systems as Kubernetes names them.
    pub operating_systems: Vec<String>,
    /// Regions by the well-known label.
    pub regions: Vec<String>,
    /// Zones by the well-known label.
    pub zones: Vec<String>,
    /// What may not be read (`nodes`, `resourcequotas`, `limitranges`), with the words of the
    /// cluster: the numbers lack its bounds.
    pub unknown: BTreeMap<String, String>,
    /// How old the view is that this was read from.
    pub staleness: Staleness,
}

/// How many nodes there are for workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCount {
    /// In the whole cluster.
    pub total: usize,
    /// Whose labels and taints admit workers.
    pub admitting: usize,
    /// Of these, ready and not cordoned.
    pub schedulable: usize,
}

/// The GPUs of one extended resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuOffer {
    /// Most that one worker can have.
    pub max_per_worker: u64,
    /// Models, by the labels that vendors and clouds give to nodes.
    pub models: Vec<String>,
}

/// What a job needs of a provider.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirements {
    /// Requests and limits.
    pub resources: Resources,
    /// The architecture, when it matters.
    pub architecture: Option<String>,
    /// The operating system, when it matters.
    pub operating_system: Option<String>,
    /// GPUs, when there have to be some.
    pub gpu: Option<GpuRequest>,
    /// The region, when it matters.
    pub region: Option<String>,
}

/// GPUs that are needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuRequest {
    /// The extended resource: `nvidia.com/gpu`.
    pub resource: String,
    /// How many.
    pub count: u64,
    /// The model as the node's label spells it, when it matters.
    pub model: Option<String>,
}

/// Whether a need can be met. Each no says which resource, how much is wanted, how much there is, and
/// what bounds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fulfilment {
    /// Now, as far as can be seen.
    Yes,
    /// Once there is room: the quota is used up, or the nodes are cordoned or not ready.
    NotNow(String),
    /// Not by this provider as it is.
    Never(String),
}

/// How long workers of one image took from their create until the container ran. Each part is `None`
/// until there was one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartupEstimate {
    /// On a node that had the image.
    pub image_present: Option<StartupTime>,
    /// On a node that had to pull it.
    pub image_absent: Option<StartupTime>,
}

/// What was measured in a sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartupTime {
    /// Half took no longer.
    pub median: Duration,
    /// Nine in ten took no longer.
    pub p90: Duration,
    /// How many were measured.
    pub samples: usize,
}

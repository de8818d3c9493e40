//! One node, as small as it can be kept: of an object of some 20 KB what decides whether a worker
//! may run there, its room, and 8 bytes for each image name. Five thousand nodes fit a few MB.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use hodei_core::quantity::{parse_bytes, parse_cpu_millis};
use k8s_openapi::api::core::v1::{Node as ApiNode, NodeStatus, Taint};

use super::placement::Placement;

/// Most image names kept of one node. The kubelet tells 50 images unless it is told otherwise.
const IMAGES: usize = 1000;

/// Where vendors and clouds put the model, and the domain of the extended resource it speaks of. By
/// the documentation of the GPU feature discovery of NVIDIA, the node labellers of AMD and of Intel,
/// GKE, the cluster autoscaler for EKS, and Karpenter.
const MODELS: [(&str, &str); 8] = [
    ("nvidia.com/gpu.product", "nvidia.com"),
    ("cloud.google.com/gke-accelerator", "nvidia.com"),
    ("k8s.amazonaws.com/accelerator", "nvidia.com"),
    ("karpenter.k8s.aws/instance-gpu-name", "nvidia.com"),
    ("amd.com/gpu.product-name", "amd.com"),
    ("beta.amd.com/gpu.product-name", "amd.com"),
    ("gpu.intel.com/product", "gpu.intel.com"),
    ("cloud.google.com/gke-tpu-accelerator", "google.com"),
];

/// Taints that pass: the cluster and its autoscalers set and remove them. All of the first two
/// domains are.
const PASSING: [&str; 6] = [
    "node.kubernetes.io/",
    "node.cloudprovider.kubernetes.io/",
    "ToBeDeletedByClusterAutoscaler",
    "DeletionCandidateOfClusterAutoscaler",
    "karpenter.sh/disrupted",
    "karpenter.sh/unregistered",
];

/// Why a node never takes a worker of this provider.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Barred {
    /// It lacks this label of the node selector.
    Selector(Box<str>),
    /// It does not meet the node affinity.
    Affinity,
    /// It has a taint that is not tolerated.
    Taint(Box<str>),
}

impl fmt::Display for Barred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Selector(label) => write!(f, "without {label} of the node selector"),
            Self::Affinity => f.write_str("outside the node affinity"),
            Self::Taint(taint) => write!(f, "with the taint {taint}"),
        }
    }
}

/// Why a node takes no worker now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Closed {
    Cordoned,
    NotReady,
    /// It has a taint that passes.
    Taint(Box<str>),
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cordoned => f.write_str("cordoned"),
            Self::NotReady => f.write_str("not ready"),
            Self::Taint(taint) => write!(f, "with the taint {taint}"),
        }
    }
}

/// What is kept of a node.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) cpu_millis: u64,
    pub(super) memory_bytes: u64,
    extended: Box<[(Box<str>, u64)]>,
    pub(super) architecture: Option<Box<str>>,
    pub(super) operating_system: Option<Box<str>>,
    pub(super) region: Option<Box<str>>,
    pub(super) zone: Option<Box<str>>,
    /// By the domain of the extended resource.
    models: Box<[(&'static str, Box<str>)]>,
    pub(super) barred: Option<Barred>,
    pub(super) closed: Option<Closed>,
    /// Digests of the image names that are there, in order.
    images: Box<[u64]>,
}

impl Node {
    pub(super) fn read(node: &ApiNode, placement: &Placement) -> Self {
        let no_status = NodeStatus::default();
        let status = node.status.as_ref().unwrap_or(&no_status);
        let label = |key: &str| {
            let labels = node.metadata.labels.as_ref()?;
            labels.get(key).filter(|value| !value.is_empty()).map(|value| value.as_str().into())
        };
        let room = |name: &str| Some(&status.allocatable.as_ref()?.get(name)?.0);
        let extended = status.allocatable.iter().flatten().filter(|(name, _)| name.contains('/'));
        let count = |text: &str| parse_bytes(text).unwrap_or(0);
        let info = status.node_info.as_ref();
        Self {
            cpu_millis: room("cpu").and_then(|text| parse_cpu_millis(text).ok()).unwrap_or(0),
            memory_bytes: room("memory").map_or(0, |text| count(text)),
            extended: extended
                .map(|(name, amount)| (name.as_str().into(), count(&amount.0)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            architecture: info
                .map(|info| info.architecture.as_str().into())
                .or_else(|| label("kubernetes.io/arch")),
            operating_system: info
                .map(|info| info.operating_system.as_str().into())
                .or_else(|| label("kubernetes.io/os")),
            region: label("topology.kubernetes.io/region"),
            zone: label("topology.kubernetes.io/zone"),
            models: MODELS.iter().filter_map(|(key, of)| Some((*of, label(key)?))).collect(),
            barred: barred(node, placement),
            closed: closed(node, status, placement),
            images: digests(status),
        }
    }

    /// How much it has of an extended resource.
    pub(super) fn extended(&self, resource: &str) -> u64 {
        self.extended.iter().find(|(name, _)| **name == *resource).map_or(0, |(_, count)| *count)
    }

    /// Its GPU resources.
    pub(super) fn gpus(&self) -> impl Iterator<Item = (&str, u64)> {
        let all = self.extended.iter().map(|(name, count)| (&**name, *count));
        all.filter(|(name, _)| is_gpu(name))
    }

    /// The models of an extended resource, where the node has any of it.
    pub(super) fn models(&self, resource: &str) -> impl Iterator<Item = &str> {
        let domain = resource.split_once('/').map_or("", |(domain, _)| domain);
        let has_any = self.extended(resource) > 0;
        let known = self.models.iter().filter(move |(of, _)| has_any && *of == domain);
        known.map(|(_, model)| &**model)
    }

    /// Whether the kubelet tells that the image is there.
    pub(super) fn has_image(&self, image: &str) -> bool {
        self.images.binary_search(&digest(image)).is_ok()
    }
}

/// Extended resources of GPU device plug-ins: `nvidia.com/gpu`, `amd.com/gpu`, `gpu.intel.com/i915`,
/// `nvidia.com/mig-1g.5gb`, `nvidia.com/gpu.shared`, and TPUs.
fn is_gpu(resource: &str) -> bool {
    resource.split_once('/').is_some_and(|(domain, name)| {
        matches!(name, "gpu" | "tpu")
            || name.starts_with("gpu.")
            || name.starts_with("mig-")
            || domain.starts_with("gpu.")
    })
}

/// Taints that keep pods away; `PreferNoSchedule` only asks.
fn taints(node: &ApiNode) -> impl Iterator<Item = &Taint> {
    let all = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    all.filter(|taint| taint.effect != "PreferNoSchedule")
}

fn passes(taint: &Taint) -> bool {
    PASSING.iter().any(|known| taint.key.starts_with(known))
}

fn words(taint: &Taint) -> Box<str> {
    match taint.value.as_deref() {
        None | Some("") => format!("{}:{}", taint.key, taint.effect).into(),
        Some(value) => format!("{}={value}:{}", taint.key, taint.effect).into(),
    }
}

fn barred(node: &ApiNode, placement: &Placement) -> Option<Barred> {
    if let Some((key, value)) = placement.missing_label(node) {
        return Some(Barred::Selector(format!("{key}={value}").into()));
    }
    if !placement.has_affinity_to(node) {
        return Some(Barred::Affinity);
    }
    let mut lasting = taints(node).filter(|taint| !passes(taint) && !placement.tolerates(taint));
    lasting.next().map(|taint| Barred::Taint(words(taint)))
}

fn closed(node: &ApiNode, status: &NodeStatus, placement: &Placement) -> Option<Closed> {
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if cordoned && !placement.tolerates(&cordon) {
        return Some(Closed::Cordoned);
    }
    let mut conditions = status.conditions.iter().flatten();
    if !conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True") {
        return Some(Closed::NotReady);
    }
    let mut passing = taints(node).filter(|taint| passes(taint) && !placement.tolerates(taint));
    passing.next().map(|taint| Closed::Taint(words(taint)))
}

fn digests(status: &NodeStatus) -> Box<[u64]> {
    let names = status.images.iter().flatten().flat_map(|image| image.names.iter().flatten());
    let mut digests: Vec<_> = names.take(IMAGES).map(|name| digest(name)).collect();
    digests.sort_unstable();
    digests.dedup();
    digests.into()
}

/// A number in place of an image's name; what it is used for bears that two names share one.
pub(crate) fn digest(image: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    full_name(image).hash(&mut hasher);
    hasher.finish()
}

/// An image's name as the kubelet tells it: with registry and tag.
fn full_name(image: &str) -> String {
    let (first, rest) = image.split_once('/').unwrap_or(("", image));
    let is_registry = first.contains(['.', ':']) || first == "localhost";
    let place = match (first, is_registry) {
        ("", _) => format!("docker.io/library/{rest}"),
        (_, true) => image.to_owned(),
        (_, false) => format!("docker.io/{image}"),
    };
    let last = place.rsplit('/').next().unwrap_or_default();
    if last.contains([':', '@']) { place } else { format!("{place}:latest") }
}

#[cfg(test)]
#[path = "node_tests.rs"]
pub(super) mod tests;

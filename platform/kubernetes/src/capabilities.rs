//! What the cluster can offer: the largest node, bounded by the namespace's limit range and quota.
//!
//! Nodes are cluster-scoped, and listing them may be forbidden. Then the bounds of the namespace are
//! all that is known, and a job that no node can take is told `Unschedulable` by its worker.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use hodei_core::{
    provider::{ProviderCapabilities, ProviderError, Requirements},
    quantity::{parse_bytes, parse_cpu_millis},
};
use k8s_openapi::{
    api::core::v1::{LimitRange, Node, ResourceQuota},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Resource,
    api::ListParams,
    core::{ObjectList, Request},
};
use serde::de::DeserializeOwned;

use crate::{
    api::{ApiFailure, Call},
    pod::effective_resources,
    provider::KubernetesProvider,
};

const OPERATION: &str = "read capabilities";

/// How long an answer is used again; three lists a minute whatever the number of jobs.
const FRESH: Duration = Duration::from_secs(60);

/// A measurement and when it was made.
pub(crate) type Measured = (Instant, ProviderCapabilities);

type Quantities = BTreeMap<String, Quantity>;

impl KubernetesProvider {
    /// What can be offered, measured at most a minute ago.
    pub(crate) async fn measure_capabilities(&self) -> Result<ProviderCapabilities, ProviderError> {
        // Held over the requests on purpose: many callers at once make one measurement.
        let mut measured = self.measured.lock().await;
        if let Some((at, known)) = &*measured
            && at.elapsed() < FRESH
        {
            return Ok(known.clone());
        }
        let subject = format!("namespace {}", self.config.namespace);
        let fail = |failure: ApiFailure| failure.into_error(OPERATION, &subject);
        let nodes = self.list(Request::new(Node::url_path(&(), None)));
        let quotas = self.list(self.api.requests::<ResourceQuota>());
        let ranges = self.list(self.api.requests::<LimitRange>());
        let (nodes, quotas, ranges) = tokio::join!(nodes, quotas, ranges);
        let nodes = match nodes {
            Err(failure) if failure.code() == Some(403) => {
                tracing::warn!(provider_id = %self.id, %failure,
                    "the nodes may not be listed; the namespace's bounds are all that is known");
                None
            }
            other => Some(other.map_err(fail)?),
        };
        let found = summarize(nodes.as_deref(), &quotas.map_err(fail)?, &ranges.map_err(fail)?);
        *measured = Some((Instant::now(), found.clone()));
        Ok(found)
    }

    /// Why these requirements can never be met.
    pub(crate) async fn explain(
        &self,
        needs: &Requirements,
    ) -> Result<Option<String>, ProviderError> {
        let offer = self.measure_capabilities().await?;
        let asked = effective_resources(&self.config, &needs.resources);
        let cpu = asked.cpu_request.as_deref().and_then(|text| parse_cpu_millis(text).ok());
        let memory = asked.memory_request.as_deref().and_then(|text| parse_bytes(text).ok());
        Ok(refusal(&offer, cpu.unwrap_or(0), memory.unwrap_or(0), needs.architecture.as_deref()))
    }

    async fn list<K: DeserializeOwned + Clone>(
        &self,
        requests: Request,
    ) -> Result<Vec<K>, ApiFailure> {
        // From the API server's cache: what is a moment old is good enough.
        let params = ListParams::default().match_any();
        let call = Call::new(requests.list(&params))?;
        let list: ObjectList<K> = self.api.send(&call).await?.read()?;
        Ok(list.items)
    }
}

/// The first need that nothing can meet, in words.
fn refusal(
    offer: &ProviderCapabilities,
    cpu_millis: u64,
    memory_bytes: u64,
    architecture: Option<&str>,
) -> Option<String> {
    if let Some(most) = offer.max_cpu_millis.filter(|&most| cpu_millis > most) {
        return Some(format!(
            "{cpu_millis}m of CPU are asked for; one worker can have {most}m at most"
        ));
    }
    if let Some(most) = offer.max_memory_bytes.filter(|&most| memory_bytes > most) {
        return Some(format!(
            "{memory_bytes} bytes of memory are asked for; one worker can have {most} at most"
        ));
    }
    let wanted = architecture?;
    let known = &offer.architectures;
    if known.is_empty() || known.iter().any(|one| one == wanted) {
        return None;
    }
    Some(format!("no node has the architecture {wanted}; there are {}", known.join(", ")))
}

/// What nodes, quotas and limit ranges allow together. Without nodes there is no bound by them.
fn summarize(
    nodes: Option<&[Node]>,
    quotas: &[ResourceQuota],
    ranges: &[LimitRange],
) -> ProviderCapabilities {
    let mut offer = nodes.map(of_nodes).unwrap_or_default();
    let items = ranges.iter().filter_map(|range| range.spec.as_ref()).flat_map(|s| &s.limits);
    for item in items.filter(|item| matches!(item.type_.as_str(), "Container" | "Pod")) {
        bound(&mut offer, item.max.as_ref(), ["cpu"], ["memory"]);
    }
    for quota in quotas {
        let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
        bound(&mut offer, hard, ["cpu", "requests.cpu"], ["memory", "requests.memory"]);
        offer.free_workers = min_option(offer.free_workers, free_pods(quota));
    }
    offer
}

/// A cordoned node counts: it will be back, and what can wait for it must not be refused for ever.
fn of_nodes(nodes: &[Node]) -> ProviderCapabilities {
    let mut offer = ProviderCapabilities::default();
    let (mut archs, mut systems) = (BTreeSet::new(), BTreeSet::new());
    let (mut regions, mut zones) = (BTreeSet::new(), BTreeSet::new());
    for node in nodes {
        let status = node.status.clone().unwrap_or_default();
        let room = status.allocatable.unwrap_or_default();
        offer.max_cpu_millis = offer.max_cpu_millis.max(cpu(&room, "cpu"));
        offer.max_memory_bytes = offer.max_memory_bytes.max(bytes(&room, "memory"));
        for (resource, count) in room.iter().filter(|(name, _)| is_gpu(name)) {
            let count = parse_bytes(&count.0).unwrap_or(0);
            let most = offer.gpus.entry(resource.clone()).or_default();
            *most = count.max(*most);
        }
        let labels = node.metadata.labels.clone().unwrap_or_default();
        if let Some(info) = status.node_info {
            archs.insert(info.architecture);
            systems.insert(info.operating_system);
        }
        regions.extend(labels.get("topology.kubernetes.io/region").cloned());
        zones.extend(labels.get("topology.kubernetes.io/zone").cloned());
    }
    offer.gpus.retain(|_, count| *count > 0);
    offer.architectures = archs.into_iter().collect();
    offer.operating_systems = systems.into_iter().collect();
    offer.regions = regions.into_iter().collect();
    offer.zones = zones.into_iter().collect();
    offer
}

/// Extended resources of GPU device plug-ins: `nvidia.com/gpu`, `amd.com/gpu`, `gpu.intel.com/i915`,
/// `nvidia.com/mig-1g.5gb`.
fn is_gpu(resource: &str) -> bool {
    resource.split_once('/').is_some_and(|(vendor, name)| {
        name == "gpu" || name.starts_with("mig-") || vendor.starts_with("gpu.")
    })
}

fn bound<const N: usize>(
    offer: &mut ProviderCapabilities,
    limits: Option<&Quantities>,
    cpus: [&str; N],
    memories: [&str; N],
) {
    let Some(limits) = limits else { return };
    for name in cpus {
        offer.max_cpu_millis = min_option(offer.max_cpu_millis, cpu(limits, name));
    }
    for name in memories {
        offer.max_memory_bytes = min_option(offer.max_memory_bytes, bytes(limits, name));
    }
}

fn free_pods(quota: &ResourceQuota) -> Option<u64> {
    let hard = quota.spec.as_ref()?.hard.as_ref()?;
    let used = quota.status.as_ref().and_then(|status| status.used.as_ref());
    let free = |name: &str| {
        let hard = bytes(hard, name)?;
        let used = used.and_then(|used| bytes(used, name)).unwrap_or(0);
        Some(hard.saturating_sub(used))
    };
    min_option(free("pods"), free("count/pods"))
}

fn min_option(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).min()
}

fn cpu(quantities: &Quantities, name: &str) -> Option<u64> {
    parse_cpu_millis(&quantities.get(name)?.0).ok()
}

fn bytes(quantities: &Quantities, name: &str) -> Option<u64> {
    parse_bytes(&quantities.get(name)?.0).ok()
}

#[cfg(test)]
#[path = "capabilities_tests.rs"]
mod tests;

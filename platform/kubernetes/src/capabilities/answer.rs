//! From what is known of the cluster to what a provider offers, and to yes or no. Pure functions.
//!
//! Two questions are kept apart. *Could it fit?* looks at every node that admits workers, as if it
//! were ready and empty; a no to that is `Never`. *Does it fit now?* looks at what the quota leaves
//! and at nodes that are ready and not cordoned; a no to that is `NotNow`. What other pods take of a
//! node is not looked at: that is for the scheduler, and a worker waits for it as a pending pod.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use hodei_core::provider::{Fulfilment, NodeCount, ProviderCapabilities, Requirements};

use super::{
    bounds::{Demand, Limits, Quota, show},
    node::Node,
};

/// Most names in one message.
const NAMES: usize = 8;

/// The keys under which a quota counts what one worker asks for.
const CPU: [&str; 3] = ["cpu", "requests.cpu", "limits.cpu"];
const MEMORY: [&str; 3] = ["memory", "requests.memory", "limits.memory"];
const PODS: [&str; 2] = ["pods", "count/pods"];

/// What is known of the cluster. What can't be read is `None`, and bounds nothing.
#[derive(Debug)]
pub(super) struct Known<'a> {
    pub(super) nodes: Option<&'a BTreeMap<String, Node>>,
    /// Nodes that left a short while ago.
    pub(super) departed: Vec<&'a Node>,
    pub(super) quotas: Option<&'a BTreeMap<String, Quota>>,
    pub(super) ranges: Option<&'a BTreeMap<String, Limits>>,
}

impl Known<'_> {
    fn quotas(&self) -> impl Iterator<Item = (&String, &Quota)> {
        self.quotas.into_iter().flatten()
    }

    fn ranges(&self) -> impl Iterator<Item = (&String, &Limits)> {
        self.ranges.into_iter().flatten()
    }
}

/// What nodes, quotas and limit ranges allow together.
pub(super) fn summarize(known: &Known<'_>) -> ProviderCapabilities {
    let mut offer = known.nodes.map(of_nodes).unwrap_or_default();
    for (_, range) in known.ranges() {
        bound(&mut offer.max_cpu_millis, range.max("cpu"));
        bound(&mut offer.max_memory_bytes, range.max("memory"));
        for (resource, gpu) in &mut offer.gpus {
            gpu.max_per_worker = range.max(resource).unwrap_or(u64::MAX).min(gpu.max_per_worker);
        }
    }
    for (_, quota) in known.quotas() {
        bound(&mut offer.max_cpu_millis, quota.hard(&CPU));
        bound(&mut offer.max_memory_bytes, quota.hard(&MEMORY));
        bound(&mut offer.free_workers, quota.free(&PODS));
        bound(&mut offer.free_cpu_millis, quota.free(&CPU[..2]));
        bound(&mut offer.free_memory_bytes, quota.free(&MEMORY[..2]));
        for (resource, gpu) in &mut offer.gpus {
            let hard = quota.hard(&[&format!("requests.{resource}")]);
            gpu.max_per_worker = hard.unwrap_or(u64::MAX).min(gpu.max_per_worker);
        }
    }
    offer.gpus.retain(|_, gpu| gpu.max_per_worker > 0);
    offer
}

fn bound(most: &mut Option<u64>, by: Option<u64>) {
    *most = most.iter().copied().chain(by).min();
}

fn of_nodes(nodes: &BTreeMap<String, Node>) -> ProviderCapabilities {
    let admitting: Vec<_> = nodes.values().filter(|node| node.barred.is_none()).collect();
    let mut offer = ProviderCapabilities {
        max_cpu_millis: admitting.iter().map(|node| node.cpu_millis).max().or(Some(0)),
        max_memory_bytes: admitting.iter().map(|node| node.memory_bytes).max().or(Some(0)),
        nodes: Some(NodeCount {
            total: nodes.len(),
            admitting: admitting.len(),
            schedulable: admitting.iter().filter(|node| node.closed.is_none()).count(),
        }),
        architectures: names(&admitting, |node| node.architecture.as_deref()),
        operating_systems: names(&admitting, |node| node.operating_system.as_deref()),
        regions: names(&admitting, |node| node.region.as_deref()),
        zones: names(&admitting, |node| node.zone.as_deref()),
        ..ProviderCapabilities::default()
    };
    for node in &admitting {
        for (resource, count) in node.gpus() {
            let gpu = offer.gpus.entry(resource.to_owned()).or_default();
            gpu.max_per_worker = gpu.max_per_worker.max(count);
            let new = node.models(resource).filter(|model| !gpu.models.iter().any(|m| m == model));
            let new: Vec<_> = new.map(str::to_owned).collect();
            gpu.models.extend(new);
        }
    }
    offer.gpus.values_mut().for_each(|gpu| gpu.models.sort_unstable());
    offer
}

fn names<'a>(nodes: &[&'a Node], name: impl Fn(&'a Node) -> Option<&'a str>) -> Vec<String> {
    let all: BTreeSet<_> = nodes.iter().filter_map(|node| name(node)).collect();
    all.into_iter().map(str::to_owned).collect()
}

/// Whether a worker that asks for `demand` can be had, and if not, why. With `elastic` nodes a worker
/// that no present node takes is what makes one come, so nodes bound nothing.
pub(super) fn answer(
    known: &Known<'_>,
    demand: &Demand,
    needs: &Requirements,
    elastic: bool,
) -> Fulfilment {
    let never = given_gpus(demand, needs)
        .or_else(|| known.ranges().find_map(|(name, range)| range.refuses(name, demand)))
        .or_else(|| known.quotas().find_map(|(name, quota)| quota.refuses(name, demand)));
    if let Some(reason) = never {
        return Fulfilment::Never(reason);
    }
    let by_nodes = match known.nodes {
        Some(nodes) if !elastic => of_node_room(nodes, known, demand, needs),
        _ => Fulfilment::Yes,
    };
    if by_nodes != Fulfilment::Yes {
        return by_nodes;
    }
    let used_up = known.quotas().find_map(|(name, quota)| quota.is_used_up(name, demand));
    used_up.map_or(Fulfilment::Yes, Fulfilment::NotNow)
}

/// A worker has the extended resources of the configuration, whoever it is for.
fn given_gpus(demand: &Demand, needs: &Requirements) -> Option<String> {
    let gpu = needs.gpu.as_ref()?;
    let given = demand.extended.get(&gpu.resource).copied().unwrap_or(0);
    (gpu.count > given).then(|| {
        format!(
            "{}: {} wanted, a worker of this provider is given {given} (extended_resources)",
            gpu.resource, gpu.count
        )
    })
}

fn of_node_room(
    nodes: &BTreeMap<String, Node>,
    known: &Known<'_>,
    demand: &Demand,
    needs: &Requirements,
) -> Fulfilment {
    if nodes.is_empty() {
        return Fulfilment::NotNow("the cluster has no node".to_owned());
    }
    let fitting = match narrow(nodes.values().collect(), demand, needs) {
        Ok(fitting) => fitting,
        Err(reason) if narrow(known.departed.clone(), demand, needs).is_ok() => {
            return Fulfilment::NotNow(format!(
                "{reason}; a node that left a short while ago could take it"
            ));
        }
        Err(reason) => return Fulfilment::Never(reason),
    };
    if fitting.iter().any(|node| node.closed.is_none()) {
        return Fulfilment::Yes;
    }
    let count = fitting.len();
    let why = tally(fitting.iter().filter_map(|node| node.closed.as_ref()));
    Fulfilment::NotNow(format!("none of the nodes it fits ({count}) is schedulable now: {why}"))
}

/// The nodes that could take it, or the first bound that leaves none.
fn narrow<'a>(
    mut nodes: Vec<&'a Node>,
    demand: &Demand,
    needs: &Requirements,
) -> Result<Vec<&'a Node>, String> {
    let total = nodes.len();
    let bars: Vec<_> = nodes.iter().filter_map(|node| node.barred.as_ref()).collect();
    if bars.len() == total {
        let why = tally(bars.into_iter());
        return Err(format!("none of the nodes ({total}) admits workers: {why}"));
    }
    nodes.retain(|node| node.barred.is_none());
    keep_named(&mut nodes, "operating system", needs.operating_system.as_deref(), |node| {
        node.operating_system.as_deref().into_iter().collect()
    })?;
    keep_named(&mut nodes, "architecture", needs.architecture.as_deref(), |node| {
        node.architecture.as_deref().into_iter().collect()
    })?;
    keep_named(&mut nodes, "region", needs.region.as_deref(), |node| {
        node.region.as_deref().into_iter().collect()
    })?;
    if let Some(gpu) = &needs.gpu {
        let what = format!("{} model", gpu.resource);
        keep_named(&mut nodes, &what, gpu.model.as_deref(), |node| {
            node.models(&gpu.resource).collect()
        })?;
    }
    keep_large(&mut nodes, "cpu", demand, |node| node.cpu_millis)?;
    keep_large(&mut nodes, "memory", demand, |node| node.memory_bytes)?;
    for resource in demand.extended.keys() {
        keep_large(&mut nodes, resource, demand, |node| node.extended(resource))?;
    }
    Ok(nodes)
}

fn keep_named<'a>(
    nodes: &mut Vec<&'a Node>,
    what: &str,
    wanted: Option<&str>,
    of: impl Fn(&'a Node) -> Vec<&'a str>,
) -> Result<(), String> {
    let Some(wanted) = wanted else { return Ok(()) };
    let (kept, others): (Vec<_>, Vec<_>) =
        nodes.iter().partition(|node| of(node).contains(&wanted));
    if kept.is_empty() {
        let there: BTreeSet<_> = others.into_iter().flat_map(of).take(NAMES).collect();
        let there = if there.is_empty() {
            "none"
        } else {
            &there.into_iter().collect::<Vec<_>>().join(", ")
        };
        return Err(format!("{what}: {wanted} wanted, the nodes have {there}"));
    }
    *nodes = kept;
    Ok(())
}

fn keep_large<'a>(
    nodes: &mut Vec<&'a Node>,
    resource: &str,
    demand: &Demand,
    room: impl Fn(&'a Node) -> u64,
) -> Result<(), String> {
    let wanted = demand.request(resource);
    let most = nodes.iter().map(|node| room(node)).max().unwrap_or(0);
    if wanted > most {
        let (count, wanted, most) = (nodes.len(), show(resource, wanted), show(resource, most));
        return Err(format!(
            "{resource}: {wanted} wanted, the largest of the nodes it may use ({count}) has {most}"
        ));
    }
    nodes.retain(|node| room(node) >= wanted);
    Ok(())
}

/// `2 cordoned, 1 not ready`.
fn tally<'a, T: Ord + fmt::Display + 'a>(all: impl Iterator<Item = &'a T>) -> String {
    let mut counts = BTreeMap::new();
    for one in all {
        *counts.entry(one).or_insert(0_usize) += 1;
    }
    let told = counts.iter().take(NAMES).map(|(one, count)| format!("{count} {one}"));
    told.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;

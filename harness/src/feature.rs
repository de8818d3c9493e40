//! What a cluster has beside the usual, by which it is decided which cases can run on it. Computed
//! from the environment or seen by a probe, never declared by hand.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::bootstrap::Bootstrapped;
use crate::catalogue::Case;
use crate::cluster::KindCluster;
use crate::failure::Result;
use crate::network_policy;
use crate::node_image::PodNetwork;
use crate::progress::Progress;
use crate::run_dir::RunDir;

/// Something that not every cluster has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// The API server's audit log can be read.
    AuditLog,
    /// A case can have a proxy in front of the Kubernetes API.
    FaultProxy,
    /// More than one node, so that one can go and work move to another.
    MultiNode,
    /// Network policies are enforced, as a probe has seen.
    NetworkPolicy,
    /// Nodes can be cordoned and drained, and the API server started again; with
    /// [`Self::MultiNode`], a worker node can be stopped too.
    NodeControl,
}

impl Feature {
    /// The name used in the catalogue and in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuditLog => "audit-log",
            Self::FaultProxy => "fault-proxy",
            Self::MultiNode => "multi-node",
            Self::NetworkPolicy => "network-policy",
            Self::NodeControl => "node-control",
        }
    }

    /// What would bring it.
    #[must_use]
    pub const fn help(self) -> &'static str {
        match self {
            Self::MultiNode => "`hodei-e2e run --nodes 2`, or `make e2e-extended`",
            Self::AuditLog | Self::FaultProxy | Self::NodeControl => "a Kind cluster of this tool",
            Self::NetworkPolicy => {
                "`hodei-e2e run --features network-policy`, or `make e2e-extended`"
            }
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a Kind cluster of this tool has, as far as that can be told without asking it.
#[must_use]
pub fn of(cluster: &KindCluster) -> BTreeSet<Feature> {
    let always = [Feature::AuditLog, Feature::FaultProxy, Feature::NodeControl];
    let several = (cluster.nodes.len() > 1).then_some(Feature::MultiNode);
    always.into_iter().chain(several).collect()
}

/// What a cluster has, seen by a probe where it cannot be told otherwise. What neither the cluster
/// was asked for nor one of `cases` needs is not probed for, and counts as not there.
///
/// # Errors
/// A probe could not be made, or found the network broken.
pub async fn detect(
    up: &Bootstrapped,
    cases: &[&Case],
    run: &RunDir,
    progress: &Progress,
) -> Result<BTreeSet<Feature>> {
    let mut here = of(&up.cluster);
    let is_needed = cases.iter().any(|case| case.features.contains(&Feature::NetworkPolicy));
    if is_needed || up.network == PodNetwork::Policy {
        let (cluster, image) = (&up.cluster, &up.worker_image);
        let probe = progress.stage("network policies", async |stage| {
            network_policy::is_enforced(cluster, image, run, &stage).await
        });
        here.extend(probe.await?.then_some(Feature::NetworkPolicy));
    }
    Ok(here)
}

/// What a cluster of these nodes is likely to have, for who wants to know before there is one.
#[must_use]
pub fn expected(cluster: &KindCluster, policies: bool) -> BTreeSet<Feature> {
    let mut here = of(cluster);
    here.extend(policies.then_some(Feature::NetworkPolicy));
    here
}

/// Why a case cannot run where only `here` is; `None` if it can.
#[must_use]
pub fn lacking(case: &Case, here: &BTreeSet<Feature>) -> Option<String> {
    let lacking: Vec<_> = case.features.difference(here).collect();
    let first = lacking.first()?;
    let names: Vec<_> = lacking.iter().map(|feature| feature.as_str()).collect();
    Some(format!("not run: this cluster lacks {} (needed: {})", names.join(", "), first.help()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(nodes: &[&str]) -> KindCluster {
        KindCluster {
            name: "c".into(),
            kubeconfig: "/none".into(),
            context: "kind-c".into(),
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
        }
    }

    #[test]
    fn a_second_node_brings_what_needs_two() {
        let case = crate::catalogue::Catalogue::parse(
            r#"
            [[case]]
            id = "lifecycle.node-stopped"
            title = "A node that stops loses its job, which runs again"
            layer = "lifecycle"
            profile = "extended"
            features = ["node-control", "multi-node"]
            exclusive = true
            requirement = "HU-7.5"
            test = "lifecycle::test_k8s_exclusive_node_stopped"
            "#,
        );
        let case = &case.unwrap().cases[0];
        let one = cluster(&["c-control-plane"]);
        let two = cluster(&["c-control-plane", "c-worker"]);
        let why = lacking(case, &of(&one)).unwrap();
        assert!(why.contains("lacks multi-node (") && why.contains("--nodes 2"), "{why}");
        assert_eq!(lacking(case, &of(&two)), None);
        assert_eq!(
            (two.control_plane(), two.workers()),
            (Some("c-control-plane"), vec!["c-worker"])
        );
    }

    #[test]
    fn the_names_are_those_of_the_catalogue() {
        for feature in of(&cluster(&["a", "b"])) {
            let name = serde_json::to_value(feature).unwrap();
            assert_eq!(name, feature.as_str());
        }
    }
}

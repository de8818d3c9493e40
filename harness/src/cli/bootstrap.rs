//! The flags of every command that brings a cluster up, in one place.

use hodei_harness::bootstrap::BootstrapOptions;
use hodei_harness::cluster;
use hodei_harness::engine::Consent;
use hodei_harness::node_image::choice::KubernetesChoice;
use hodei_harness::node_image::{PodNetwork, SourceChoice};

#[derive(Debug, clap::Args)]
pub(super) struct BootstrapArgs {
    /// Install and start what is missing without asking (CI=true means the same)
    #[arg(long, short)]
    yes: bool,
    /// Where the node image comes from
    #[arg(long, value_enum, default_value_t, env = "HODEI_E2E_NODE_IMAGE_SOURCE")]
    node_image_source: SourceChoice,
    /// The cluster's name
    #[arg(long, alias = "cluster", env = cluster::NAME_ENV, default_value = cluster::DEFAULT_NAME)]
    cluster_name: String,
    /// Nodes of the cluster: a control plane and N - 1 workers, all of which take pods; another
    /// number makes the cluster again [default: as many as it has, 1 for a new one]
    #[arg(long, value_name = "N", env = "HODEI_E2E_NODES",
          value_parser = clap::value_parser!(u8).range(1..=5))]
    nodes: Option<u8>,
    /// What the cluster is to have beside the usual; another choice makes the cluster again
    /// [default: what it has, none for a new one]
    #[arg(long, value_enum, env = "HODEI_E2E_FEATURES")]
    features: Option<PodNetwork>,
    /// Kubernetes version, as 1.33 or 1.33.13; another one makes the cluster again [default: that of
    /// the cluster, 1.34 for a new one]
    #[arg(long, value_name = "VERSION", env = "HODEI_E2E_KUBERNETES")]
    kubernetes: Option<KubernetesChoice>,
}

impl BootstrapArgs {
    pub(super) fn options(self, recreate: bool) -> BootstrapOptions {
        BootstrapOptions {
            consent: Consent::from_flag(self.yes),
            cluster_name: self.cluster_name,
            recreate,
            node_image_source: self.node_image_source,
            network: self.features,
            kubernetes: self.kubernetes,
            nodes: self.nodes,
        }
    }
}

//! The Kind configuration of a cluster, rendered from what the machine and the node image need.

use std::fmt::Write;

use crate::digest::Inputs;
use crate::node_image::{NodeImage, Source};

/// What a cluster is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSpec {
    /// Its name.
    pub name: String,
    /// What its nodes are made of.
    pub image: NodeImage,
    /// The image's id, so that a tag that was moved is noticed.
    pub image_id: String,
    /// The addresses of pods.
    pub pod_subnet: String,
    /// Whether the host has cgroup v1, which the kubelet must be told to bear with.
    pub cgroup_v1: bool,
    /// Whether the host withholds CAP_SYS_RESOURCE, so that no OOM score can be lowered.
    pub restrict_oom_score_adj: bool,
}

/// More than the default of 110: fifty workers and what they displace fit beside the system's.
const MAX_PODS: u32 = 200;

impl ClusterSpec {
    /// The configuration that `kind create cluster` is given.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::from("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n");
        let mut line = |words: std::fmt::Arguments<'_>| {
            writeln!(text, "{words}").expect("writing to a string cannot fail");
        };
        line(format_args!("networking:\n  podSubnet: {}", self.pod_subnet));
        if self.image.source == Source::Packages {
            // That image has a CNI configuration of its own.
            line(format_args!("  disableDefaultCNI: true"));
        }
        line(format_args!("nodes:\n- role: control-plane"));
        line(format_args!("kubeadmConfigPatches:\n- |\n  kind: KubeletConfiguration"));
        line(format_args!("  maxPods: {MAX_PODS}"));
        if self.cgroup_v1 {
            line(format_args!("  failCgroupV1: false"));
        }
        if self.restrict_oom_score_adj {
            line(format_args!(
                "containerdConfigPatches:\n- |\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    \
                 restrict_oom_score_adj = true"
            ));
        }
        text
    }

    /// The hash by which a cluster that was made of something else is known.
    #[must_use]
    pub fn tag(&self) -> String {
        let inputs = Inputs::new().add("config", self.render()).add("image", &self.image_id);
        inputs.tag()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(source: Source, constrained: bool) -> ClusterSpec {
        ClusterSpec {
            name: "hodei-e2e".into(),
            image: NodeImage { reference: "node:1".into(), source },
            image_id: "sha256:1".into(),
            pod_subnet: "10.244.0.0/16".into(),
            cgroup_v1: constrained,
            restrict_oom_score_adj: constrained,
        }
    }

    #[test]
    fn a_laptop_gets_the_plain_configuration() {
        insta::assert_snapshot!(spec(Source::Registry, false).render(), @r"
        kind: Cluster
        apiVersion: kind.x-k8s.io/v1alpha4
        networking:
          podSubnet: 10.244.0.0/16
        nodes:
        - role: control-plane
        kubeadmConfigPatches:
        - |
          kind: KubeletConfiguration
          maxPods: 200
        ");
    }

    #[test]
    fn a_constrained_machine_gets_what_it_needs() {
        insta::assert_snapshot!(spec(Source::Packages, true).render(), @r#"
        kind: Cluster
        apiVersion: kind.x-k8s.io/v1alpha4
        networking:
          podSubnet: 10.244.0.0/16
          disableDefaultCNI: true
        nodes:
        - role: control-plane
        kubeadmConfigPatches:
        - |
          kind: KubeletConfiguration
          maxPods: 200
          failCgroupV1: false
        containerdConfigPatches:
        - |
          [plugins."io.containerd.grpc.v1.cri"]
            restrict_oom_score_adj = true
        "#);
    }

    #[test]
    fn another_image_or_configuration_is_another_cluster() {
        let plain = spec(Source::Registry, false);
        let moved = ClusterSpec { image_id: "sha256:2".into(), ..plain.clone() };
        assert_ne!(plain.tag(), moved.tag());
        assert_ne!(plain.tag(), spec(Source::Registry, true).tag());
    }
}

//! The Kind configuration of a cluster, rendered from what the machine and the node image need.

use std::fmt::Write;
use std::path::PathBuf;

use crate::digest::Inputs;
use crate::node_image::{NodeImage, PodNetwork, Source};

/// What a cluster is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSpec {
    /// Its name.
    pub name: String,
    /// Minor version of Kubernetes, as in `1.34`; which patch release it is, the image says.
    pub kubernetes: String,
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
    /// What is asked of its network.
    pub network: PodNetwork,
    /// How many nodes: the first is the control plane and takes pods too, the others are workers.
    pub nodes: u8,
    /// The directory of this host that holds the audit policy.
    pub audit_directory: PathBuf,
}

/// What the API server writes down.
pub const AUDIT_POLICY: &str = include_str!("../../../deploy/kind/audit-policy.yaml");
/// Where on the control plane's node its audit log is.
pub const AUDIT_LOG_DIR: &str = "/var/log/hodei-audit";
/// Where on that node its policy is.
const AUDIT_POLICY_DIR: &str = "/etc/kubernetes/hodei-audit";
/// The API server's part of the configuration. Of its log it keeps 3 files of 50 MB.
const API_SERVER: &str = "\
- |
  kind: ClusterConfiguration
  apiServer:
    extraArgs:
      audit-policy-file: /etc/kubernetes/hodei-audit/policy.yaml
      audit-log-path: /var/log/hodei-audit/audit.log
      audit-log-maxsize: \"50\"
      audit-log-maxbackup: \"2\"
    extraVolumes:
    - name: audit-policy
      hostPath: /etc/kubernetes/hodei-audit
      mountPath: /etc/kubernetes/hodei-audit
      readOnly: true
      pathType: Directory
    - name: audit-log
      hostPath: /var/log/hodei-audit
      mountPath: /var/log/hodei-audit
      pathType: DirectoryOrCreate";

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
        if self.image.source == Source::Packages && self.network == PodNetwork::Plain {
            // That image has a CNI configuration of its own. The one that enforces policies has what
            // Kind is to apply, as Kind's published image does.
            line(format_args!("  disableDefaultCNI: true"));
        }
        line(format_args!("nodes:\n- role: control-plane\n  extraMounts:"));
        // A JSON string is a YAML string, whatever is in the path.
        line(format_args!(
            "  - hostPath: {}\n    containerPath: {AUDIT_POLICY_DIR}\n    readOnly: true",
            serde_json::Value::from(self.audit_directory.to_string_lossy())
        ));
        for _ in 1..self.nodes {
            line(format_args!("- role: worker"));
        }
        line(format_args!("kubeadmConfigPatches:\n- |\n  kind: KubeletConfiguration"));
        line(format_args!("  maxPods: {MAX_PODS}"));
        if self.cgroup_v1 {
            line(format_args!("  failCgroupV1: false"));
        }
        line(format_args!("{API_SERVER}"));
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
        inputs.add("audit policy", AUDIT_POLICY).tag()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(source: Source, constrained: bool) -> ClusterSpec {
        ClusterSpec {
            name: "hodei-e2e".into(),
            kubernetes: "1.34".into(),
            image: NodeImage { reference: "node:1".into(), source },
            image_id: "sha256:1".into(),
            pod_subnet: "10.244.0.0/16".into(),
            cgroup_v1: constrained,
            restrict_oom_score_adj: constrained,
            network: PodNetwork::Plain,
            nodes: if constrained { 3 } else { 1 },
            audit_directory: "/state/audit-hodei-e2e".into(),
        }
    }

    #[test]
    fn a_laptop_gets_the_plain_configuration() {
        insta::assert_snapshot!(spec(Source::Registry, false).render(), @r#"
        kind: Cluster
        apiVersion: kind.x-k8s.io/v1alpha4
        networking:
          podSubnet: 10.244.0.0/16
        nodes:
        - role: control-plane
          extraMounts:
          - hostPath: "/state/audit-hodei-e2e"
            containerPath: /etc/kubernetes/hodei-audit
            readOnly: true
        kubeadmConfigPatches:
        - |
          kind: KubeletConfiguration
          maxPods: 200
        - |
          kind: ClusterConfiguration
          apiServer:
            extraArgs:
              audit-policy-file: /etc/kubernetes/hodei-audit/policy.yaml
              audit-log-path: /var/log/hodei-audit/audit.log
              audit-log-maxsize: "50"
              audit-log-maxbackup: "2"
            extraVolumes:
            - name: audit-policy
              hostPath: /etc/kubernetes/hodei-audit
              mountPath: /etc/kubernetes/hodei-audit
              readOnly: true
              pathType: Directory
            - name: audit-log
              hostPath: /var/log/hodei-audit
              mountPath: /var/log/hodei-audit
              pathType: DirectoryOrCreate
        "#);
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
          extraMounts:
          - hostPath: "/state/audit-hodei-e2e"
            containerPath: /etc/kubernetes/hodei-audit
            readOnly: true
        - role: worker
        - role: worker
        kubeadmConfigPatches:
        - |
          kind: KubeletConfiguration
          maxPods: 200
          failCgroupV1: false
        - |
          kind: ClusterConfiguration
          apiServer:
            extraArgs:
              audit-policy-file: /etc/kubernetes/hodei-audit/policy.yaml
              audit-log-path: /var/log/hodei-audit/audit.log
              audit-log-maxsize: "50"
              audit-log-maxbackup: "2"
            extraVolumes:
            - name: audit-policy
              hostPath: /etc/kubernetes/hodei-audit
              mountPath: /etc/kubernetes/hodei-audit
              readOnly: true
              pathType: Directory
            - name: audit-log
              hostPath: /var/log/hodei-audit
              mountPath: /var/log/hodei-audit
              pathType: DirectoryOrCreate
        containerdConfigPatches:
        - |
          [plugins."io.containerd.grpc.v1.cri"]
            restrict_oom_score_adj = true
        "#);
    }

    #[test]
    fn kind_applies_the_network_of_an_image_that_enforces_policies() {
        let disabled = |source, network| {
            let spec = ClusterSpec { network, ..spec(source, true) };
            spec.render().contains("disableDefaultCNI")
        };
        assert!(disabled(Source::Packages, PodNetwork::Plain));
        assert!(!disabled(Source::Packages, PodNetwork::Policy));
        assert!(!disabled(Source::Registry, PodNetwork::Policy));
    }

    #[test]
    fn another_image_or_configuration_is_another_cluster() {
        let plain = spec(Source::Registry, false);
        let moved = ClusterSpec { image_id: "sha256:2".into(), ..plain.clone() };
        assert_ne!(plain.tag(), moved.tag());
        assert_ne!(plain.tag(), spec(Source::Registry, true).tag());
        assert_ne!(plain.tag(), ClusterSpec { nodes: 2, ..plain.clone() }.tag());
    }
}

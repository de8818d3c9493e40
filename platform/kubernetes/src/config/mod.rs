//! What an operator decides about workers on Kubernetes: the `config` object of `POST /api/providers`,
//! the environment variables of a server, or a builder in code. Checking is in `validate`, reading
//! the environment in `env`.

mod env;
mod toleration;
mod validate;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, TopologySpreadConstraint, Volume, VolumeMount};
use serde::{Deserialize, Serialize};

pub use self::{
    env::{SETTINGS, Setting, is_enabled},
    toleration::{
        InvalidToleration, KubernetesToleration, KubernetesTolerationBuilder, TaintEffect,
        TolerationOperator,
    },
    validate::{ConfigProblem, InvalidConfig},
};

/// The settings of one Kubernetes provider. Every field has a default, so `{}` is a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KubernetesConfig {
    /// Namespace of the workers.
    pub namespace: String,
    /// Path of a kubeconfig file; without one `KUBECONFIG`, `~/.kube/config` and the service account
    /// of a pod are tried, in this order.
    pub kubeconfig: Option<String>,
    /// Context of the kubeconfig; its current one by default.
    pub context: Option<String>,
    /// Service account of the workers. Its token is never mounted.
    pub service_account: String,
    /// Image of the agent, for workers that don't ask for one.
    pub image: String,
    /// When the kubelet pulls the image.
    pub image_pull_policy: ImagePullPolicy,
    /// Names of the Secrets with registry credentials.
    pub image_pull_secrets: Vec<String>,
    /// CPU set aside for a worker that does not say.
    pub default_cpu_request: String,
    /// Memory set aside for a worker that does not say.
    pub default_memory_request: String,
    /// CPU at most for a worker that does not say.
    pub default_cpu_limit: String,
    /// Memory at most for a worker that does not say.
    pub default_memory_limit: String,
    /// Extended resources (`nvidia.com/gpu`) that every worker is given, as request and limit alike.
    pub extended_resources: BTreeMap<String, String>,
    /// Whether nodes are added on demand. Then a pending worker is what makes one come, and no job is
    /// refused or held back because of the nodes that are there now.
    pub node_autoscaling: bool,
    /// Labels a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are tolerated.
    pub tolerations: Vec<KubernetesToleration>,
    /// Affinity, as the Kubernetes API spells it.
    pub affinity: Option<Affinity>,
    /// Topology spread constraints, as the Kubernetes API spells them.
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Names that resolve to fixed addresses inside a worker.
    pub host_aliases: Vec<HostAlias>,
    /// Further volumes, as the Kubernetes API spells them.
    pub volumes: Vec<Volume>,
    /// Where the further volumes are mounted.
    pub volume_mounts: Vec<VolumeMount>,
    /// Seconds between SIGTERM and SIGKILL when a worker is removed.
    pub grace_period_seconds: u32,
    /// Seconds a worker may stay without a node, and then without a running container, until it
    /// counts as failed.
    pub startup_timeout_seconds: u32,
    /// Seconds a worker whose job has ended with a result is kept for inspection. `None` removes it at
    /// once, as every other worker is.
    pub ttl_seconds_after_finished: Option<u32>,
    /// Seconds after the grace period until a pod that is still there is deleted by force, for lost
    /// nodes.
    /// `None` never does: a forced removal may leave the container running where no one sees it.
    pub force_delete_after_seconds: Option<u32>,
    /// Labels of every worker. They can't override the provider's own.
    pub labels: BTreeMap<String, String>,
    /// Annotations of every worker.
    pub annotations: BTreeMap<String, String>,
    /// Priority class of the pods.
    pub priority_class: Option<String>,
    /// Runtime class of the pods.
    pub runtime_class: Option<String>,
    /// What the kubelet does when the agent fails.
    pub restart_policy: RestartPolicy,
    /// Requests a second to the API server in the long run; the watch is not counted.
    pub api_requests_per_second: u32,
    /// Requests that may be made at once before that rate holds.
    pub api_burst: u32,
    /// Size limit of the workspace volume.
    pub workspace_size: String,
    /// Size limit of `/tmp`.
    pub tmp_size: String,
}

/// When the kubelet pulls an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImagePullPolicy {
    /// For every start.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// Never: it has to be on the node.
    Never,
}

impl ImagePullPolicy {
    /// The name Kubernetes has for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// What the kubelet does when the agent ends with a failure.
///
/// There is no `Always`: an agent that is done must not be started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Nothing; the control plane makes a new worker.
    Never,
    /// Restarts it, for an agent that could not register yet.
    OnFailure,
}

impl RestartPolicy {
    /// The name Kubernetes has for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "Never",
            Self::OnFailure => "OnFailure",
        }
    }
}

/// Names that resolve to one address, in the worker's `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostAlias {
    /// An IPv4 or IPv6 address.
    pub ip: String,
    /// The names.
    pub hostnames: Vec<String>,
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        Self {
            namespace: "hodei-jobs-workers".to_owned(),
            kubeconfig: None,
            context: None,
            service_account: "hodei-jobs-worker".to_owned(),
            image: "hodei-jobs-worker:latest".to_owned(),
            image_pull_policy: ImagePullPolicy::IfNotPresent,
            image_pull_secrets: Vec::new(),
            default_cpu_request: "500m".to_owned(),
            default_memory_request: "1Gi".to_owned(),
            default_cpu_limit: "2".to_owned(),
            default_memory_limit: "4Gi".to_owned(),
            extended_resources: BTreeMap::new(),
            node_autoscaling: false,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            affinity: None,
            topology_spread_constraints: Vec::new(),
            host_aliases: Vec::new(),
            volumes: Vec::new(),
            volume_mounts: Vec::new(),
            grace_period_seconds: 30,
            startup_timeout_seconds: 300,
            ttl_seconds_after_finished: None,
            force_delete_after_seconds: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            priority_class: None,
            runtime_class: None,
            restart_policy: RestartPolicy::Never,
            api_requests_per_second: 50,
            api_burst: 100,
            workspace_size: "10Gi".to_owned(),
            tmp_size: "1Gi".to_owned(),
        }
    }
}

impl KubernetesConfig {
    /// A builder that starts from the defaults.
    #[must_use]
    pub fn builder() -> KubernetesConfigBuilder {
        KubernetesConfigBuilder::default()
    }
}

/// Makes a [`KubernetesConfig`]; the rules are checked once, by [`Self::build`].
#[derive(Debug, Clone, Default)]
pub struct KubernetesConfigBuilder {
    config: KubernetesConfig,
}

macro_rules! setters {
    ($($(#[$doc:meta])* $field:ident: $type:ty;)*) => {
        $(
            $(#[$doc])*
            #[must_use]
            pub fn $field(mut self, $field: impl Into<$type>) -> Self {
                self.config.$field = $field.into();
                self
            }
        )*
    };
}

impl KubernetesConfigBuilder {
    setters! {
        /// Sets [`KubernetesConfig::namespace`].
        namespace: String;
        /// Sets [`KubernetesConfig::kubeconfig`].
        kubeconfig: Option<String>;
        /// Sets [`KubernetesConfig::context`].
        context: Option<String>;
        /// Sets [`KubernetesConfig::service_account`].
        service_account: String;
        /// Sets [`KubernetesConfig::image`].
        image: String;
        /// Sets [`KubernetesConfig::image_pull_policy`].
        image_pull_policy: ImagePullPolicy;
        /// Sets [`KubernetesConfig::image_pull_secrets`].
        image_pull_secrets: Vec<String>;
        /// Sets [`KubernetesConfig::default_cpu_request`].
        default_cpu_request: String;
        /// Sets [`KubernetesConfig::default_memory_request`].
        default_memory_request: String;
        /// Sets [`KubernetesConfig::default_cpu_limit`].
        default_cpu_limit: String;
        /// Sets [`KubernetesConfig::default_memory_limit`].
        default_memory_limit: String;
        /// Sets [`KubernetesConfig::extended_resources`].
        extended_resources: BTreeMap<String, String>;
        /// Sets [`KubernetesConfig::node_autoscaling`].
        node_autoscaling: bool;
        /// Sets [`KubernetesConfig::node_selector`].
        node_selector: BTreeMap<String, String>;
        /// Sets [`KubernetesConfig::tolerations`].
        tolerations: Vec<KubernetesToleration>;
        /// Sets [`KubernetesConfig::affinity`].
        affinity: Option<Affinity>;
        /// Sets [`KubernetesConfig::topology_spread_constraints`].
        topology_spread_constraints: Vec<TopologySpreadConstraint>;
        /// Sets [`KubernetesConfig::host_aliases`].
        host_aliases: Vec<HostAlias>;
        /// Sets [`KubernetesConfig::volumes`].
        volumes: Vec<Volume>;
        /// Sets [`KubernetesConfig::volume_mounts`].
        volume_mounts: Vec<VolumeMount>;
        /// Sets [`KubernetesConfig::grace_period_seconds`].
        grace_period_seconds: u32;
        /// Sets [`KubernetesConfig::startup_timeout_seconds`].
        startup_timeout_seconds: u32;
        /// Sets [`KubernetesConfig::ttl_seconds_after_finished`].
        ttl_seconds_after_finished: Option<u32>;
        /// Sets [`KubernetesConfig::force_delete_after_seconds`].
        force_delete_after_seconds: Option<u32>;
        /// Sets [`KubernetesConfig::labels`].
        labels: BTreeMap<String, String>;
        /// Sets [`KubernetesConfig::annotations`].
        annotations: BTreeMap<String, String>;
        /// Sets [`KubernetesConfig::priority_class`].
        priority_class: Option<String>;
        /// Sets [`KubernetesConfig::runtime_class`].
        runtime_class: Option<String>;
        /// Sets [`KubernetesConfig::restart_policy`].
        restart_policy: RestartPolicy;
        /// Sets [`KubernetesConfig::api_requests_per_second`].
        api_requests_per_second: u32;
        /// Sets [`KubernetesConfig::api_burst`].
        api_burst: u32;
        /// Sets [`KubernetesConfig::workspace_size`].
        workspace_size: String;
        /// Sets [`KubernetesConfig::tmp_size`].
        tmp_size: String;
    }

    /// The configuration.
    ///
    /// # Errors
    /// Every mistake, each with its field.
    pub fn build(self) -> Result<KubernetesConfig, InvalidConfig> {
        self.config.validate()?;
        Ok(self.config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_object_is_the_default_configuration() {
        let config: KubernetesConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(config, KubernetesConfig::default());
        config.validate().unwrap();
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = serde_json::from_str::<KubernetesConfig>(r#"{"namespce": "x"}"#).unwrap_err();
        assert!(error.to_string().contains("namespce"), "{error}");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let config = KubernetesConfig::builder()
            .namespace("team-a")
            .tolerations(vec!["gpu=true:NoSchedule".parse().unwrap()])
            .host_aliases(vec![HostAlias {
                ip: "172.18.0.1".into(),
                hostnames: vec!["host.docker.internal".into()],
            }])
            .force_delete_after_seconds(60)
            .build()
            .unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<KubernetesConfig>(&text).unwrap(), config);
    }
}

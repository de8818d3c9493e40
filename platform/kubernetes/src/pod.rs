//! What a worker is made of: one Pod that passes the Pod Security level `restricted`, and one Secret
//! with its one-time password. Pure functions; sending them is for `create`.

use std::collections::BTreeMap;

use hodei_core::{
    id::{ProviderId, WorkerId},
    provider::WorkerSpec,
    quantity::parse_bytes,
    secret::Secret as Otp,
    spec::Resources,
};
use k8s_openapi::{
    api::core::v1::{
        Affinity, Capabilities, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource,
        HostAlias as ApiHostAlias, LocalObjectReference, NodeSelectorRequirement, NodeSelectorTerm,
        ObjectFieldSelector, Pod, PodSecurityContext, PodSpec, PreferredSchedulingTerm,
        ResourceRequirements, SeccompProfile, Secret, SecretKeySelector, SecurityContext, Volume,
        VolumeMount,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};

use crate::{
    config::{HostAlias, KubernetesConfig, KubernetesToleration},
    names::{
        CONTAINER, OTP_KEY, OWN_MOUNTS, OWN_VOLUMES, WORKSPACE, owner_labels, pod_labels, pod_name,
        secret_name,
    },
};

/// User and group of the agent, as the image has them.
const UID: i64 = 1000;

/// Annotations that keep autoscalers from moving a worker, which can't be moved: its job would be
/// lost. By the documentation of cluster-autoscaler and of Karpenter.
const STAY: [(&str, &str); 2] = [
    ("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"),
    ("karpenter.sh/do-not-disrupt", "true"),
];

/// The worker's pod. The password is not in it, only where it is found.
#[must_use]
pub fn make_pod(provider: &ProviderId, config: &KubernetesConfig, spec: &WorkerSpec) -> Pod {
    let mut annotations: BTreeMap<String, String> =
        STAY.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    annotations.extend(config.annotations.clone());
    Pod {
        metadata: ObjectMeta {
            name: Some(pod_name(spec.worker)),
            namespace: Some(config.namespace.clone()),
            labels: Some(pod_labels(provider, &config.labels, spec)),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(make_pod_spec(config, spec)),
        status: None,
    }
}

/// The Secret that holds the worker's one-time password.
#[must_use]
pub fn make_secret(
    provider: &ProviderId,
    config: &KubernetesConfig,
    worker: WorkerId,
    otp: &Otp,
) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(secret_name(worker)),
            namespace: Some(config.namespace.clone()),
            labels: Some(owner_labels(provider, worker)),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        string_data: Some([(OTP_KEY.to_owned(), otp.expose().to_owned())].into()),
        ..Secret::default()
    }
}

fn make_pod_spec(config: &KubernetesConfig, spec: &WorkerSpec) -> PodSpec {
    let mut volumes = vec![
        make_volume(OWN_VOLUMES[0], &config.workspace_size),
        make_volume(OWN_VOLUMES[1], &config.tmp_size),
    ];
    volumes.extend(config.volumes.iter().cloned());
    let pull_secret = |name: &String| LocalObjectReference { name: name.clone() };
    PodSpec {
        containers: vec![make_container(config, spec)],
        restart_policy: Some(config.restart_policy.as_str().to_owned()),
        service_account_name: Some(config.service_account.clone()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(UID),
            run_as_group: Some(UID),
            fs_group: Some(UID),
            seccomp_profile: Some(runtime_default()),
            ..PodSecurityContext::default()
        }),
        // The kubelet reads 0 as "no deadline", so a shorter one is rounded up.
        active_deadline_seconds: spec
            .deadline
            .map(|limit| i64::try_from(limit.as_secs().max(1)).unwrap_or(i64::MAX)),
        termination_grace_period_seconds: Some(config.grace_period_seconds.into()),
        host_aliases: some_list(&config.host_aliases, |HostAlias { ip, hostnames }| ApiHostAlias {
            ip: ip.clone(),
            hostnames: Some(hostnames.clone()),
        }),
        image_pull_secrets: some_list(&config.image_pull_secrets, pull_secret),
        node_selector: (!config.node_selector.is_empty()).then(|| config.node_selector.clone()),
        tolerations: some_list(&config.tolerations, KubernetesToleration::to_api),
        affinity: make_affinity(config.affinity.clone(), &spec.avoid_nodes),
        topology_spread_constraints: some_list(&config.topology_spread_constraints, Clone::clone),
        priority_class_name: config.priority_class.clone(),
        runtime_class_name: config.runtime_class.clone(),
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}

/// The configured affinity, and a wish for other nodes than `avoid`. A node that is lost stays a
/// candidate of the scheduler until the cluster misses it.
fn make_affinity(configured: Option<Affinity>, avoid: &[String]) -> Option<Affinity> {
    if avoid.is_empty() {
        return configured;
    }
    let other_than = |node: &String| NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "NotIn".to_owned(),
        values: Some(vec![node.clone()]),
    };
    let elsewhere = PreferredSchedulingTerm {
        preference: NodeSelectorTerm {
            match_fields: Some(avoid.iter().map(other_than).collect()),
            ..NodeSelectorTerm::default()
        },
        weight: 100,
    };
    let mut affinity = configured.unwrap_or_default();
    let wishes = affinity.node_affinity.get_or_insert_default();
    wishes
        .preferred_during_scheduling_ignored_during_execution
        .get_or_insert_default()
        .push(elsewhere);
    Some(affinity)
}

fn make_container(config: &KubernetesConfig, spec: &WorkerSpec) -> Container {
    let mut mounts: Vec<_> = std::iter::zip(OWN_VOLUMES, OWN_MOUNTS)
        .map(|(name, path)| make_mount(name, path))
        .collect();
    mounts.extend(config.volume_mounts.iter().cloned());
    Container {
        name: CONTAINER.to_owned(),
        image: Some(spec.image.clone().unwrap_or_else(|| config.image.clone())),
        image_pull_policy: Some(config.image_pull_policy.as_str().to_owned()),
        env: Some(make_env(config, spec)),
        resources: Some(make_resources(config, &spec.resources)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            seccomp_profile: Some(runtime_default()),
            ..SecurityContext::default()
        }),
        // The last lines the agent wrote become the message of a failure.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

/// The provider's own variables come last and win over the caller's.
fn make_env(config: &KubernetesConfig, spec: &WorkerSpec) -> Vec<EnvVar> {
    let plain = |name: &str, value: &str| EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    };
    let from = |name: &str, source: EnvVarSource| EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(source),
    };
    let field = |path: &str| EnvVarSource {
        field_ref: Some(ObjectFieldSelector { api_version: None, field_path: path.to_owned() }),
        ..EnvVarSource::default()
    };
    let otp = EnvVarSource {
        secret_key_ref: Some(SecretKeySelector {
            name: secret_name(spec.worker),
            key: OTP_KEY.to_owned(),
            optional: None,
        }),
        ..EnvVarSource::default()
    };
    let own = [
        plain("HODEI_WORKER_ID", &spec.worker.to_string()),
        plain("HODEI_SERVER_ADDRESS", &spec.server_address),
        from("HODEI_OTP_TOKEN", otp),
        from("HODEI_POD_NAME", field("metadata.name")),
        from("HODEI_POD_UID", field("metadata.uid")),
        plain("HODEI_WORKSPACE", WORKSPACE),
        plain("HODEI_WORKER_SPOOL", &spool_bytes(config).to_string()),
    ];
    let given = spec.env.iter().filter(|(name, _)| own.iter().all(|mine| mine.name != **name));
    let mut env: Vec<_> = given.map(|(name, value)| plain(name, value)).collect();
    env.extend(own);
    env
}

/// A quarter of the temporary directory, which the job shares: a volume over its limit ends the pod.
fn spool_bytes(config: &KubernetesConfig) -> u64 {
    parse_bytes(&config.tmp_size).map_or(0, |bytes| bytes / 4)
}

/// What is asked for, with the defaults for what is not. A default never contradicts what was asked:
/// a request above the default limit raises the limit, a limit below the default request lowers it.
pub(crate) fn make_resources(config: &KubernetesConfig, asked: &Resources) -> ResourceRequirements {
    let effective = effective_resources(config, asked);
    let map = |cpu: Option<String>, memory: Option<String>| {
        let pairs = [("cpu", cpu), ("memory", memory)];
        let given = pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        // The API demands the same request and limit of an extended resource.
        let extended = config.extended_resources.clone();
        given.chain(extended).map(|(key, value)| (key, Quantity(value))).collect()
    };
    ResourceRequirements {
        requests: Some(map(effective.cpu_request, effective.memory_request)),
        limits: Some(map(effective.cpu_limit, effective.memory_limit)),
        ..ResourceRequirements::default()
    }
}

/// The requests and limits a worker gets; every field is set.
pub(crate) fn effective_resources(config: &KubernetesConfig, asked: &Resources) -> Resources {
    use hodei_core::quantity::{parse_bytes, parse_cpu_millis};
    let (cpu_request, cpu_limit) = reconcile(
        (&asked.cpu_request, &asked.cpu_limit),
        (&config.default_cpu_request, &config.default_cpu_limit),
        |text| parse_cpu_millis(text).ok(),
    );
    let (memory_request, memory_limit) = reconcile(
        (&asked.memory_request, &asked.memory_limit),
        (&config.default_memory_request, &config.default_memory_limit),
        |text| parse_bytes(text).ok(),
    );
    Resources {
        cpu_request: Some(cpu_request),
        cpu_limit: Some(cpu_limit),
        memory_request: Some(memory_request),
        memory_limit: Some(memory_limit),
    }
}

fn reconcile(
    asked: (&Option<String>, &Option<String>),
    default: (&String, &String),
    parse: impl Fn(&str) -> Option<u64>,
) -> (String, String) {
    let exceeds = |request: &str, limit: &str| parse(request) > parse(limit);
    match asked {
        (Some(request), Some(limit)) => (request.clone(), limit.clone()),
        (Some(request), None) if exceeds(request, default.1) => (request.clone(), request.clone()),
        (Some(request), None) => (request.clone(), default.1.clone()),
        (None, Some(limit)) if exceeds(default.0, limit) => (limit.clone(), limit.clone()),
        (None, Some(limit)) => (default.0.clone(), limit.clone()),
        (None, None) => (default.0.clone(), default.1.clone()),
    }
}

fn make_volume(name: &str, size: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: Some(Quantity(size.to_owned())),
            ..EmptyDirVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn make_mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

fn runtime_default() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }
}

fn some_list<T, U>(items: &[T], convert: impl FnMut(&T) -> U) -> Option<Vec<U>> {
    (!items.is_empty()).then(|| items.iter().map(convert).collect())
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;

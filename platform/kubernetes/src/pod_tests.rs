use std::time::Duration;

use hodei_core::id::{AttemptKey, Epoch};

use super::*;
use crate::testing::{make_spec, provider_id};

fn full_config() -> KubernetesConfig {
    serde_json::from_value(serde_json::json!({
        "image": "registry.local/worker:1",
        "image_pull_policy": "Always",
        "image_pull_secrets": ["registry"],
        "extended_resources": {"nvidia.com/gpu": "1"},
        "node_selector": {"disk": "ssd"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "host_aliases": [{"ip": "172.18.0.1", "hostnames": ["host.docker.internal"]}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]}},
        "topology_spread_constraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway"}],
        "volumes": [
            {"name": "cache", "persistentVolumeClaim": {"claimName": "cache"}},
            {"name": "own", "ephemeral": {"volumeClaimTemplate": {"spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}}}},
        ],
        "volume_mounts": [
            {"name": "cache", "mountPath": "/cache"}, {"name": "own", "mountPath": "/own"},
        ],
        "labels": {"team": "a"},
        "annotations": {"example.com/owner": "a"},
        "priority_class": "batch",
        "runtime_class": "gvisor",
        "restart_policy": "OnFailure",
        "tmp_size": "100M",
    }))
    .unwrap()
}

#[test]
fn the_pod_of_a_default_worker() {
    let pod = make_pod(&provider_id(), &KubernetesConfig::default(), &make_spec());
    insta::assert_json_snapshot!(pod);
}

#[test]
fn the_pod_with_every_option() {
    let mut spec = make_spec();
    let job = "0190b3a2-0000-7000-8000-00000000000a".parse().unwrap();
    spec.attempt = Some(AttemptKey { job, epoch: Epoch(3) });
    spec.image = Some("other:2".into());
    spec.deadline = Some(Duration::from_secs(3600));
    spec.resources.cpu_request = Some("3".into());
    spec.resources.memory_limit = Some("512Mi".into());
    spec.avoid_nodes = vec!["node-1".into(), "node-2".into()];
    spec.env.insert("RUST_LOG".into(), "debug".into());
    spec.env.insert("HODEI_WORKER_ID".into(), "forged".into());
    insta::assert_json_snapshot!(make_pod(&provider_id(), &full_config(), &spec));
}

#[test]
fn the_secret_belongs_to_one_worker() {
    let spec = make_spec();
    let config = KubernetesConfig::default();
    let secret = make_secret(&provider_id(), &config, spec.worker, &spec.otp);
    insta::assert_json_snapshot!(secret, {".stringData.otp" => "[otp]"});
}

#[test]
fn no_label_of_a_user_overrides_ownership() {
    let mut spec = make_spec();
    for key in ["app", "hodei.io/worker-id", "hodei.io/job-id", "hodei.io/new", "not a key"] {
        spec.labels.insert(key.into(), "forged".into());
    }
    spec.labels.insert("team".into(), "b".into());
    let pod = make_pod(&provider_id(), &KubernetesConfig::default(), &spec);
    let labels = pod.metadata.labels.unwrap();
    assert!(labels.values().all(|value| value != "forged"), "{labels:?}");
    assert_eq!(labels["team"], "b");
}

/// An agent that connects again has them from its container's environment: by then its Secret is gone.
#[test]
fn authorities_are_in_the_pod_as_they_were_given() {
    let mut spec = make_spec();
    let pem = "-----BEGIN CERTIFICATE-----\nMIIB+/==\n-----END CERTIFICATE-----\n";
    spec.env.insert("HODEI_CA_PEM".into(), pem.into());
    let pod = make_pod(&provider_id(), &full_config(), &spec).spec.unwrap();
    let env = pod.containers[0].env.as_ref().unwrap();
    let given = env.iter().find(|variable| variable.name == "HODEI_CA_PEM").unwrap();
    assert_eq!(given.value.as_deref(), Some(pem));
    assert!(given.value_from.is_none(), "{given:?}");
}

#[test]
fn the_password_is_not_in_the_pod() {
    let spec = make_spec();
    let pod = make_pod(&provider_id(), &full_config(), &spec);
    let text = serde_json::to_string(&pod).unwrap();
    assert!(!text.contains(spec.otp.expose()));
}

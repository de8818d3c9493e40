//! One worker, from create to gone.

use std::time::Duration;

use anyhow::{Context, Result};
use hodei_harness::case::{CaseEnv, CaseOptions, PROVIDER, command, run_case, run_case_with};
use hodei_proto::v1::{Job, JobSpec, JobState, Resources};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::pods::{NO_RETRY, pods, pods_ever, worker_of};

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_pod_provisioning() {
    let options = CaseOptions::new()
        .provider("node_selector", json!({"kubernetes.io/os": "linux"}))
        .provider(
            "tolerations",
            json!([{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}]),
        )
        .provider("labels", json!({"team": "e2e"}));
    run_case_with("lifecycle.pod-provisioning", options, async |env| {
        let resources = Some(Resources {
            cpu_request: "20m".into(),
            cpu_limit: "700m".into(),
            memory_request: "40Mi".into(),
            memory_limit: "90Mi".into(),
        });
        let job = env.submit(JobSpec { resources, ..command(&["sleep", "2"]) }).await?;
        let pod = env.await_pod("the worker's pod", |record| record.pod.spec.is_some()).await?;
        let worker = worker_of(&env.job(&job.id).await?)?;
        assert_eq!(pod.name_any(), format!("hodei-worker-{worker}"));
        assert_labels(&pod, &worker);
        assert_restricted(&pod)?;
        assert_container(&pod, &worker, &env.environment().worker_image.reference)?;
        let spec = serde_json::to_value(pod.spec.context("a pod without a spec")?)?;
        assert_eq!(spec["nodeSelector"]["kubernetes.io/os"], "linux");
        assert_eq!(spec["tolerations"][0]["key"], "spot");
        assert_eq!(spec["hostAliases"][0]["hostnames"][0], "host.docker.internal");
        assert_eq!(spec["terminationGracePeriodSeconds"], 5);
        env.await_job_state(&job.id, JobState::Succeeded).await?;
        env.await_gone().await?;
        assert_eq!(pods_ever(env), 1, "one job, one pod");
        Ok(())
    });
}

fn assert_labels(pod: &Pod, worker: &str) {
    let labels = pod.labels();
    for (key, value) in [
        ("app", "hodei-jobs-worker"),
        ("hodei.io/managed", "true"),
        ("hodei.io/provider", "kubernetes"),
        ("hodei.io/provider-id", PROVIDER),
        ("hodei.io/worker-id", worker),
        ("team", "e2e"),
    ] {
        assert_eq!(labels.get(key).map(String::as_str), Some(value), "label {key}");
    }
    assert!(labels.contains_key("hodei.io/attempt"), "{labels:?}");
}

fn assert_restricted(pod: &Pod) -> Result<()> {
    let spec = serde_json::to_value(pod.spec.as_ref().context("a pod without a spec")?)?;
    assert_eq!(spec["serviceAccountName"], "hodei-jobs-worker");
    assert_eq!(spec["automountServiceAccountToken"], false);
    let container = &spec["containers"][0]["securityContext"];
    assert_eq!(container["allowPrivilegeEscalation"], false);
    assert_eq!(container["readOnlyRootFilesystem"], true);
    assert_eq!(container["capabilities"]["drop"], json!(["ALL"]));
    let own = |field: &str| {
        [&spec["securityContext"][field], &container[field]]
            .into_iter()
            .find(|v| !v.is_null())
            .cloned()
    };
    assert_eq!(own("runAsNonRoot"), Some(json!(true)));
    assert_eq!(own("seccompProfile"), Some(json!({"type": "RuntimeDefault"})));
    Ok(())
}

fn assert_container(pod: &Pod, worker: &str, image: &str) -> Result<()> {
    let spec = serde_json::to_value(pod.spec.as_ref().context("a pod without a spec")?)?;
    let container = &spec["containers"][0];
    assert_eq!(container["image"], image);
    let limits = json!({"cpu": "700m", "memory": "90Mi"});
    let requests = json!({"cpu": "20m", "memory": "40Mi"});
    assert_eq!(container["resources"]["limits"], limits);
    assert_eq!(container["resources"]["requests"], requests);
    let env = container["env"].as_array().context("a container without environment")?;
    let of =
        |name: &str| env.iter().find(|variable| variable["name"] == name).unwrap_or(&Value::Null);
    assert_eq!(of("HODEI_WORKER_ID")["value"], worker);
    let address = of("HODEI_SERVER_ADDRESS")["value"].as_str().unwrap_or_default();
    assert!(address.starts_with("http://host.docker.internal:"), "{address}");
    let otp = of("HODEI_OTP_TOKEN");
    assert!(otp["value"].is_null(), "the one-time password is in the pod's spec");
    assert_eq!(otp["valueFrom"]["secretKeyRef"]["name"], format!("hodei-worker-{worker}-otp"));
    Ok(())
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_missing_image() {
    run_case("lifecycle.missing-image", async |env| {
        let image = "hodei-jobs-worker:no-such-tag".to_owned();
        let spec = JobSpec { image, retry: Some(NO_RETRY), ..command(&["true"]) };
        let job = env.submit(spec).await?;
        let job = env.await_job_state(&job.id, JobState::Failed).await?;
        let said = format!("{} {}", job.reason, job.attempts[0].reason).to_lowercase();
        assert!(said.contains("image"), "the reason does not name the image: {said}");
        let rows = env.rows("SELECT failure_cause FROM attempts").await?;
        assert_eq!(rows, [json!({"failure_cause": "image_pull"})]);
        env.await_gone().await?;
        assert_eq!(pods_ever(env), 1, "an image that is missing must not make a storm of pods");
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_pod_deleted_from_outside() {
    run_case("lifecycle.external-deletion", async |env| {
        let spec = JobSpec { retry: Some(NO_RETRY), ..command(&["sleep", "600"]) };
        let job = env.submit(spec).await?;
        let job = env.await_job_state(&job.id, JobState::Running).await?;
        let name = format!("hodei-worker-{}", worker_of(&job)?);
        pods(env).delete(&name, &DeleteParams::default().grace_period(0)).await?;
        let job = env.await_job_end(&job.id).await?;
        assert_eq!(job.state(), JobState::Failed, "{job:?}");
        assert!(!job.reason.is_empty(), "a lost worker is said to be lost");
        assert_eq!(job.attempts.len(), 1);
        env.await_gone().await?;
        Ok(())
    });
}

/// How long a worker may take to start in the cases that must not outlast it.
const STARTUP_SECONDS: u64 = 20;

/// A job of a worker that never starts: one failed attempt of this cause before the start-up limit is
/// over, one pod ever, none left. Returns what was said.
async fn assert_never_starts(env: &CaseEnv, spec: JobSpec, cause: &str) -> Result<String> {
    let job = env.submit(JobSpec { retry: Some(NO_RETRY), ..spec }).await?;
    let failed = |job: &Job| job.state() == JobState::Failed;
    let limit = Duration::from_secs(STARTUP_SECONDS);
    let job = env.await_job(&job.id, "failed", limit, failed).await?;
    let rows = env.rows("SELECT failure_cause FROM attempts").await?;
    assert_eq!(rows, [json!({"failure_cause": cause})], "{}", job.reason);
    env.await_gone().await?;
    assert_eq!(pods_ever(env), 1, "a worker that cannot start must not make a storm of pods");
    Ok(job.reason)
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_invalid_image_name() {
    let options = CaseOptions::new().provider("startup_timeout_seconds", STARTUP_SECONDS);
    run_case_with("lifecycle.invalid-image", options, async |env| {
        let image = "Not/A//Name::at-all".to_owned();
        let spec = JobSpec { image, ..command(&["true"]) };
        let said = assert_never_starts(env, spec, "invalid_image").await?;
        assert!(said.contains("InvalidImageName"), "{said}");
        assert!(said.contains("Not/A//Name::at-all"), "{said}");
        Ok(())
    });
}

/// Nothing listens at the registry's address, as in a cluster that lost its way to it.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_image_pull_fails() {
    let options = CaseOptions::new()
        .provider("image_pull_policy", "IfNotPresent")
        .provider("startup_timeout_seconds", STARTUP_SECONDS);
    run_case_with("lifecycle.image-pull", options, async |env| {
        let image = "127.0.0.1:1/no-such-worker:latest".to_owned();
        let spec = JobSpec { image, ..command(&["true"]) };
        let said = assert_never_starts(env, spec, "image_pull").await?;
        assert!(said.contains("127.0.0.1:1/no-such-worker"), "{said}");
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_unschedulable() {
    let options = CaseOptions::new()
        .provider("node_selector", json!({"hodei.io/no-such-node": "true"}))
        .provider("startup_timeout_seconds", 3);
    run_case_with("lifecycle.unschedulable", options, async |env| {
        let said = assert_never_starts(env, command(&["true"]), "unschedulable").await?;
        assert!(said.contains("node affinity/selector"), "the scheduler's words: {said}");
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_pending_pod_deleted_from_outside() {
    let options =
        CaseOptions::new().provider("node_selector", json!({"hodei.io/no-such-node": "true"}));
    run_case_with("lifecycle.pending-deletion", options, async |env| {
        let spec = JobSpec { retry: Some(NO_RETRY), ..command(&["true"]) };
        let job = env.submit(spec).await?;
        let pod = env.await_pod("a pod that waits", |record| !record.gone).await?;
        pods(env).delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await?;
        let job = env.await_job_state(&job.id, JobState::Failed).await?;
        let rows = env.rows("SELECT failure_cause FROM attempts").await?;
        assert_eq!(rows, [json!({"failure_cause": "deleted_externally"})], "{}", job.reason);
        env.await_gone().await?;
        assert_eq!(pods_ever(env), 1);
        Ok(())
    });
}

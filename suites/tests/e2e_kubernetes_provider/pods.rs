//! Pods and the questions asked of them, for all layers.

use anyhow::{Context, Result};
use hodei_harness::case::CaseEnv;
use hodei_proto::v1::{Job, RetryPolicy};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::Api;
use serde_json::{Value, json};

/// No further attempts, so that the first failure is the job's.
pub(crate) const NO_RETRY: RetryPolicy = RetryPolicy { infrastructure: Some(0), command: Some(0) };

/// A pod that the `restricted` level admits, made from the worker image.
pub(crate) fn make_pod(env: &CaseEnv, name: &str, command: &[&str]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": hodei_harness::case::WORKER_ACCOUNT,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "main",
                "image": env.environment().worker_image.reference,
                "imagePullPolicy": "Never",
                "command": command,
                "resources": {
                    "requests": {"cpu": "10m", "memory": "16Mi"},
                    "limits": {"cpu": "100m", "memory": "32Mi"},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
            }],
        },
    })
}

pub(crate) fn pods(env: &CaseEnv) -> Api<Pod> {
    Api::namespaced(env.kube(), env.namespace())
}

/// The id of the worker of a job's latest attempt.
pub(crate) fn worker_of(job: &Job) -> Result<String> {
    let attempt = job.attempts.last().context("the job has no attempt yet")?;
    Ok(attempt.worker_id.clone())
}

/// The one-time password of a worker that has not registered, as only an administrator can read it.
pub(crate) async fn read_otp(env: &CaseEnv, worker: &str) -> Result<String> {
    let secrets = Api::<Secret>::namespaced(env.kube(), env.namespace());
    otp_of(secrets.get(&format!("hodei-worker-{worker}-otp")).await?)
}

/// The one-time password in a worker's Secret.
pub(crate) fn otp_of(secret: Secret) -> Result<String> {
    let value = secret.data.unwrap_or_default().into_values().next().context("an empty Secret")?;
    Ok(String::from_utf8(value.0)?)
}

/// No worker had to be found and removed by the sweep: each was destroyed because it was done.
pub(crate) async fn assert_no_strays(env: &CaseEnv) -> Result<()> {
    let strays = env.rows("SELECT reason FROM audit_events WHERE kind = 'stray_destroyed'").await?;
    assert_eq!(strays, Vec::<Value>::new());
    Ok(())
}

/// How many pods of the provider the namespace has ever had.
pub(crate) fn pods_ever(env: &CaseEnv) -> usize {
    env.recorder().pods().len()
}

//! A worker's removal: with its grace, confirmed, as often as it is asked for, and of nothing else.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hodei_core::provider::{LogQuery, WorkerHandle, WorkerPhase, WorkerProvider};
use hodei_harness::case::{CaseEnv, CaseOptions, run_case_with};
use hodei_harness::wait::{Observed, await_until};
use hodei_kubernetes::KubernetesProvider;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::json;

use crate::direct::{
    UNTIL_TOLD, WORKER_DEADLINE, await_running, await_worker, connect, connect_as,
    connect_stand_in, find_secret, make_script, make_worker, over_stand_in,
};
use crate::pods::pods;

/// What two busy cores may take beside the grace itself.
const SLACK: Duration = Duration::from_secs(12);

/// Whether neither the pod nor the Secret of a worker is there, asked of the API server.
async fn assert_nothing_left(env: &CaseEnv, handle: &WorkerHandle) -> Result<()> {
    let pod = pods(env).get_opt(&handle.resource).await?;
    assert!(pod.is_none(), "the pod is still there: {:?}", pod.and_then(|pod| pod.status));
    assert!(find_secret(env, handle.worker).await?.is_none(), "the Secret is still there");
    Ok(())
}

/// Waits until the worker's script has said that it is ready.
async fn await_ready(provider: &KubernetesProvider, handle: &WorkerHandle) -> Result<()> {
    let said = await_until("the script to be ready", WORKER_DEADLINE, async || {
        Ok(match provider.worker_logs(handle, LogQuery::default()).await {
            Ok(log) if log.iter().any(|entry| entry.line == "ready") => Observed::Ready(()),
            other => Observed::NotYet(format!("{other:?}")),
        })
    });
    Ok(said.await?)
}

/// How long the removal of a worker took that runs this script.
async fn time_removal(
    env: &CaseEnv,
    provider: &KubernetesProvider,
    script: &str,
) -> Result<Duration> {
    let handle = provider.create_worker(&make_script(script)).await?;
    await_ready(provider, &handle).await?;
    let started = Instant::now();
    provider.destroy_worker(&handle).await?;
    let took = started.elapsed();
    assert_nothing_left(env, &handle).await?;
    Ok(took)
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_destroy_grace() {
    run_case_with("lifecycle.destroy-grace", CaseOptions::cluster_only(), async |env| {
        let grace = Duration::from_secs(4);
        let short = connect_stand_in(env, json!({"grace_period_seconds": 4})).await?;
        let long = over_stand_in(json!({"grace_period_seconds": 120}));
        let long = connect_as(env, "patient", long).await?;
        let deaf = "trap '' TERM; echo ready; while :; do sleep 1; done";
        let polite = format!("trap 'exit 0' TERM; echo ready; {UNTIL_TOLD}");
        let (deaf, polite) =
            tokio::try_join!(time_removal(env, &short, deaf), time_removal(env, &long, &polite))?;
        assert!(deaf >= grace, "killed after {deaf:?}, before its grace of {grace:?} was over");
        assert!(deaf < grace + SLACK, "one that ignores SIGTERM lived for {deaf:?}");
        assert!(polite < SLACK, "one that heeds SIGTERM was waited for {polite:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_destroy_is_confirmed_and_idempotent() {
    run_case_with("lifecycle.destroy-idempotent", CaseOptions::cluster_only(), async |env| {
        let provider = connect(env).await?;
        let handle = provider.create_worker(&make_worker()).await?;
        await_running(&provider, &handle).await?;
        let twice = (provider.destroy_worker(&handle), provider.destroy_worker(&handle));
        tokio::try_join!(twice.0, twice.1)?;
        assert_nothing_left(env, &handle).await?;
        assert!(provider.list_workers().await?.is_empty(), "the view still has it");
        provider.destroy_worker(&handle).await?;
        provider.destroy_unknown(handle.worker).await?;

        // Gone before it is asked for, and never there at all.
        let handle = provider.create_worker(&make_worker()).await?;
        pods(env).delete(&handle.resource, &DeleteParams::default().grace_period(0)).await?;
        provider.destroy_worker(&handle).await?;
        assert_nothing_left(env, &handle).await?;
        provider.destroy_unknown(make_worker().worker).await?;

        // By its id only, as after a crash between the create and its answer.
        let handle = provider.create_worker(&make_worker()).await?;
        provider.destroy_unknown(handle.worker).await?;
        assert_nothing_left(env, &handle).await
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_destroy_leaves_a_namesake() {
    run_case_with("lifecycle.destroy-namesake", CaseOptions::cluster_only(), async |env| {
        let provider = connect(env).await?;
        let spec = make_worker();
        let first = provider.create_worker(&spec).await?;
        pods(env).delete(&first.resource, &DeleteParams::default().grace_period(0)).await?;
        await_worker(&provider, &first, "gone", |s| s.phase == WorkerPhase::Gone).await?;
        let second = provider.create_worker(&spec).await?;
        assert_eq!(second.resource, first.resource);
        assert_ne!(second.uid, first.uid);
        await_running(&provider, &second).await?;
        provider.destroy_worker(&first).await?;
        let pod: Pod = pods(env).get(&second.resource).await?;
        assert_eq!(pod.uid(), Some(second.uid.clone()));
        assert_eq!(pod.metadata.deletion_timestamp, None, "the namesake was told to go");
        await_running(&provider, &second).await?;
        provider.destroy_worker(&second).await?;
        assert_nothing_left(env, &second).await
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_destroy_removes_the_volume() {
    run_case_with("lifecycle.destroy-volume", CaseOptions::cluster_only(), async |env| {
        let template = json!({
            "metadata": {"labels": {"hodei.io/managed": "true"}},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Mi"}},
            },
        });
        let volume = json!({"name": "data", "ephemeral": {"volumeClaimTemplate": template}});
        let mounts = json!([{"name": "data", "mountPath": "/data"}]);
        let overrides = json!({"volumes": [volume], "volume_mounts": mounts});
        let provider = connect_as(env, "direct", overrides).await?;
        let handle = provider.create_worker(&make_worker()).await?;
        await_running(&provider, &handle).await?;
        let claims = Api::<PersistentVolumeClaim>::namespaced(env.kube(), env.namespace());
        let claim = claims.get(&format!("{}-data", handle.resource)).await?;
        let phase = claim.status.context("a claim without a status")?.phase;
        assert_eq!(phase.as_deref(), Some("Bound"));
        provider.destroy_worker(&handle).await?;
        assert_nothing_left(env, &handle).await?;
        let none = await_until("no claim to be left", WORKER_DEADLINE, async || {
            Ok(match claims.list(&ListParams::default()).await {
                Ok(left) if left.items.is_empty() => Observed::Ready(()),
                other => Observed::NotYet(format!("{other:?}")),
            })
        });
        Ok(none.await?)
    });
}

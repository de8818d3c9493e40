//! What an operator does to a cluster in use: its API server restarts, nodes are cordoned and
//! drained, pods are evicted. These cases run alone.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use hodei_core::provider::{
    Fulfilment, NodeCount, ProviderCapabilities, ProviderEvent, Requirements, WorkerHandle,
    WorkerPhase, WorkerProvider,
};
use hodei_harness::case::{CaseEnv, CaseOptions, command, run_case, run_case_with};
use hodei_harness::wait::{Observed, await_until};
use hodei_kubernetes::KubernetesProvider;
use hodei_proto::v1::{Job, JobSpec, JobState, RetryPolicy};
use kube::api::DeleteParams;
use serde_json::json;

use crate::direct::{
    WORKER_DEADLINE, await_running, await_worker, connect, connect_with_nodes, make_worker,
};
use crate::pods::{pods, pods_ever, worker_of};

/// A case that waits for a control plane.
const DEADLINE: Duration = Duration::from_secs(300);
/// From the API server's kill to the first request that it answers again.
const API_DEADLINE: Duration = Duration::from_secs(120);
/// Runs on and on in the first attempt, and ends at once in any other.
const UNLESS_FIRST: &str = "echo attempt $HODEI_ATTEMPT; [ $HODEI_ATTEMPT -gt 1 ] || sleep 600";

/// A job that ends only if its first worker is lost; it runs. A lost node may cost several attempts:
/// until the cluster has missed it, new workers are put there too.
pub(crate) async fn submit_until_lost(env: &CaseEnv) -> Result<Job> {
    let retry = Some(RetryPolicy { infrastructure: Some(5), command: Some(0) });
    let job = env.submit(JobSpec { retry, ..command(&["sh", "-c", UNLESS_FIRST]) }).await?;
    Ok(env.await_job_state(&job.id, JobState::Running).await?)
}

/// The pod of the worker of a job's latest attempt.
pub(crate) fn pod_of(job: &Job) -> Result<String> {
    Ok(format!("hodei-worker-{}", worker_of(job)?))
}

/// The node that a worker's pod is or was on.
pub(crate) fn node_of(env: &CaseEnv, pod: &str) -> Result<String> {
    let all = env.recorder().pods();
    let record = all.iter().find(|record| record.pod.metadata.name.as_deref() == Some(pod));
    let spec = record.and_then(|record| record.pod.spec.as_ref());
    spec.and_then(|spec| spec.node_name.clone()).with_context(|| format!("{pod} is on no node"))
}

/// That a job succeeded in its second attempt, because the first was lost for this cause.
pub(crate) async fn assert_second_attempt(env: &CaseEnv, job: &Job, cause: &str) -> Result<()> {
    let epochs: Vec<_> = job.attempts.iter().map(|attempt| attempt.epoch).collect();
    assert_eq!(epochs, [1, 2], "{job:?}");
    let rows = env.rows("SELECT state, failure_cause FROM attempts ORDER BY epoch").await?;
    let expected = json!([
        {"state": "lost", "failure_cause": cause},
        {"state": "finished", "failure_cause": null},
    ]);
    assert_eq!(json!(rows), expected, "{job:?}");
    assert!(!job.attempts[0].reason.is_empty(), "a lost worker is said to be lost: {job:?}");
    assert_eq!(env.job_output(&job.id).await?.stdout(), "attempt 1\nattempt 2\n");
    Ok(())
}

/// Deletes a pod with the first request that the API server takes.
async fn delete_at_first(env: &CaseEnv, handle: &WorkerHandle) -> Result<()> {
    let at_once = DeleteParams::default().grace_period(0);
    let deleted =
        await_until(format!("{} to be deleted", handle.resource), API_DEADLINE, async || {
            Ok(match pods(env).delete(&handle.resource, &at_once).await {
                Ok(_) => Observed::Ready(()),
                Err(kube::Error::Api(status)) if status.is_not_found() => Observed::Ready(()),
                Err(error) => Observed::NotYet(error.to_string()),
            })
        });
    Ok(deleted.await?)
}

/// Restarts the API server, and has a worker's pod deleted before it is back for everybody.
async fn restart_and_delete(env: &CaseEnv, deleted: &WorkerHandle) -> Result<()> {
    let restarted = async {
        env.restart_api_server().await?;
        anyhow::Ok(())
    };
    let deletion = async {
        // One that got through before the kill would prove nothing.
        await_until("the API server to be away", API_DEADLINE, async || {
            Ok(match pods(env).get(&deleted.resource).await {
                Ok(_) => Observed::NotYet("it answers".to_owned()),
                Err(_) => Observed::Ready(()),
            })
        })
        .await?;
        delete_at_first(env, deleted).await
    };
    tokio::try_join!(restarted, deletion)?;
    Ok(())
}

/// What was told so far of one worker.
fn told_of(
    events: &mut BoxStream<'static, ProviderEvent>,
    handle: &WorkerHandle,
) -> Vec<WorkerPhase> {
    let mut told = Vec::new();
    while let Some(Some(event)) = events.next().now_or_never() {
        match event {
            ProviderEvent::Changed(seen) if seen.handle == *handle => told.push(seen.phase),
            _ => {}
        }
    }
    told
}

async fn create_running(provider: &KubernetesProvider) -> Result<WorkerHandle> {
    let handle = provider.create_worker(&make_worker()).await?;
    await_running(provider, &handle).await?;
    Ok(handle)
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_exclusive_api_server_restart() {
    let options = CaseOptions::new().deadline(DEADLINE);
    run_case_with("lifecycle.api-server-restart", options, async |env| {
        let mut gate = env.make_gate()?;
        let text = format!("{}; echo through", gate.wait());
        let job = env.submit_command(&["sh", "-c", &text]).await?;
        env.await_job_state(&job.id, JobState::Running).await?;
        let provider = connect(env).await?;
        let stays = create_running(&provider).await?;
        let goes = create_running(&provider).await?;
        let mut events = provider.subscribe();
        restart_and_delete(env, &goes).await?;
        await_worker(&provider, &goes, "gone", |seen| seen.phase == WorkerPhase::Gone).await?;
        let next = create_running(&provider).await?;
        await_running(&provider, &stays).await?;
        let told = told_of(&mut events, &stays);
        assert!(told.iter().all(|phase| *phase == WorkerPhase::Running), "{told:?}");
        let listed = provider.list_workers().await?;
        let mut listed: Vec<_> = listed.into_iter().map(|seen| seen.handle).collect();
        listed.sort_by_key(|handle| handle.worker != stays.worker);
        assert_eq!(listed, [stays.clone(), next.clone()]);
        gate.open().await?;
        let job = env.await_job_state(&job.id, JobState::Succeeded).await?;
        assert_eq!(job.attempts.len(), 1, "no worker was taken for gone: {job:?}");
        assert_eq!(env.job_output(&job.id).await?.stdout(), "through\n");
        for handle in [stays, goes, next] {
            provider.destroy_worker(&handle).await?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_evicted_worker() {
    run_case("lifecycle.evicted", async |env| {
        let job = submit_until_lost(env).await?;
        env.evict(&pod_of(&job)?).await?;
        let job = env.await_job_state(&job.id, JobState::Succeeded).await?;
        assert_second_attempt(env, &job, "evicted").await?;
        env.await_gone().await?;
        assert_eq!(pods_ever(env), 2, "an attempt is a pod");
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_exclusive_drained_node() {
    run_case_with("lifecycle.drained", CaseOptions::new().deadline(DEADLINE), async |env| {
        let job = submit_until_lost(env).await?;
        let first = node_of(env, &pod_of(&job)?)?;
        assert_eq!(env.drain(&first).await?, 1, "the worker is all there is of ours");
        let job = env.await_job_state(&job.id, JobState::Succeeded).await?;
        assert_second_attempt(env, &job, "evicted").await?;
        let second = node_of(env, &pod_of(&job)?)?;
        assert_ne!(second, first, "a drained node takes no worker");
        env.uncordon(&first).await?;
        env.await_gone().await?;
        Ok(())
    });
}

async fn cordon_all(env: &mut CaseEnv) -> Result<Vec<String>> {
    let nodes = env.environment().cluster.nodes.clone();
    for node in &nodes {
        env.cordon(node).await?;
    }
    Ok(nodes)
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_exclusive_cordoned_nodes() {
    run_case_with("lifecycle.cordoned", CaseOptions::new().deadline(DEADLINE), async |env| {
        let nodes = cordon_all(env).await?;
        let job = env.submit_command(&["echo", "at last"]).await?;
        let said = |job: &Job| {
            ["Unschedulable", "were unschedulable"].iter().all(|words| job.reason.contains(words))
        };
        let waits = env.await_job(&job.id, "told what it waits for", WORKER_DEADLINE, said).await?;
        assert_eq!(waits.attempts.len(), 1, "{waits:?}");
        for node in &nodes {
            env.uncordon(node).await?;
        }
        let job = env.await_job_state(&job.id, JobState::Succeeded).await?;
        assert_eq!(job.attempts.len(), 1, "waiting costs no attempt: {job:?}");
        assert_eq!(env.job_output(&job.id).await?.stdout(), "at last\n");
        env.await_gone().await?;
        Ok(())
    });
}

/// Waits until so many nodes are schedulable to the provider; what it says then of a plain worker.
async fn await_schedulable(
    provider: &KubernetesProvider,
    wanted: NodeCount,
) -> Result<(Fulfilment, ProviderCapabilities)> {
    let what = format!("{} schedulable nodes", wanted.schedulable);
    let offer = await_until(what, WORKER_DEADLINE, async || {
        Ok(match provider.capabilities().await {
            Ok(offer) if offer.nodes == Some(wanted) => Observed::Ready(offer),
            other => Observed::NotYet(format!("{other:?}")),
        })
    });
    let offer = offer.await?;
    Ok((provider.can_fulfill(&Requirements::default()).await?, offer))
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_exclusive_capabilities_follow_nodes() {
    run_case_with("lifecycle.capabilities-nodes", CaseOptions::cluster_only(), async |env| {
        let provider = connect_with_nodes(env, json!({})).await?;
        let all = env.environment().cluster.nodes.len();
        let open = NodeCount { total: all, admitting: all, schedulable: all };
        let (verdict, free) = await_schedulable(&provider, open).await?;
        assert_eq!(verdict, Fulfilment::Yes);
        let nodes = cordon_all(env).await?;
        let closed = NodeCount { schedulable: 0, ..open };
        let (verdict, later) = await_schedulable(&provider, closed).await?;
        let words = format!("{all} cordoned");
        let not_now = matches!(&verdict, Fulfilment::NotNow(why) if why.contains(&words));
        assert!(not_now, "{verdict:?}");
        assert_eq!(later.max_cpu_millis, free.max_cpu_millis, "a cordoned node may come back");
        for node in &nodes {
            env.uncordon(node).await?;
        }
        let (verdict, _) = await_schedulable(&provider, open).await?;
        assert_eq!(verdict, Fulfilment::Yes);
        Ok(())
    });
}

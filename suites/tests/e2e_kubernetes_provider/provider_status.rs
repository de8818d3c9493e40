//! What the provider sees of a worker, in every phase and at every end.

use anyhow::Result;
use futures::StreamExt;
use futures::stream::BoxStream;
use hodei_core::failure::FailureCause;
use hodei_core::id::WorkerId;
use hodei_core::provider::{ProviderEvent, WorkerPhase, WorkerProvider};
use hodei_harness::case::{CaseOptions, command, run_case, run_case_with};
use hodei_proto::v1::{JobSpec, JobState, Resources};
use serde_json::json;

use crate::direct::{
    UNTIL_TOLD, WORKER_DEADLINE, await_failed, await_worker, connect, connect_stand_in,
    make_script, make_worker,
};
use crate::pods::{NO_RETRY, pods_ever};

/// Fails once, and goes on when it is started again.
const FAILS_ONCE: &str = "[ -e again ] || { : > again; exit 3; }; ";

/// Every phase that subscribers are told of, with the restarts so far, until the worker is gone.
async fn phases_until_gone(
    events: &mut BoxStream<'static, ProviderEvent>,
    worker: WorkerId,
) -> Result<Vec<(WorkerPhase, u32)>> {
    let mut seen = Vec::new();
    let reading = async {
        while let Some(event) = events.next().await {
            let ProviderEvent::Changed(now) = event else { continue };
            if now.handle.worker == worker {
                seen.push((now.phase, now.restarts));
            }
            if matches!(seen.last(), Some((WorkerPhase::Gone, _))) {
                break;
            }
        }
    };
    tokio::time::timeout(WORKER_DEADLINE, reading).await?;
    Ok(seen)
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_worker_phases() {
    run_case_with("lifecycle.phases", CaseOptions::cluster_only(), async |env| {
        let provider = connect_stand_in(env, json!({"restart_policy": "OnFailure"})).await?;
        assert!(provider.list_workers().await?.is_empty());
        let mut events = provider.subscribe();
        let spec = make_script(&format!("{FAILS_ONCE}{UNTIL_TOLD}"));
        let handle = provider.create_worker(&spec).await?;
        let running = await_worker(&provider, &handle, "running again", |seen| {
            seen.phase == WorkerPhase::Running && seen.restarts == 1
        });
        let node = running.await?.node.unwrap_or_default();
        assert!(env.environment().cluster.nodes.contains(&node), "it runs on {node:?}");
        provider.destroy_worker(&handle).await?;
        let seen = phases_until_gone(&mut events, spec.worker).await?;
        let mut rest = seen.iter();
        for step in [
            (WorkerPhase::Pending, 0),
            (WorkerPhase::Starting, 0),
            (WorkerPhase::Running, 1),
            (WorkerPhase::Terminating, 1),
            (WorkerPhase::Gone, 1),
        ] {
            assert!(rest.any(|one| *one == step), "{step:?} is not, or not in order, in {seen:?}");
        }
        let phase = provider.worker_status(&handle).await?.observed.phase;
        assert_eq!(phase, WorkerPhase::Gone);
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_agent_ends_by_itself() {
    run_case_with("lifecycle.agent-exit", CaseOptions::cluster_only(), async |env| {
        let provider = connect_stand_in(env, json!({})).await?;
        let done = provider.create_worker(&make_script("exit 0")).await?;
        let failing = provider.create_worker(&make_script("echo no moon >&2; exit 7")).await?;
        let agents = connect(env).await?;
        let mut spec = make_worker();
        spec.server_address = "not an address".to_owned();
        let misled = agents.create_worker(&spec).await?;
        await_worker(&provider, &done, "succeeded", |s| s.phase == WorkerPhase::Succeeded).await?;
        let failure = await_failed(&provider, &failing).await?;
        assert_eq!(failure.cause, FailureCause::AgentExited);
        assert!(failure.message.contains("exit code 7: no moon"), "{}", failure.message);
        let failure = await_failed(&agents, &misled).await?;
        assert_eq!(failure.cause, FailureCause::AgentExited);
        assert!(failure.message.contains("exit code 2: "), "{}", failure.message);
        assert!(failure.message.contains("HODEI_SERVER_ADDRESS"), "{}", failure.message);
        for handle in [done, failing, misled] {
            provider.destroy_worker(&handle).await?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_crash_loop_is_a_failure() {
    run_case_with("lifecycle.crash-loop", CaseOptions::cluster_only(), async |env| {
        let provider = connect_stand_in(env, json!({"restart_policy": "OnFailure"})).await?;
        let handle = provider.create_worker(&make_script("echo no sun >&2; exit 5")).await?;
        let failure = await_failed(&provider, &handle).await?;
        assert_eq!(failure.cause, FailureCause::CrashLoop);
        for words in ["CrashLoopBackOff", "exit code 5: no sun"] {
            assert!(failure.message.contains(words), "{words} is not in {}", failure.message);
        }
        let restarts = provider.worker_status(&handle).await?.observed.restarts;
        assert!(restarts >= 1, "a loop has restarts");
        provider.destroy_worker(&handle).await?;
        Ok(())
    });
}

/// A part of the worker is killed and then all of it ends. The moment between them is for containerd,
/// which may lose an OOM event of cgroup v1 when the container ends with it.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_oom_killed_is_a_failure() {
    run_case_with("lifecycle.out-of-memory", CaseOptions::cluster_only(), async |env| {
        let provider = connect_stand_in(env, json!({})).await?;
        let mut spec = make_script("tail /dev/zero; sleep 1; exit 137");
        spec.resources.memory_limit = Some("48Mi".to_owned());
        let handle = provider.create_worker(&spec).await?;
        let failure = await_failed(&provider, &handle).await?;
        assert_eq!(failure.cause, FailureCause::OutOfMemory);
        assert!(failure.message.contains("OOMKilled"), "{}", failure.message);
        provider.destroy_worker(&handle).await?;
        Ok(())
    });
}

/// With cgroup v1 the kernel kills the job and the agent tells; with v2 the whole container goes and
/// the provider tells. A user must not have to know.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_job_out_of_memory() {
    run_case("lifecycle.job-out-of-memory", async |env| {
        let resources = Some(Resources { memory_limit: "64Mi".into(), ..Default::default() });
        let greedy = command(&["tail", "/dev/zero"]);
        let spec = JobSpec { resources, retry: Some(NO_RETRY), ..greedy };
        let job = env.submit(spec).await?;
        let job = env.await_job_state(&job.id, JobState::Failed).await?;
        let by_agent = job.outcome.as_ref().is_some_and(|outcome| outcome.out_of_memory);
        let rows = env.rows("SELECT failure_cause FROM attempts").await?;
        let by_provider = rows == [json!({"failure_cause": "out_of_memory"})];
        assert!(by_agent || by_provider, "{job:?} {rows:?}");
        let reason = job.reason.replace('_', " ");
        assert!(reason.contains("out of memory"), "{reason}");
        env.await_gone().await?;
        assert_eq!(pods_ever(env), 1, "what does not fit once does not fit twice");
        Ok(())
    });
}

//! The server is killed between two steps of making or removing a worker, or its database goes away
//! there: afterwards nothing is left and nothing is lost.
//!
//! A step of the Kubernetes API is held by the fault proxy, before or after the API server carried
//! it out; a step of the database is held by a lock on its row.

use std::time::Duration;

use anyhow::Result;
use futures::future::try_join_all;
use hodei_harness::api_proxy::{Fault, Match};
use hodei_harness::case::{
    CaseEnv, CaseOptions, is_final, pod_terminated, run_case, run_case_with,
};
use hodei_harness::postgres::HeldRows;
use hodei_harness::wait::{Observed, await_until};
use hodei_proto::v1::{Job, JobState};
use serde_json::json;

use crate::pods::{assert_no_strays, pods_ever};

/// From submit to the request that is held.
const HELD_DEADLINE: Duration = Duration::from_secs(60);
/// A worker that never was is given up after 40 s, and its job tried again after that.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(150);

/// Holds the next request at each of `steps`, before and after the API server carried it out.
fn hold(env: &CaseEnv, steps: [Match; 2]) -> Result<()> {
    for step in steps {
        env.api_proxy()?.inject(step.clone(), Fault::Silence, 1);
        env.api_proxy()?.inject(step, Fault::SilenceAfter, 1);
    }
    Ok(())
}

/// Waits until every fault has found its request.
async fn await_held(env: &CaseEnv) -> Result<()> {
    let held = await_until("each step to be held", HELD_DEADLINE, async || {
        let left = env.api_proxy()?.pending_faults();
        let state = format!("{left} requests are still to come");
        Ok(if left == 0 { Observed::Ready(()) } else { Observed::NotYet(state) })
    });
    Ok(held.await?)
}

/// Lets go of the request that is held and waits until what follows from it is being written, into a
/// row that stays locked until it is released.
async fn await_writing(env: &CaseEnv, column: &str) -> Result<HeldRows> {
    await_held(env).await?;
    let row = env.hold_rows("SELECT id FROM workers FOR UPDATE").await?;
    env.api_proxy()?.let_go();
    env.await_blocked(column).await?;
    Ok(row)
}

/// Kills the server as soon as every held request has arrived.
async fn kill_when_held(env: &mut CaseEnv) -> Result<()> {
    await_held(env).await?;
    env.server()?.kill().await?;
    env.api_proxy()?.cut_connections();
    Ok(env.server()?.start_again().await?)
}

async fn await_success(env: &CaseEnv, jobs: &[Job]) -> Result<Vec<Job>> {
    let ends = jobs
        .iter()
        .map(|job| env.await_job(&job.id, "final", RECOVERY_DEADLINE, |job| is_final(job.state())));
    let ended = try_join_all(ends).await?;
    for job in &ended {
        assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
    }
    Ok(ended)
}

/// Four jobs, each at another step: Secret and pod, each asked for and not made, and made and not
/// known to be.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_server_killed_in_create() {
    let options = CaseOptions::new().api_proxy().deadline(Duration::from_secs(240));
    run_case_with("cleanup.killed-in-create", options, async |env| {
        hold(env, [Match::of("create", "secrets"), Match::of("create", "pods")])?;
        let jobs = try_join_all((0..4).map(|_| env.submit_command(&["true"]))).await?;
        kill_when_held(env).await?;
        let ended = await_success(env, &jobs).await?;
        let mut attempts: Vec<_> = ended.iter().map(|job| job.attempts.len()).collect();
        attempts.sort_unstable();
        assert_eq!(attempts, [1, 2, 2, 2], "the pod that was made is adopted");
        env.await_gone().await?;
        assert_eq!(pods_ever(env), 4, "a pod for each job");
        assert_no_strays(env).await
    });
}

/// Four jobs, each at another step: Secret and pod, each still there, and gone without a word.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_server_killed_in_destroy() {
    let options = CaseOptions::new().api_proxy();
    run_case_with("cleanup.killed-in-destroy", options, async |env| {
        hold(env, [Match::of("delete", "secrets"), Match::of("delete", "pods")])?;
        let jobs = try_join_all((0..4).map(|_| env.submit_command(&["true"]))).await?;
        kill_when_held(env).await?;
        let ended = await_success(env, &jobs).await?;
        assert!(ended.iter().all(|job| job.attempts.len() == 1), "{ended:?}");
        let gone = |pods: &[hodei_harness::case::PodRecord]| {
            pods.iter().all(|record| record.gone).then_some(())
        };
        env.await_pods("every pod to be gone", RECOVERY_DEADLINE, gone).await?;
        assert_eq!(pods_ever(env), 4);
        assert_no_strays(env).await
    });
}

/// A pod was made or removed, and the server dies while it writes that down.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_server_killed_while_writing() {
    run_case_with("cleanup.killed-writing", CaseOptions::new().api_proxy(), async |env| {
        let hold = |env: &CaseEnv, verb| -> Result<()> {
            env.api_proxy()?.inject(Match::of(verb, "pods"), Fault::Hold, 1);
            Ok(())
        };
        hold(env, "create")?;
        let job = env.submit_command(&["true"]).await?;
        let row = await_writing(env, "resource_uid").await?;
        hold(env, "delete")?;
        env.server()?.kill().await?;
        row.release().await;
        env.server()?.start_again().await?;
        let row = await_writing(env, "terminated_at").await?;
        env.server()?.kill().await?;
        row.release().await;
        env.server()?.start_again().await?;
        let ended = await_success(env, std::slice::from_ref(&job)).await?;
        assert_eq!(ended[0].attempts.len(), 1, "{ended:?}");
        env.await_gone().await?;
        assert_eq!(pods_ever(env), 1);
        assert_no_strays(env).await
    });
}

/// The pod is made while the database is away: it is neither forgotten nor made again.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_database_down_while_creating() {
    run_case_with("cleanup.database-down", CaseOptions::new().api_proxy(), async |env| {
        env.api_proxy()?.inject(Match::of("create", "pods"), Fault::Hold, 1);
        let job = env.submit_command(&["echo", "after all"]).await?;
        await_held(env).await?;
        env.take_database().await?;
        env.api_proxy()?.let_go();
        let written = await_until("a write that fails", HELD_DEADLINE, async || {
            let log = env.server_log()?;
            let failed = log.contains("a write is tried again");
            Ok(if failed { Observed::Ready(()) } else { Observed::NotYet("none yet".into()) })
        });
        written.await?;
        let ready = env.clients()?.get("/readyz").await.unwrap_err();
        assert!(ready.source.to_string().contains("503"), "{ready:?}");
        env.give_database().await?;
        let ended = await_success(env, std::slice::from_ref(&job)).await?;
        assert_eq!(ended[0].attempts.len(), 1, "{ended:?}");
        assert_eq!(env.job_output(&job.id).await?.stdout(), "after all\n");
        env.await_gone().await?;
        assert_eq!(pods_ever(env), 1);
        assert_no_strays(env).await
    });
}

/// The agent ends by itself while nobody looks, with its job undone.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_pod_ended_while_the_server_was_down() {
    run_case("cleanup.ended-while-down", async |env| {
        let text =
            "echo begun; test $HODEI_ATTEMPT = 1 || exit 0; sleep 3; kill -TERM 1; sleep 600";
        let job = env.submit_script(text).await?;
        env.await_output(&job.id, "begun").await?;
        env.server()?.kill().await?;
        env.await_pod("the agent's end", |record| pod_terminated(&record.pod).is_some()).await?;
        env.server()?.start_again().await?;
        let ended = await_success(env, std::slice::from_ref(&job)).await?;
        assert_eq!(ended[0].attempts.len(), 2, "{ended:?}");
        let first = env.rows("SELECT state, failure_cause FROM attempts WHERE epoch = 1").await?;
        let expected = json!({"state": "lost", "failure_cause": "agent_exited"});
        assert_eq!(first, [expected], "its end was seen, and not waited for");
        env.await_gone().await?;
        assert_eq!(pods_ever(env), 2);
        assert_no_strays(env).await
    });
}

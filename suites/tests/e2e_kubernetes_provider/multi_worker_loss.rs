//! Many jobs, and something that goes: a worker, the server, one of two servers.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use futures::future::try_join_all;
use hodei_harness::case::{CaseEnv, CaseOptions, Gate, command, run_case, run_case_with};
use hodei_proto::v1::{Job, JobState};
use kube::api::DeleteParams;
use serde_json::json;

use crate::candidate::{Candidate, pending};
use crate::multi_worker::await_all;
use crate::pods::{pods, pods_ever, worker_of};

/// From a worker's loss to its job's next attempt.
const AGAIN_DEADLINE: Duration = Duration::from_secs(60);

/// Jobs with an output of three numbered lines each, the last of them when the gate is open.
async fn submit_counted(env: &CaseEnv, count: usize, gate: &Gate) -> Result<Vec<Job>> {
    let jobs = (0..count).map(|index| async move {
        let wait = gate.wait();
        let text = format!(
            "echo job {index} begun\necho job {index} works\n{wait}\necho job {index} done"
        );
        env.submit_script(&text).await
    });
    Ok(try_join_all(jobs).await?)
}

/// Jobs that say who they are and where they run.
async fn submit_named(env: &CaseEnv, count: usize) -> Result<Vec<Job>> {
    let jobs = (0..count).map(|index| async move {
        let text = format!("echo job {index} of $(cat /etc/hostname)");
        env.submit(command(&["sh", "-c", &text])).await
    });
    Ok(try_join_all(jobs).await?)
}

/// Waits until every job has begun.
async fn await_running(env: &CaseEnv, jobs: &[Job]) -> Result<Vec<Job>> {
    try_join_all(jobs.iter().map(|job| env.await_running(&job.id, "works"))).await?;
    let running = try_join_all(jobs.iter().map(|job| env.job(&job.id))).await?;
    for job in &running {
        assert_eq!(job.state(), JobState::Running, "none ends before its gate is open: {job:?}");
    }
    Ok(running)
}

/// Each job has succeeded in its first attempt, with its whole output, once.
async fn assert_whole(env: &CaseEnv, jobs: &[Job]) -> Result<()> {
    for (index, job) in await_all(env, jobs).await?.iter().enumerate() {
        assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
        assert_eq!(job.attempts.len(), 1, "{job:?}");
        let output = env.job_output(&job.id).await?;
        let expected = format!("job {index} begun\njob {index} works\njob {index} done\n");
        assert_eq!(output.stdout(), expected);
        let contiguous: Vec<u64> = (1..=output.frames.len() as u64).collect();
        assert_eq!(output.sequences(), contiguous);
    }
    let twice = "SELECT job_id, to_state FROM job_events WHERE to_state IN ('running', 'succeeded')
                 GROUP BY job_id, to_state HAVING count(*) > 1";
    assert_eq!(env.rows(twice).await?.len(), 0, "a job began or ended twice");
    Ok(())
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_one_worker_killed() {
    run_case("multi-worker.one-killed", async |env| {
        let mut gate = env.make_gate()?;
        let jobs = submit_counted(env, 4, &gate).await?;
        let running = await_running(env, &jobs).await?;
        let victim = format!("hodei-worker-{}", worker_of(&running[2])?);
        let at_once = DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
        pods(env).delete(&victim, &at_once).await?;
        let again = |job: &Job| job.attempts.len() == 2;
        env.await_job(&jobs[2].id, "in its second attempt", AGAIN_DEADLINE, again).await?;
        gate.open().await?;
        let ended = await_all(env, &jobs).await?;
        let attempts: Vec<_> = ended.iter().map(|job| job.attempts.len()).collect();
        assert_eq!(attempts, [1, 1, 2, 1], "its job, and only its, runs again");
        assert!(ended.iter().all(|job| job.state() == JobState::Succeeded), "{ended:?}");
        let again = env.job_output_from(&jobs[2].id, 2, 0).await?.stdout();
        assert_eq!(again, "job 2 begun\njob 2 works\njob 2 done\n", "from its beginning");
        env.await_gone().await?;
        assert_eq!(pods_ever(env), 5);
        Ok(())
    });
}

/// The worker is taken for lost while it still works; what it says afterwards changes nothing.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_late_result_is_refused() {
    run_case_with("multi-worker.late-result", pending(), async |env| {
        let first = Candidate::create(env).await?;
        let (mut late, stale) = first.simulate(env).await?.begin().await?;
        late.print(&stale, 1..=2).await?;
        late.await_durable(2).await?;
        let name = format!("hodei-worker-{}", first.worker);
        pods(env).delete(&name, &DeleteParams::default()).await?;
        let second = Candidate::await_attempt(env, &first.job, 2).await?;
        assert!(!late.end(&stale, 0, 2).await?, "the lost worker's result was taken");
        let refused = "SELECT kind, epoch FROM audit_events WHERE kind = 'result_refused'";
        let expected = json!({"kind": "result_refused", "epoch": 1});
        assert_eq!(env.rows(refused).await?, [expected]);
        assert_eq!(env.job(&first.job).await?.state(), JobState::Starting);
        let (mut link, attempt) = second.simulate(env).await?.begin().await?;
        link.print(&attempt, 1..=1).await?;
        assert!(link.end(&attempt, 5, 1).await?);
        let job = env.await_job_state(&first.job, JobState::Failed).await?;
        assert_eq!(job.attempts.len(), 2);
        let output = env.job_output_from(&job.id, 2, 0).await?;
        assert_eq!(output.stdout(), "line 1\n", "its own output, and not the lost worker's");
        Ok(env.await_gone().await?)
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_server_killed_with_jobs_running() {
    run_case("multi-worker.server-killed", async |env| {
        let mut gate = env.make_gate()?;
        let jobs = submit_counted(env, 5, &gate).await?;
        await_running(env, &jobs).await?;
        env.server()?.kill().await?;
        env.server()?.start_again().await?;
        gate.open().await?;
        assert_whole(env, &jobs).await?;
        env.await_gone().await?;
        assert_eq!(pods_ever(env), 5, "the same pods finished them");
        Ok(())
    });
}

/// Workers come to both servers through a balancer, as through a Service; those of the server that
/// is killed go on with the other.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_two_replicas_one_killed() {
    run_case_with("multi-worker.two-replicas", CaseOptions::new().replica(), async |env| {
        let mut gate = env.make_gate()?;
        let jobs = submit_counted(env, 6, &gate).await?;
        await_running(env, &jobs).await?;
        let served = |log: std::path::PathBuf| -> Result<usize> {
            Ok(std::fs::read_to_string(log)?.matches("session opened").count())
        };
        let (one, other) = (served(env.server()?.log())?, served(env.replica()?.log())?);
        assert!(one > 0 && other > 0, "{one} sessions with one server, {other} with the other");
        env.replica()?.kill().await?;
        let later = env.submit_command(&["echo", "later"]).await?;
        gate.open().await?;
        assert_whole(env, &jobs).await?;
        env.await_job_state(&later.id, JobState::Succeeded).await?;
        assert_eq!(served(env.server()?.log())?, one + other + 1, "the others came over");
        let workers = "SELECT count(*) AS n FROM workers";
        assert_eq!(env.rows(workers).await?, [json!({"n": 7})]);
        env.await_gone().await?;
        assert_eq!(pods_ever(env), 7);
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_exclusive_fifty_jobs_at_once() {
    run_case("multi-worker.fifty", async |env| {
        let jobs = submit_named(env, 50).await?;
        let mut hosts = BTreeSet::new();
        for (index, job) in await_all(env, &jobs).await?.iter().enumerate() {
            assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
            assert_eq!(job.attempts.len(), 1, "{job:?}");
            let said = env.job_output(&job.id).await?.stdout();
            let (who, host) = said.trim().split_once(" of ").unwrap_or_default();
            assert_eq!(who, format!("job {index}"), "its own output: {said}");
            assert!(hosts.insert(host.to_owned()), "{host} ran two jobs");
        }
        env.await_gone().await?;
        assert_eq!(pods_ever(env), 50);
        Ok(())
    });
}

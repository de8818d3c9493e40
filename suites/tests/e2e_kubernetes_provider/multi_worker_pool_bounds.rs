//! How many pooled workers there are, and how long one stays.

use std::time::Duration;

use anyhow::Result;
use futures::future::try_join_all;
use hodei_harness::case::{CaseEnv, CaseOptions, PROVIDER, run_case_with};
use hodei_proto::v1::{Job, JobState};
use serde_json::{Value, json};

use crate::candidate::cancel;
use crate::multi_worker::{await_all, submit_many};
use crate::pods::{pods_ever, worker_of};
use crate::pooled::{
    ENDLESS, await_idle, await_retired, await_rows, await_waiting, clear_pool, hodei,
};

const TOO_LONG: &str = "idle for longer than its pool keeps it";
const TOO_OLD: &str = "too old";
/// The least maximum age is a minute, which has to pass.
const DEADLINE: Duration = Duration::from_secs(240);

async fn submit_endless(env: &CaseEnv, count: usize) -> Result<Vec<Job>> {
    Ok(try_join_all((0..count).map(|_| env.submit_command(&ENDLESS))).await?)
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_pool_maximum_is_never_passed() {
    let options = CaseOptions::new().pool(0, 2, 3600);
    run_case_with("multi-worker.pool-maximum", options, async |env| {
        let endless = submit_endless(env, 2).await?;
        let jobs = submit_many(env, 6).await?;
        try_join_all(jobs.iter().map(|job| await_waiting(env, job))).await?;
        for job in &endless {
            env.await_job_state(&job.id, JobState::Running).await?;
        }
        try_join_all(endless.iter().map(|job| cancel(env, &job.id))).await?;
        for (index, job) in await_all(env, &jobs).await?.iter().enumerate() {
            assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
            assert_eq!(job.attempts.len(), 1, "{job:?}");
            assert_eq!(env.job_output(&job.id).await?.stdout(), format!("job {index}\n"));
        }
        await_idle(env, 2, &[]).await?;
        let done = "SELECT count(*) AS workers, sum(jobs_done) AS jobs FROM workers";
        assert_eq!(env.rows(done).await?, [json!({"workers": 2, "jobs": 8})]);
        clear_pool(env).await?;
        assert_eq!(pods_ever(env), 2, "the same two ran all of them");
        Ok(())
    });
}

/// Sets the pool to two or three workers of an age of at most `age`.
async fn set_maximum_age(env: &mut CaseEnv, age: &str) -> Result<()> {
    let set = ["provider", "pool", "set", PROVIDER, "--minimum", "2", "--maximum", "3"];
    let more = ["--idle", "1h", "--maximum-age", age, "--output", "json"];
    let said: Value = serde_json::from_str(&hodei(env, &[&set[..], &more].concat()).await?)?;
    assert_eq!(
        (&said["pool"]["minimum"], &said["pool"]["maximum"]),
        (&json!(2), &json!(3)),
        "{said}"
    );
    Ok(())
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_pooled_workers_go_when_idle_or_old() {
    let options = CaseOptions::new().pool(2, 3, 3).deadline(DEADLINE);
    run_case_with("multi-worker.pool-idle", options, async |env| {
        let jobs = submit_endless(env, 3).await?;
        for job in &jobs {
            env.await_job_state(&job.id, JobState::Running).await?;
        }
        let (busy, idle) = (&jobs[0], &jobs[1..]);
        let worker = worker_of(&env.job(&busy.id).await?)?;
        try_join_all(idle.iter().map(|job| cancel(env, &job.id))).await?;
        await_retired(env, TOO_LONG, 1).await?;
        let waited = format!(
            "SELECT w.terminating_at - a.finished_at >= interval '3 s' AS waited
             FROM workers w JOIN attempts a ON a.worker_id = w.id WHERE w.reason = '{TOO_LONG}'"
        );
        assert_eq!(env.rows(&waited).await?, [json!({"waited": true})]);
        // The other idle one is of the minimum, with the one that has a job.
        let old = "SELECT count(*) AS n FROM workers WHERE state IN ('ready', 'busy')
                   AND created_at < now() - interval '61 s'
                   AND (idle_since < now() - interval '6 s' OR state = 'busy')";
        await_rows(env, old, &[json!({"n": 2})]).await?;
        await_retired(env, TOO_LONG, 1).await?;

        set_maximum_age(env, "60s").await?;
        await_retired(env, TOO_OLD, 1).await?;
        let running = env.job(&busy.id).await?;
        assert_eq!(
            (running.state(), running.attempts.len()),
            (JobState::Running, 1),
            "{running:?}"
        );
        cancel(env, &busy.id).await?;
        let gone = format!("SELECT state, reason FROM workers WHERE id = '{worker}'");
        await_rows(env, &gone, &[json!({"state": "terminated", "reason": TOO_OLD})]).await?;

        set_maximum_age(env, "24h").await?;
        let fresh = await_idle(env, 2, &[&worker]).await?;
        let job = env.submit_command(&["echo", "hello"]).await?;
        let job = env.await_job_state(&job.id, JobState::Succeeded).await?;
        assert!(fresh.contains(&worker_of(&job)?), "{job:?} is not of {fresh:?}");
        clear_pool(env).await
    });
}

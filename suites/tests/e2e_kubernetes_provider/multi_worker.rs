//! Many workers and jobs at once.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use futures::future::try_join_all;
use hodei_harness::case::{CaseEnv, CaseOptions, is_final, run_case, run_case_with};
use hodei_proto::v1::{Job, JobState};

/// For a burst on two cores.
const BURST_DEADLINE: Duration = Duration::from_secs(150);

pub(crate) async fn submit_many(env: &CaseEnv, count: usize) -> Result<Vec<Job>> {
    let submitted = (0..count).map(|index| async move {
        env.submit_command(&["sh", "-c", &format!("echo job {index}")]).await
    });
    Ok(try_join_all(submitted).await?)
}

pub(crate) async fn await_all(env: &CaseEnv, jobs: &[Job]) -> Result<Vec<Job>> {
    let ends = jobs
        .iter()
        .map(|job| env.await_job(&job.id, "final", BURST_DEADLINE, |job| is_final(job.state())));
    Ok(try_join_all(ends).await?)
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_multiple_workers() {
    run_case("multi-worker.parallel", async |env| {
        let jobs = submit_many(env, 6).await?;
        let ended = await_all(env, &jobs).await?;
        let mut workers = BTreeSet::new();
        for (index, job) in ended.iter().enumerate() {
            assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
            assert!(workers.insert(job.attempts[0].worker_id.clone()), "a worker ran two jobs");
            assert_eq!(env.job_output(&job.id).await?.stdout(), format!("job {index}\n"));
        }
        let distinct = "SELECT count(DISTINCT otp_hash) AS otps, count(DISTINCT pod_uid) AS pods, \
                        count(*) AS workers FROM workers";
        let row = &env.rows(distinct).await?[0];
        assert_eq!((&row["otps"], &row["pods"]), (&row["workers"], &row["workers"]), "{row}");
        assert_eq!(row["workers"], 6);
        env.await_gone().await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_burst_over_quota() {
    let options = CaseOptions::new().pod_quota(3);
    run_case_with("multi-worker.quota-burst", options, async |env| {
        let jobs = submit_many(env, 8).await?;
        let ended = await_all(env, &jobs).await?;
        for job in &ended {
            assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
        }
        let twice = "SELECT worker_id FROM attempts GROUP BY worker_id HAVING count(*) > 1";
        assert_eq!(env.rows(twice).await?.len(), 0, "a worker was given two attempts");
        env.await_gone().await?;
        Ok(())
    });
}

//! Many workers, one after another: nothing adds up.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use hodei_harness::case::{CaseEnv, CaseOptions, command, run_case_with};
use hodei_harness::wait::{Observed, await_until};
use hodei_proto::v1::{JobSpec, JobState};
use serde_json::json;

use crate::pods::{NO_RETRY, assert_no_strays, pods_ever};

/// How many workers come and go.
const WORKERS: usize = 300;
/// How many of them at a time.
const AT_ONCE: usize = 25;
/// A quarter of it would do on a quiet machine.
const DEADLINE: Duration = Duration::from_secs(900);
/// From the last job's end until the gauges say so.
const SETTLE_DEADLINE: Duration = Duration::from_secs(60);

/// Every third job fails, so that both ways out are gone.
async fn churn(env: &CaseEnv, index: usize) -> Result<()> {
    let fails = index.is_multiple_of(3);
    let argv = if fails { "false" } else { "true" };
    let job = env.submit(JobSpec { retry: Some(NO_RETRY), ..command(&[argv]) }).await?;
    let expected = if fails { JobState::Failed } else { JobState::Succeeded };
    env.await_job_state(&job.id, expected).await?;
    Ok(())
}

/// The value of a gauge, over all its labels.
fn gauge(metrics: &str, name: &str) -> Option<f64> {
    let of = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
    };
    let values =
        metrics.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse().ok());
    values.reduce(|sum: f64, value: f64| sum + value)
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_exclusive_churned_workers_leave_nothing() {
    let options = CaseOptions::new().deadline(DEADLINE);
    run_case_with("cleanup.churn", options, async |env| {
        let jobs = futures::stream::iter((0..WORKERS).map(|index| churn(env, index)));
        jobs.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        env.await_gone().await?;
        assert_eq!(pods_ever(env), WORKERS, "a pod each");
        let left =
            "SELECT count(*) AS workers, count(*) FILTER (WHERE state = 'terminated') AS ended,
                    count(session_hash) AS sessions FROM workers";
        let expected = json!({"workers": WORKERS, "ended": WORKERS, "sessions": 0});
        await_until("every worker's end to be written down", SETTLE_DEADLINE, async || {
            let row = env.rows(left).await?.remove(0);
            Ok(if row == expected {
                Observed::Ready(())
            } else {
                Observed::NotYet(row.to_string())
            })
        })
        .await?;
        let names = ["hodei_workers", "hodei_sessions", "hodei_kubernetes_live_workers"];
        await_until("every gauge to be 0", SETTLE_DEADLINE, async || {
            let metrics = env.clients()?.text("/metrics").await?;
            let values = names.map(|name| gauge(&metrics, name));
            let zero = values == [Some(0.0); 3];
            Ok(if zero { Observed::Ready(()) } else { Observed::NotYet(format!("{values:?}")) })
        })
        .await?;
        assert_no_strays(env).await.context("the sweep had to remove something")
    });
}

//! A pool of warm workers: from submit to result where there is no pod to be made, one job after another.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Comparison, Goal, JobSide, PodSide, percentile};
use crate::case::Clients;
use crate::failure::{HarnessError, Result};
use crate::progress::{Progress, Stage};
use crate::wait::{Observed, Wait};

/// Workers of the pool, all the time.
const WORKERS: usize = 2;
/// Turns of one bare pod and then so many jobs.
const TURNS: usize = 10;
const JOBS_A_TURN: usize = 20;
/// What both sides run.
const COMMAND: [&str; 1] = ["true"];
/// Until the workers are there.
const WARM_DEADLINE: Duration = Duration::from_secs(120);

/// The pool of a provider.
#[derive(Debug, Clone)]
pub struct PoolSide {
    clients: Clients,
    provider: String,
}

impl PoolSide {
    /// The pool of `provider` on the server of these clients.
    #[must_use]
    pub fn new(clients: Clients, provider: &str) -> Self {
        Self { clients, provider: provider.to_owned() }
    }

    /// The bounds of the pool; `null` where there is none.
    async fn bounds(&self) -> Result<Value> {
        let mut provider = self.clients.get(&format!("/api/providers/{}", self.provider)).await?;
        Ok(provider["pool"].take())
    }

    async fn set(&self, bounds: &Value) -> Result<()> {
        let path = format!("/api/providers/{}/pool", self.provider);
        let answer = match bounds {
            Value::Null => self.clients.delete(&path).await,
            bounds => self.clients.put(&path, bounds).await,
        };
        answer.map(drop)
    }

    /// Waits until all workers are idle.
    async fn await_idle(&self, stage: &Stage) -> Result<()> {
        let wait = Wait::infrastructure(format!("{WORKERS} warm workers"), WARM_DEADLINE);
        wait.until(stage, async || {
            let page = self.clients.get("/api/workers").await?;
            let idle = count_idle(&page, &self.provider);
            Ok(match idle {
                WORKERS => Observed::Ready(()),
                other => Observed::NotYet(format!("{other} idle")),
            })
        })
        .await
    }
}

/// Idle workers of a provider on a page of `/api/workers`.
fn count_idle(page: &Value, provider: &str) -> usize {
    let workers = page["workers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let idle = workers
        .iter()
        .filter(|worker| worker["provider"] == provider && worker["idle_since"].is_string());
    idle.count()
}

/// Measures jobs on warm workers beside bare pods, in turns. The provider's pool is as before afterwards.
///
/// # Errors
/// As for [`compare`](super::compare).
pub async fn compare_pooled(
    pods: &PodSide,
    jobs: &JobSide,
    pool: &PoolSide,
    progress: &Progress,
) -> Result<Vec<Comparison>> {
    let name = format!("{} jobs on {WORKERS} warm workers", TURNS * JOBS_A_TURN);
    let times = progress.stage(name, async |stage| {
        let before = pool.bounds().await?;
        let measured = measure(pods, jobs, pool, &stage).await;
        let restored = pool.set(&before).await;
        let times = measured?;
        restored.map(|()| times)
    });
    Ok(compare_times(&times.await?))
}

/// From request to result, in seconds.
#[derive(Debug, Default)]
struct Times {
    pods: Vec<f64>,
    jobs: Vec<f64>,
}

async fn measure(pods: &PodSide, jobs: &JobSide, pool: &PoolSide, stage: &Stage) -> Result<Times> {
    pool.set(&json!({"minimum": WORKERS, "maximum": WORKERS})).await?;
    pool.await_idle(stage).await?;
    let mut times = Times::default();
    for turn in 1..=TURNS {
        if stage.is_cancelled() {
            return Err(HarnessError::interrupted("measure", "warm workers"));
        }
        stage.line(&format!("turn {turn}: pod"));
        times.pods.push(pods.lap(&COMMAND).await?.finished);
        stage.line(&format!("turn {turn}: {JOBS_A_TURN} jobs"));
        for _ in 0..JOBS_A_TURN {
            times.jobs.push(jobs.lap(&COMMAND).await?.finished);
        }
    }
    Ok(times)
}

fn compare_times(times: &Times) -> Vec<Comparison> {
    let shares = [
        (0.5, "p50", Goal::Seconds(0.02)),
        // What a worker of its own has to keep is the least that a warm one has to.
        (0.9, "p90", Goal::Ratio(0.6)),
        (0.99, "p99", Goal::Ratio(0.6)),
    ];
    let count = times.jobs.len();
    shares
        .map(|(share, name, goal)| {
            let measure = format!("result on a warm worker, {name} of {count}");
            let (pod, job) = (percentile(&times.pods, share), percentile(&times.jobs, share));
            Comparison::of(measure, pod, job, goal)
        })
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_idle_workers_of_the_provider_are_warm() {
        let page = json!({"workers": [
            {"provider": "kind", "idle_since": "2026-01-01T00:00:00Z"},
            {"provider": "kind", "idle_since": null},
            {"provider": "other", "idle_since": "2026-01-01T00:00:00Z"},
        ]});
        assert_eq!(count_idle(&page, "kind"), 1);
        assert_eq!(count_idle(&json!({"workers": []}), "kind"), 0);
    }

    #[test]
    fn the_median_has_a_goal_of_its_own() {
        let times = Times { pods: vec![2.0], jobs: vec![0.01, 0.02, 0.03] };
        let found = compare_times(&times);
        let median = Comparison::of(
            "result on a warm worker, p50 of 3".to_owned(),
            2.0,
            0.02,
            Goal::Seconds(0.02),
        );
        assert_eq!(found[0], median);
        assert_eq!(found[2].measure, "result on a warm worker, p99 of 3");
    }
}

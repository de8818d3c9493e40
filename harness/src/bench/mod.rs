//! A Hodei job beside a bare pod of the same image, in one run on one cluster: what Hodei adds to, or
//! takes from, the time that Kubernetes needs anyway.
//!
//! The two are measured in turns, so that whatever else the machine does falls on both. Times are
//! wall-clock seconds at the client. A benchmark gives ratios to look at; it never fails a build.

mod job;
mod pod;

use std::fmt::Write as _;
use std::time::Duration;

use futures::future::try_join_all;
use serde::Serialize;

use crate::failure::Result;
use crate::progress::Progress;

pub use job::JobSide;
pub use pod::PodSide;

/// What both sides run.
const COMMAND: [&str; 2] = ["echo", "hello"];
/// One pod or job, at the longest.
const DEADLINE: Duration = Duration::from_secs(180);

/// From the request to two moments of one pod or job, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lap {
    /// To the container's start (pod), to the agent's registration (job).
    pub started: f64,
    /// To the result.
    pub finished: f64,
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How often one pod and one job are measured, in turns.
    pub rounds: u32,
    /// How many are started at once for the makespan; 0 leaves it out.
    pub burst: u32,
}

/// One measure on both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// What was measured.
    pub measure: String,
    /// Bare pod, seconds.
    pub pod_seconds: f64,
    /// Hodei job, seconds.
    pub job_seconds: f64,
    /// Job to pod; below 1 is faster.
    pub ratio: f64,
    /// The ratio that DESIGN sets as a goal.
    pub goal: f64,
}

impl Comparison {
    fn of(measure: String, pod_seconds: f64, job_seconds: f64, goal: f64) -> Self {
        Self { measure, pod_seconds, job_seconds, ratio: job_seconds / pod_seconds, goal }
    }
}

/// Measures both sides.
///
/// # Errors
/// A pod or a job did not end within three minutes, or the cluster or the server does not answer.
pub async fn compare(
    pods: &PodSide,
    jobs: &JobSide,
    plan: Plan,
    progress: &Progress,
) -> Result<Vec<Comparison>> {
    let (mut pod_laps, mut job_laps) = (Vec::new(), Vec::new());
    progress
        .stage(format!("{} rounds, one at a time", plan.rounds), async |stage| {
            for round in 1..=plan.rounds {
                stage.line(&format!("round {round}: pod"));
                pod_laps.push(pods.lap().await?);
                stage.line(&format!("round {round}: job"));
                job_laps.push(jobs.lap().await?);
            }
            Ok(())
        })
        .await?;
    let median = |laps: &[Lap], moment: fn(&Lap) -> f64| median(laps.iter().map(moment).collect());
    let mut found = vec![
        Comparison::of(
            format!("started, median of {}", plan.rounds),
            median(&pod_laps, |lap| lap.started),
            median(&job_laps, |lap| lap.started),
            1.1,
        ),
        Comparison::of(
            format!("result, median of {}", plan.rounds),
            median(&pod_laps, |lap| lap.finished),
            median(&job_laps, |lap| lap.finished),
            0.6,
        ),
    ];
    if plan.burst > 0 {
        let count = plan.burst;
        let makespan = |laps: &[Lap]| laps.iter().map(|lap| lap.finished).fold(0.0, f64::max);
        let pods = progress
            .stage(format!("{count} pods at once"), async |_| {
                try_join_all((0..count).map(|_| pods.lap())).await
            })
            .await?;
        let jobs = progress
            .stage(format!("{count} jobs at once"), async |_| {
                try_join_all((0..count).map(|_| jobs.lap())).await
            })
            .await?;
        let measure = format!("makespan of {count} at once");
        found.push(Comparison::of(measure, makespan(&pods), makespan(&jobs), 0.9));
    }
    Ok(found)
}

/// The comparison as a Markdown table.
#[must_use]
pub fn render(comparisons: &[Comparison]) -> String {
    let mut text = String::from(
        "| measure | bare pod | Hodei job | ratio | goal |\n|---|---:|---:|---:|---:|\n",
    );
    for one in comparisons {
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "| {} | {:.2} s | {:.2} s | {:.2}× | ≤ {:.1}× |",
            one.measure, one.pod_seconds, one.job_seconds, one.ratio, one.goal
        );
    }
    text
}

/// The middle of the values; the mean of the two middle ones of an even number; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_few_values() {
        for (values, expect) in
            [(vec![], 0.0), (vec![3.0], 3.0), (vec![9.0, 1.0], 5.0), (vec![5.0, 1.0, 9.0], 5.0)]
        {
            assert!((median(values.clone()) - expect).abs() < f64::EPSILON, "{values:?}");
        }
    }

    #[test]
    fn a_person_reads_this() {
        let one = Comparison::of("result, median of 3".to_owned(), 2.0, 0.7, 0.6);
        assert_eq!(
            render(&[one]),
            "| measure | bare pod | Hodei job | ratio | goal |\n|---|---:|---:|---:|---:|\n\
             | result, median of 3 | 2.00 s | 0.70 s | 0.35× | ≤ 0.6× |\n"
        );
    }
}

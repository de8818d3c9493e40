//! A Hodei job beside a bare pod of the same image, in one run on one cluster: what Hodei adds to, or
//! takes from, the time that Kubernetes needs anyway.
//!
//! The two are measured in turns, so that whatever else the machine does falls on both. Times are
//! wall-clock seconds at the client. A benchmark gives ratios to look at; it never fails a build.

mod job;
mod logs;
mod pod;
mod pooled;

use std::fmt::Write as _;
use std::time::Duration;

use futures::future::try_join_all;
use serde::Serialize;

use crate::failure::Result;
use crate::progress::Progress;

pub use job::JobSide;
pub use logs::compare_logs;
pub use pod::PodSide;
pub use pooled::{PoolSide, compare_pooled};

/// What both sides run, unless a comparison says otherwise.
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
    /// What DESIGN sets as a goal.
    pub goal: Goal,
}

/// What a measure should come to at the most.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Job to pod.
    Ratio(f64),
    /// The job alone, in seconds.
    Seconds(f64),
}

impl Comparison {
    fn of(measure: String, pod_seconds: f64, job_seconds: f64, goal: Goal) -> Self {
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
                pod_laps.push(pods.lap(&COMMAND).await?);
                stage.line(&format!("round {round}: job"));
                job_laps.push(jobs.lap(&COMMAND).await?);
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
            Goal::Ratio(1.1),
        ),
        Comparison::of(
            format!("result, median of {}", plan.rounds),
            median(&pod_laps, |lap| lap.finished),
            median(&job_laps, |lap| lap.finished),
            Goal::Ratio(0.6),
        ),
    ];
    if plan.burst > 0 {
        let count = plan.burst;
        let makespan = |laps: &[Lap]| laps.iter().map(|lap| lap.finished).fold(0.0, f64::max);
        let pods = progress
            .stage(format!("{count} pods at once"), async |_| {
                try_join_all((0..count).map(|_| pods.lap(&COMMAND))).await
            })
            .await?;
        let jobs = progress
            .stage(format!("{count} jobs at once"), async |_| {
                try_join_all((0..count).map(|_| jobs.lap(&COMMAND))).await
            })
            .await?;
        let measure = format!("makespan of {count} at once");
        found.push(Comparison::of(measure, makespan(&pods), makespan(&jobs), Goal::Ratio(0.9)));
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
            "| {} | {} | {} | {:.2}× | ≤ {} |",
            one.measure,
            seconds(one.pod_seconds),
            seconds(one.job_seconds),
            one.ratio,
            match one.goal {
                Goal::Ratio(ratio) => format!("{ratio:.1}×"),
                Goal::Seconds(most) => seconds(most),
            }
        );
    }
    text
}

/// A time as a person reads it: short ones in milliseconds.
fn seconds(time: f64) -> String {
    if time < 0.1 { format!("{:.2} ms", time * 1000.0) } else { format!("{time:.2} s") }
}

/// The middle of the values.
fn median(values: Vec<f64>) -> f64 {
    percentile(&values, 0.5)
}

/// The value below which this share of the values lies, between two of them in proportion; 0 of none.
fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    // So many values are counted exactly.
    let place = last as f64 * share;
    let below = sorted[place.floor() as usize];
    let above = sorted[place.ceil() as usize];
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_few_values() {
        for (values, expect) in
            [(vec![], 0.0), (vec![3.0], 3.0), (vec![9.0, 1.0], 5.0), (vec![5.0, 1.0, 9.0], 5.0)]
        {
            assert!((percentile(&values, 0.5) - expect).abs() < f64::EPSILON, "{values:?}");
        }
    }

    #[test]
    fn a_person_reads_this() {
        let one = Comparison::of("result, median of 3".to_owned(), 2.0, 0.07, Goal::Ratio(0.6));
        assert_eq!(
            render(&[one]),
            "| measure | bare pod | Hodei job | ratio | goal |\n|---|---:|---:|---:|---:|\n\
             | result, median of 3 | 2.00 s | 70.00 ms | 0.04× | ≤ 0.6× |\n"
        );
    }
}

//! Jobs in time: of each case the lanes of its first attempts, and the same as a table. What is shown
//! is bounded on the whole page; those of cases that did not pass come first.

use std::collections::HashMap;

use jiff::Timestamp;

use super::Report;
use super::chart::{Axis, Place, Tick, believed, since};
use super::latency::length;
use crate::job_times::{AttemptTimes, JobTimeline, JobTimes, Mark, Measure, Samples};
use crate::verdict::{CaseResult, Result as Counted};

/// Attempts shown of one case.
const OF_CASE: usize = 16;
/// Attempts shown on one page.
const ON_PAGE: usize = 400;
/// Characters shown of a name, a state or a node.
const NAME: usize = 80;

/// A stretch of an attempt between two moments: where the job was meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not claimed yet.
    Queued,
    /// Claimed; its pod is made and given a node.
    Placing,
    /// On a node; image, container, registration, assignment.
    Starting,
    /// The command runs.
    Running,
    /// It has a result; the worker leaves and its pod goes.
    CleanUp,
    /// More than one of these, and it is not known when one became the next.
    Unknown,
}

impl Phase {
    /// Those that the legend explains, in the order of time.
    pub(super) const ALL: [Self; 6] =
        [Self::Queued, Self::Placing, Self::Starting, Self::Running, Self::CleanUp, Self::Unknown];

    /// The class of the style sheet.
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Placing => "placing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::CleanUp => "clean-up",
            Self::Unknown => "unknown",
        }
    }

    /// From what to what, for the legend.
    pub(super) const fn stretch(self) -> &'static str {
        match self {
            Self::Queued => "submitted → claimed",
            Self::Placing => "claimed → pod created → scheduled",
            Self::Starting => "scheduled → container → registered → command begun",
            Self::Running => "command begun → result",
            Self::CleanUp => "result → worker told to go → pod gone",
            Self::Unknown => "several of these; what parts them is unknown or did not happen",
        }
    }

    /// What an attempt is in once this has happened.
    const fn after(mark: Option<Mark>) -> Self {
        match mark {
            None => Self::Queued,
            Some(Mark::Claimed | Mark::PodCreated) => Self::Placing,
            Some(Mark::Scheduled | Mark::Image | Mark::Running | Mark::Registered) => {
                Self::Starting
            }
            Some(Mark::Started | Mark::Output) => Self::Running,
            Some(Mark::Finished | Mark::Terminating | Mark::Gone) => Self::CleanUp,
        }
    }

    /// What it was in until this happened.
    const fn before(mark: Mark) -> Self {
        match mark {
            Mark::Claimed => Self::Queued,
            Mark::PodCreated | Mark::Scheduled => Self::Placing,
            Mark::Image | Mark::Running | Mark::Registered | Mark::Started => Self::Starting,
            Mark::Output | Mark::Finished => Self::Running,
            Mark::Terminating | Mark::Gone => Self::CleanUp,
        }
    }
}

/// The jobs of one case.
pub(super) struct JobsOfCase<'a> {
    pub(super) index: usize,
    pub(super) id: &'a str,
    pub(super) summary: String,
    pub(super) lanes: Vec<Lane>,
    pub(super) ticks: Vec<Tick>,
    /// Jobs or attempts that are not shown.
    pub(super) not_shown: Option<String>,
}

/// One attempt.
pub(super) struct Lane {
    pub(super) name: String,
    pub(super) about: String,
    pub(super) submitted: String,
    pub(super) pieces: Vec<Piece>,
    pub(super) times: Vec<String>,
}

/// A stretch of it.
pub(super) struct Piece {
    pub(super) phase: Phase,
    pub(super) title: String,
    pub(super) place: Place,
}

/// The heads of the columns that `Lane::times` are.
pub(super) fn heads() -> [&'static str; Mark::ALL.len()] {
    Mark::ALL.map(Mark::as_str)
}

/// What is shown of the jobs of a report's cases, in the order of its cases.
pub(super) fn jobs(report: &Report) -> Vec<JobsOfCase<'_>> {
    let with_jobs = report.cases.iter().enumerate();
    let mut cases: Vec<_> = with_jobs
        .filter_map(|(index, case)| {
            let jobs = case.jobs.as_ref().filter(|jobs| !jobs.jobs.is_empty())?;
            Some((index, case, jobs))
        })
        .collect();
    cases.sort_by_key(|(_, case, _)| case.result == Counted::Passed);
    let mut room = ON_PAGE;
    let mut views: Vec<_> = cases
        .into_iter()
        .map(|(index, case, jobs)| {
            let view = of_case(index, case, jobs, room.min(OF_CASE));
            room -= view.lanes.len();
            view
        })
        .collect();
    views.sort_by_key(|view| view.index);
    views
}

fn of_case<'a>(index: usize, case: &'a CaseResult, jobs: &JobTimes, room: usize) -> JobsOfCase<'a> {
    // Every round begins at the left.
    let mut began: HashMap<Option<&str>, Timestamp> = HashMap::new();
    for job in &jobs.jobs {
        let first = began.entry(job.round.as_deref()).or_insert(job.submitted_at);
        *first = (*first).min(job.submitted_at);
    }
    let lanes = jobs.jobs.iter().flat_map(|job| {
        let late = since(began[&job.round.as_deref()], job.submitted_at);
        attempts(job).into_iter().map(move |attempt| (late, attempt))
    });
    let shown: Vec<_> = lanes.take(room).collect();
    let ends = shown
        .iter()
        .flat_map(|(late, attempt)| attempt.stretches.iter().map(move |stretch| late + stretch.to));
    let axis = Axis::lasting(ends.fold(0.0, f64::max));
    let total = jobs.jobs.len() + jobs.left_out;
    let result = Samples::of(Measure::Result, jobs.jobs.iter()).percentile(50.0);
    let median = result.map(|median| format!(", {} to the result at the median", length(median)));
    let lanes: Vec<_> =
        shown.into_iter().map(|(late, attempt)| attempt.lane(&axis, late)).collect();
    JobsOfCase {
        index,
        id: &case.id,
        summary: format!("{}{}", number(total, "job"), median.unwrap_or_default()),
        not_shown: not_shown(jobs, lanes.len()),
        lanes,
        ticks: axis.ticks(),
    }
}

fn not_shown(jobs: &JobTimes, shown: usize) -> Option<String> {
    let in_report = jobs.lanes().saturating_sub(shown);
    let cut: usize = jobs.jobs.iter().map(|job| job.attempts_left_out).sum();
    let parts = [
        (in_report, format!("{} more in report.json", number(in_report, "attempt"))),
        (cut, format!("{} more of these jobs are not kept", number(cut, "attempt"))),
        (jobs.left_out, format!("{} more are not kept", number(jobs.left_out, "job"))),
    ];
    let said: Vec<_> =
        parts.into_iter().filter(|(count, _)| *count > 0).map(|(_, text)| text).collect();
    (!said.is_empty()).then(|| said.join("; "))
}

fn number(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// An attempt as it is drawn: stretches in seconds since the job's submission.
struct Attempt<'a> {
    job: &'a JobTimeline,
    times: Option<&'a AttemptTimes>,
    stretches: Vec<Stretch>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Stretch {
    phase: Phase,
    from: f64,
    to: f64,
}

fn attempts(job: &JobTimeline) -> Vec<Attempt<'_>> {
    if job.attempts.is_empty() {
        let to = believed(job.finished.unwrap_or_default());
        let stretches = vec![Stretch { phase: Phase::Queued, from: 0.0, to }];
        return vec![Attempt { job, times: None, stretches }];
    }
    // After the first, a job is queued again from the end of the attempt before.
    let mut queued_from = Some(0.0);
    let attempts = job.attempts.iter().map(|times| {
        let stretches = stretches(times, queued_from);
        queued_from = times.finished;
        Attempt { job, times: Some(times), stretches }
    });
    attempts.collect()
}

fn stretches(times: &AttemptTimes, queued_from: Option<f64>) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut last = queued_from.map(|from| (None, believed(from)));
    for (mark, at) in times.in_order() {
        let at = believed(at);
        if let Some((before, from)) = last.filter(|(_, from)| *from <= at) {
            let (after, until) = (Phase::after(before), Phase::before(mark));
            let phase = if after == until { after } else { Phase::Unknown };
            match stretches.last_mut() {
                Some(one) if one.phase == phase && phase != Phase::Unknown => one.to = at,
                _ => stretches.push(Stretch { phase, from, to: at }),
            }
        }
        last = Some((Some(mark), at));
    }
    stretches
}

impl Attempt<'_> {
    fn lane(&self, axis: &Axis, late: f64) -> Lane {
        let piece = |stretch: &Stretch| {
            let lasted = stretch.to - stretch.from;
            Piece {
                phase: stretch.phase,
                title: format!("{}: {}", stretch.phase.class(), length(lasted)),
                place: axis.place_at(late + stretch.from, lasted),
            }
        };
        let job = self.job;
        let times = |times: &AttemptTimes| Mark::ALL.map(|mark| shown(times, mark)).to_vec();
        Lane {
            name: short(&job.name),
            about: self.about(),
            submitted: job.submitted_at.strftime("%H:%M:%S%.3f").to_string(),
            pieces: self.stretches.iter().map(piece).collect(),
            times: self.times.map_or_else(|| vec!["–".to_owned(); Mark::ALL.len()], times),
        }
    }

    /// "succeeded", "failed, attempt 2, on node-1", "succeeded, warm worker, round 3". The state is the
    /// job's, and so its last attempt's.
    fn about(&self) -> String {
        let is_last =
            self.job.attempts.last().map(|last| last.epoch) == self.times.map(|times| times.epoch);
        let mut parts: Vec<_> = is_last.then(|| short(&self.job.state)).into_iter().collect();
        if let Some(times) = self.times {
            if times.epoch > 1 || self.job.attempts.len() > 1 {
                parts.push(format!("attempt {}", times.epoch));
            }
            parts.extend(times.warm.then(|| "warm worker".to_owned()));
            parts.extend((!times.node.is_empty()).then(|| format!("on {}", short(&times.node))));
        } else {
            parts.push("never claimed".to_owned());
        }
        parts.extend(self.job.round.as_deref().map(short));
        parts.join(", ")
    }
}

/// Seconds since the submission; `?` for what is unknown, `–` for what is not this attempt's.
fn shown(times: &AttemptTimes, mark: Mark) -> String {
    let of_worker = mark.is_seen() || matches!(mark, Mark::Registered | Mark::Terminating);
    match times.at(mark) {
        Some(at) => format!("{at:.3}", at = at.clamp(-believed(f64::MAX), believed(f64::MAX))),
        None if times.warm && of_worker => "–".to_owned(),
        None => "?".to_owned(),
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(NAME) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;
    use crate::job_times::tests::usual;

    fn phases(times: &AttemptTimes, from: Option<f64>) -> Vec<(&'static str, f64, f64)> {
        let all = stretches(times, from);
        all.into_iter().map(|one| (one.phase.class(), one.from, one.to)).collect()
    }

    #[test]
    fn an_attempt_is_drawn_in_phases_without_gaps() {
        let usual = usual(0).attempts.remove(0);
        let expected = [
            ("queued", 0.0, 0.0125),
            ("placing", 0.0125, 0.0611),
            ("starting", 0.0611, 1.25),
            ("running", 1.25, 2.5),
            ("clean-up", 2.5, 4.75),
        ];
        assert_eq!(phases(&usual, Some(0.0)), expected);
        // The second attempt waits from the end of the first.
        let of_second = AttemptTimes { claimed: Some(9.0), ..AttemptTimes::default() };
        assert_eq!(phases(&of_second, Some(8.0)), [("queued", 8.0, 9.0)]);
    }

    #[test]
    fn what_is_not_known_is_drawn_as_unknown() {
        let lost = AttemptTimes {
            claimed: Some(0.1),
            finished: Some(30.0),
            gone: Some(31.0),
            ..AttemptTimes::default()
        };
        let expected = [("queued", 0.0, 0.1), ("unknown", 0.1, 30.0), ("clean-up", 30.0, 31.0)];
        assert_eq!(phases(&lost, Some(0.0)), expected);
        let cells: Vec<_> = Mark::ALL.map(|mark| shown(&lost, mark)).to_vec();
        assert_eq!(cells[..3], ["0.100", "?", "?"]);
        let warm = AttemptTimes { warm: true, ..lost };
        let cells: Vec<_> = Mark::ALL.map(|mark| shown(&warm, mark)).to_vec();
        assert_eq!(cells[..7], ["0.100", "–", "–", "–", "–", "–", "?"]);
    }

    #[test]
    fn a_page_shows_so_many_attempts_and_says_how_many_more_there_are() {
        let mut report = report();
        let jobs = JobTimes { jobs: (0..60).map(usual).collect(), left_out: 3 };
        let case = CaseResult { jobs: Some(jobs), ..report.cases[0].clone() };
        report.cases =
            (0..40).map(|n| CaseResult { id: format!("infra.{n}"), ..case.clone() }).collect();
        report.cases[39].result = Counted::Failed;
        let views = super::jobs(&report);
        assert_eq!(views.iter().map(|view| view.lanes.len()).sum::<usize>(), ON_PAGE);
        assert_eq!((views[39].lanes.len(), views[38].lanes.len()), (OF_CASE, 0));
        let says = "44 attempts more in report.json; 3 jobs more are not kept";
        assert_eq!(views[39].not_shown.as_deref(), Some(says));
        assert_eq!(views[39].summary, "63 jobs, 31.5 s to the result at the median");
    }

    #[test]
    fn each_round_begins_at_the_left() {
        let mut report = report();
        let late = |round: &str, job: u32| JobTimeline { round: Some(round.into()), ..usual(job) };
        let jobs = vec![late("round 1", 0), late("round 2", 1000)];
        report.cases[0].jobs = Some(JobTimes { jobs, left_out: 0 });
        let views = super::jobs(&report);
        let lefts: Vec<_> = views[0].lanes.iter().map(|lane| lane.pieces[0].place.left).collect();
        assert_eq!(lefts, [0.0, 0.0]);
        assert_eq!(views[0].lanes[1].about, "succeeded, on node-1, round 2");
    }
}

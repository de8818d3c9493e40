//! When what happened to each job of a case, from its submission to the last trace of its pod: a
//! summary of the case's rows and of what its recorder saw, bounded in size, kept with the case's
//! outcome whether it passed or failed.
//!
//! Times of the server are those of its rows; times of pods are those at which the recorder's watch
//! saw the change. A kubelet may tell of a running container when its agent has registered already.
//! What neither says is absent, never guessed. Drawing it is the report's.

mod derive;
mod pods;
mod samples;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use derive::{Rows, derive};
pub use pods::{PodTimes, Sightings};
pub use samples::{Measure, Samples};

/// Attempts of one case that are kept, over all of its rounds; a case of three hundred workers fits.
pub const MOST_ATTEMPTS: usize = 500;
/// Attempts of one job that are kept.
const ATTEMPTS_OF_JOB: usize = 20;
/// Characters of a job's name that are kept.
const NAME: usize = 80;

/// The jobs of a case.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JobTimes {
    /// By submission, and by round before that.
    pub jobs: Vec<JobTimeline>,
    /// Jobs that are not in the list because it is full.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub left_out: usize,
}

/// One job. All times but `submitted_at` are seconds since then, to a tenth of a millisecond; an
/// absent one is unknown, or of something that did not happen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobTimeline {
    /// Its id.
    pub id: String,
    /// Its name: at most 80 characters of it.
    pub name: String,
    /// Its state when the case ended.
    pub state: String,
    /// Which round of the case, in words, for one that was run several times.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub round: Option<String>,
    /// When the server accepted it.
    pub submitted_at: Timestamp,
    /// When it reached its final state.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub finished: Option<f64>,
    /// Its attempts, first to last.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub attempts: Vec<AttemptTimes>,
    /// Attempts that are not in the list because it is full.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub attempts_left_out: usize,
}

/// One attempt of a job, in seconds since the job was submitted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AttemptTimes {
    /// From 1.
    pub epoch: u32,
    /// The node of its worker.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub node: String,
    /// Its worker was idle before it: what came of the worker's pod is not this attempt's.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub warm: bool,
    /// The scheduler took the job (row of the attempt).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub claimed: Option<f64>,
    /// The watch first saw the pod.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod_created: Option<f64>,
    /// The watch first saw it on a node.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scheduled: Option<f64>,
    /// The watch first saw the event that an image of it is there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub image: Option<f64>,
    /// The watch first saw a container of it that runs or has run, or the event that one was started.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub running: Option<f64>,
    /// The agent has a session (row of the worker).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub registered: Option<f64>,
    /// The agent began the command (row of the attempt).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub started: Option<f64>,
    /// First output was durable; unknown once the log is archived.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub output: Option<f64>,
    /// The attempt ended (row of the attempt).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub finished: Option<f64>,
    /// It was decided that the worker goes (row of the worker).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub terminating: Option<f64>,
    /// The watch saw the pod deleted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gone: Option<f64>,
}

/// Something that happens once in an attempt, in the order in which it usually does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is the field of AttemptTimes of the same name")]
pub enum Mark {
    Claimed,
    PodCreated,
    Scheduled,
    Image,
    Running,
    Registered,
    Started,
    Output,
    Finished,
    Terminating,
    Gone,
}

impl Mark {
    /// All of them, in that order.
    pub const ALL: [Self; 11] = [
        Self::Claimed,
        Self::PodCreated,
        Self::Scheduled,
        Self::Image,
        Self::Running,
        Self::Registered,
        Self::Started,
        Self::Output,
        Self::Finished,
        Self::Terminating,
        Self::Gone,
    ];

    /// The words for a person.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::PodCreated => "pod created",
            Self::Scheduled => "scheduled",
            Self::Image => "image there",
            Self::Running => "seen running",
            Self::Registered => "registered",
            Self::Started => "command begun",
            Self::Output => "first output",
            Self::Finished => "result",
            Self::Terminating => "worker told to go",
            Self::Gone => "pod gone",
        }
    }

    /// Whether a watch saw it, later than it happened; else the server wrote it down.
    #[must_use]
    pub const fn is_seen(self) -> bool {
        matches!(
            self,
            Self::PodCreated | Self::Scheduled | Self::Image | Self::Running | Self::Gone
        )
    }
}

impl AttemptTimes {
    /// When it happened, in seconds since the job was submitted.
    #[must_use]
    pub const fn at(&self, mark: Mark) -> Option<f64> {
        match mark {
            Mark::Claimed => self.claimed,
            Mark::PodCreated => self.pod_created,
            Mark::Scheduled => self.scheduled,
            Mark::Image => self.image,
            Mark::Running => self.running,
            Mark::Registered => self.registered,
            Mark::Started => self.started,
            Mark::Output => self.output,
            Mark::Finished => self.finished,
            Mark::Terminating => self.terminating,
            Mark::Gone => self.gone,
        }
    }

    /// What is known, in the usual order and so that none is before the one before it. What a watch
    /// saw only after the server had written down what follows is left out: it says nothing of where
    /// the attempt was then.
    #[must_use]
    pub fn in_order(&self) -> Vec<(Mark, f64)> {
        let known = Mark::ALL.into_iter().filter_map(|mark| Some((mark, self.at(mark)?)));
        let known: Vec<_> = known.filter(|(_, at)| at.is_finite()).collect();
        let mut order: Vec<(Mark, f64)> = Vec::new();
        for (index, (mark, at)) in known.iter().enumerate() {
            let overtaken = |(_, later): &(Mark, f64)| later < at;
            let is_early = order.last().is_some_and(|(_, last)| at < last);
            let is_late = mark.is_seen() && known[index + 1..].iter().any(overtaken);
            if !is_early && !is_late {
                order.push((*mark, *at));
            }
        }
        order
    }
}

impl JobTimes {
    /// The same jobs, each with the round it was in; one that says so already keeps its word.
    #[must_use]
    pub fn in_round(mut self, name: &str) -> Self {
        for job in &mut self.jobs {
            job.round.get_or_insert_with(|| name.to_owned());
        }
        self
    }

    /// The same jobs, each with the run its round was part of.
    #[must_use]
    pub fn of_run(mut self, run: &str) -> Self {
        for round in self.jobs.iter_mut().filter_map(|job| job.round.as_mut()) {
            round.push_str(&format!(" of run {run}"));
        }
        self
    }

    /// Adds the jobs of a later round, as long as there is room.
    pub fn extend(&mut self, later: Self) {
        self.left_out += later.left_out;
        let mut room = MOST_ATTEMPTS.saturating_sub(self.lanes());
        for job in later.jobs {
            let needs = job.attempts.len().max(1);
            if needs <= room && self.left_out == 0 {
                room -= needs;
                self.jobs.push(job);
            } else {
                self.left_out += 1;
            }
        }
    }

    /// Attempts in the list; a job that was never claimed counts as one.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.jobs.iter().map(|job| job.attempts.len().max(1)).sum()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[cfg(test)]
pub(crate) mod tests;

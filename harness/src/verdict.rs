//! From outcomes to a verdict. A pure function of the selected cases, their outcomes and what the
//! audit found: nothing here reads a clock or a file.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::bounded::cut;
use crate::catalogue::{Case, Layer, Profile};
use crate::failure::{EXIT_INCONCLUSIVE, FailureClass};
use crate::flake_rate::FlakeRate;
use crate::job_times::JobTimes;
use crate::outcome::{Outcome, Status};
use crate::quarantine::Quarantined;
use crate::rounds::{Round, Tally};

/// What a run says about the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every selected case ran and passed.
    Conformant,
    /// Every selected case ran, every core case passed, an extended one failed or is in quarantine.
    Partial,
    /// A core case failed, or an extended one where no core case was selected.
    NonConformant,
    /// A selected case did not run, or a core one is in quarantine, so nothing can be said.
    Inconclusive,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Conformant => "conformant",
            Self::Partial => "partial",
            Self::NonConformant => "non-conformant",
            Self::Inconclusive => "inconclusive",
        })
    }
}

/// How a case is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Result {
    /// It ran and holds.
    Passed,
    /// It ran and does not hold, or its process was ended.
    Failed,
    /// It did not run.
    NotRun,
}

impl Result {
    /// The words for a person.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::NotRun => "not run",
        }
    }
}

/// One selected case and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseResult {
    /// Id in the catalogue.
    pub id: String,
    /// The promise.
    pub title: String,
    /// Its layer.
    pub layer: Layer,
    /// Its profile.
    pub profile: Profile,
    /// The requirement it stands for; empty in a report of an older harness.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub requirement: String,
    /// The public bugs it guards against.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub guards: Vec<String>,
    /// How it is counted.
    pub result: Result,
    /// Whose failure, for a failed one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<FailureClass>,
    /// When it began, if it did; `None` in a report of an older harness.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub started_at: Option<Timestamp>,
    /// Seconds, clean-up included; 0 for one that did not run.
    pub seconds: f64,
    /// Why it failed or did not run: at most [`MESSAGE_LIMIT`] bytes of what its outcome says.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub message: String,
    /// Directory of its evidence, relative to the run's.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub evidence: String,
    /// The run in which it passed under the same inputs, for a case that did not run in this one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub taken_over: Option<String>,
    /// Why it is in quarantine, if it is: its failure is not counted, and neither is its pass.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub quarantined: Option<Quarantined>,
    /// What became of it in each round; empty for a case that was to run once.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub rounds: Vec<Round>,
    /// In how many of its rounds it failed, of those that ran; `None` without any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub flake_rate: Option<FlakeRate>,
    /// Its jobs in time, of all rounds; `None` for a case without a server, one that did not come to
    /// its end, and in a report of an older harness.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub jobs: Option<JobTimes>,
}

impl CaseResult {
    /// How its rounds came out; `None` for a case that was to run once.
    #[must_use]
    pub fn tally(&self) -> Option<Tally> {
        (!self.rounds.is_empty()).then(|| Tally::of(&self.rounds))
    }

    /// Whether it both passed and failed: counted as failed, and named apart.
    #[must_use]
    pub fn is_flaky(&self) -> bool {
        Tally::of(&self.rounds).is_flaky()
    }

    /// The rounds in which it did not pass.
    #[must_use]
    pub fn missed_rounds(&self) -> Vec<&Round> {
        self.rounds.iter().filter(|round| round.result != Result::Passed).collect()
    }

    /// Whether it ran and does not hold, and is not known to do so.
    #[must_use]
    pub fn is_red(&self) -> bool {
        self.result == Result::Failed && self.quarantined.is_none()
    }

    /// What has to be said of it beside its result, in a sentence each.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let passed =
            self.taken_over.iter().map(|run| format!("taken over from run {run}, where it passed"));
        passed.chain(self.quarantined.iter().map(ToString::to_string)).collect()
    }

    /// "passed", "failed", "not run", or "flaky" for a case that failed and passed.
    #[must_use]
    pub fn word(&self) -> &'static str {
        if self.is_flaky() { "flaky" } else { self.result.as_str() }
    }
}

/// Numbers of cases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Ran and hold.
    pub passed: usize,
    /// Ran and do not hold.
    pub failed: usize,
    /// Did not run.
    pub not_run: usize,
    /// In quarantine, whatever came of them; none of the others.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub quarantined: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Counts {
    /// Counts results.
    #[must_use]
    pub fn of(results: impl Iterator<Item = Result> + Clone) -> Self {
        let of = |wanted| results.clone().filter(|result| *result == wanted).count();
        let (passed, failed) = (of(Result::Passed), of(Result::Failed));
        Self { passed, failed, not_run: of(Result::NotRun), quarantined: 0 }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, not_run, quarantined } = self;
        write!(f, "{passed} passed, {failed} failed, {not_run} not run")?;
        match quarantined {
            0 => Ok(()),
            some => write!(f, ", {some} in quarantine"),
        }
    }
}

/// Bytes of a case's message that a report keeps; the outcome has the rest.
pub const MESSAGE_LIMIT: usize = 64 * 1024;

/// What is said of a case that left no word of itself.
pub const NO_OUTCOME: &str = "it left no outcome";

/// What one case counts as. `interrupted`: a signal ended the run, so a case that did not come to
/// its end has not failed.
#[must_use]
pub fn judge_case(case: &Case, outcome: Option<&Outcome>, interrupted: bool) -> CaseResult {
    let (result, class, message) = match outcome {
        None => (Result::NotRun, None, NO_OUTCOME.to_owned()),
        Some(outcome) => match outcome.status {
            Status::Passed => (Result::Passed, None, String::new()),
            Status::Failed => {
                let class = outcome.class.unwrap_or(FailureClass::Product);
                (Result::Failed, Some(class), cut(&outcome.message, MESSAGE_LIMIT).into_owned())
            }
            Status::Running if interrupted => {
                (Result::NotRun, None, "it was interrupted by a signal".to_owned())
            }
            Status::Running => (
                Result::Failed,
                Some(FailureClass::Product),
                "its process was ended before it had an outcome: it hung or crashed".to_owned(),
            ),
        },
    };
    CaseResult {
        id: case.id.clone(),
        title: case.title.clone(),
        layer: case.layer,
        profile: case.profile,
        requirement: case.requirement.clone(),
        guards: case.guards.clone(),
        result,
        class,
        started_at: outcome.map(|outcome| outcome.started_at),
        seconds: outcome.map_or(0.0, |outcome| outcome.seconds),
        message,
        evidence: outcome.map_or_else(String::new, |outcome| match outcome.round {
            Some(round) => format!("evidence/round-{round}/{}", case.id),
            None => format!("evidence/{}", case.id),
        }),
        taken_over: None,
        quarantined: None,
        rounds: Vec::new(),
        flake_rate: None,
        jobs: outcome.and_then(|outcome| outcome.jobs.clone()),
    }
}

/// Counts results.
#[must_use]
pub fn count(results: &[CaseResult]) -> Counts {
    let counted = results.iter().filter(|case| case.quarantined.is_none());
    let quarantined = results.len() - counted.clone().count();
    Counts { quarantined, ..Counts::of(counted.map(|case| case.result)) }
}

/// What results and leaks together say.
#[must_use]
pub fn judge(results: &[CaseResult], leaks: &[String]) -> Verdict {
    let failed =
        |profile: Profile| results.iter().any(|case| case.is_red() && case.profile == profile);
    let in_quarantine = |profile: Profile| {
        results.iter().any(|case| case.quarantined.is_some() && case.profile == profile)
    };
    let core = results.iter().any(|case| case.profile == Profile::Core);
    let extended_failed = failed(Profile::Extended);
    let nothing_counts = results.iter().all(|case| case.quarantined.is_some());
    let not_run = results.iter().any(|case| case.result == Result::NotRun);
    if failed(Profile::Core) || extended_failed && !core || !leaks.is_empty() {
        Verdict::NonConformant
    } else if nothing_counts || not_run || in_quarantine(Profile::Core) {
        Verdict::Inconclusive
    } else if extended_failed || in_quarantine(Profile::Extended) {
        Verdict::Partial
    } else {
        Verdict::Conformant
    }
}

/// The exit code of a run that came to its end: that of the class which explains most
/// (infrastructure before image before … before product), 3 for an inconclusive one.
#[must_use]
pub fn exit_code(results: &[CaseResult], leaks: &[String]) -> u8 {
    let red = results.iter().filter(|case| case.is_red());
    let classes: Vec<_> = red.filter_map(|case| case.class).collect();
    if let Some(class) = FailureClass::ALL.into_iter().find(|class| classes.contains(class)) {
        return class.exit_code();
    }
    if !leaks.is_empty() {
        return FailureClass::Product.exit_code();
    }
    match judge(results, leaks) {
        Verdict::Conformant => 0,
        Verdict::Partial | Verdict::Inconclusive => EXIT_INCONCLUSIVE,
        Verdict::NonConformant => FailureClass::Product.exit_code(),
    }
}

#[cfg(test)]
mod tests;

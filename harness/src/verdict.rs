//! From outcomes to a verdict. A pure function of the selected cases, their outcomes and what the
//! audit found: nothing here reads a clock or a file.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::catalogue::{Case, Layer, Profile};
use crate::failure::{EXIT_INCONCLUSIVE, EXIT_INTERRUPTED, FailureClass};
use crate::outcome::{Outcome, Status};

/// What a run says about the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every selected case ran and passed.
    Conformant,
    /// Every selected case ran, every core case passed, an extended one failed.
    Partial,
    /// A core case failed, or an extended one where no core case was selected.
    NonConformant,
    /// A selected case did not run, so nothing can be said.
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
    /// How it is counted.
    pub result: Result,
    /// Whose failure, for a failed one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<FailureClass>,
    /// Seconds, clean-up included; 0 for one that did not run.
    pub seconds: f64,
    /// Why it failed or did not run.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub message: String,
    /// Directory of its evidence, relative to the run's.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub evidence: String,
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
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, not_run } = self;
        write!(f, "{passed} passed, {failed} failed, {not_run} not run")
    }
}

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
                (Result::Failed, Some(class), outcome.message.clone())
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
        result,
        class,
        seconds: outcome.map_or(0.0, |outcome| outcome.seconds),
        message,
        evidence: outcome.map_or_else(String::new, |_| format!("evidence/{}", case.id)),
    }
}

/// Counts results.
#[must_use]
pub fn count(results: &[CaseResult]) -> Counts {
    let of = |wanted| results.iter().filter(|case| case.result == wanted).count();
    Counts { passed: of(Result::Passed), failed: of(Result::Failed), not_run: of(Result::NotRun) }
}

/// What results and leaks together say.
#[must_use]
pub fn judge(results: &[CaseResult], leaks: &[String]) -> Verdict {
    let any = |result, profile: Profile| {
        results.iter().any(|case| case.result == result && case.profile == profile)
    };
    let core = results.iter().any(|case| case.profile == Profile::Core);
    let extended_failed = any(Result::Failed, Profile::Extended);
    if any(Result::Failed, Profile::Core) || extended_failed && !core || !leaks.is_empty() {
        Verdict::NonConformant
    } else if results.is_empty() || results.iter().any(|case| case.result == Result::NotRun) {
        Verdict::Inconclusive
    } else if extended_failed {
        Verdict::Partial
    } else {
        Verdict::Conformant
    }
}

/// The exit code of a run: that of the class which explains most (infrastructure before image
/// before … before product), 3 for an inconclusive one, 130 after a signal.
#[must_use]
pub fn exit_code(results: &[CaseResult], leaks: &[String], interrupted: bool) -> u8 {
    if interrupted {
        return EXIT_INTERRUPTED;
    }
    let classes: Vec<_> = results.iter().filter_map(|case| case.class).collect();
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
mod tests {
    use super::*;

    fn case(profile: Profile) -> Case {
        Case {
            id: "infra.x".into(),
            title: "X".into(),
            layer: Layer::Infra,
            profile,
            features: Default::default(),
            exclusive: false,
            requirement: "HU-10.1".into(),
            guards: Vec::new(),
            test: "infra::x".into(),
        }
    }

    fn result(profile: Profile, status: Option<Status>, class: Option<FailureClass>) -> CaseResult {
        let outcome = status.map(|status| Outcome {
            status,
            class,
            ..Outcome::running("infra.x", "/e".into())
        });
        judge_case(&case(profile), outcome.as_ref(), false)
    }

    #[test]
    fn verdicts_and_exit_codes() {
        use FailureClass::{Infrastructure, Network, Product};
        use Profile::{Core, Extended};
        use Status::{Failed, Passed, Running};
        let ok = || result(Core, Some(Passed), None);
        let none: Vec<String> = Vec::new();
        let leak = vec!["namespace x".to_owned()];
        let table = [
            (vec![ok()], &none, Verdict::Conformant, 0),
            (vec![], &none, Verdict::Inconclusive, 3),
            (vec![ok(), result(Core, None, None)], &none, Verdict::Inconclusive, 3),
            (vec![ok(), result(Extended, None, None)], &none, Verdict::Inconclusive, 3),
            (vec![result(Extended, None, None)], &none, Verdict::Inconclusive, 3),
            (vec![result(Extended, Some(Failed), Some(Product))], &none, Verdict::NonConformant, 1),
            (
                vec![ok(), result(Core, Some(Failed), Some(Product))],
                &none,
                Verdict::NonConformant,
                1,
            ),
            (vec![ok(), result(Core, Some(Running), None)], &none, Verdict::NonConformant, 1),
            (
                vec![ok(), result(Core, Some(Failed), Some(Network))],
                &none,
                Verdict::NonConformant,
                13,
            ),
            (
                vec![
                    result(Core, Some(Failed), Some(Product)),
                    result(Core, Some(Failed), Some(Infrastructure)),
                ],
                &none,
                Verdict::NonConformant,
                10,
            ),
            (vec![result(Extended, Some(Failed), Some(Product)), ok()], &none, Verdict::Partial, 1),
            (vec![ok()], &leak, Verdict::NonConformant, 1),
        ];
        for (results, leaks, verdict, code) in table {
            assert_eq!(judge(&results, leaks), verdict, "{results:?}");
            assert_eq!(exit_code(&results, leaks, false), code, "{results:?}");
            assert_eq!(exit_code(&results, leaks, true), 130);
        }
    }

    #[test]
    fn after_a_signal_an_unfinished_case_has_not_run() {
        let outcome = Outcome::running("infra.x", "/e".into());
        let judged = judge_case(&case(Profile::Core), Some(&outcome), true);
        assert_eq!(judged.result, Result::NotRun);
    }
}

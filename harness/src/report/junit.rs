//! JUnit: a test suite a layer, and a test case each case or each round of one, for CI systems that
//! show nothing else.

use std::time::Duration;

use quick_junit::{NonSuccessKind, SerializeError, TestCase, TestCaseStatus, TestSuite};

use super::Report;
use crate::catalogue::Layer;
use crate::failure::FailureClass;
use crate::rounds::Round;
use crate::verdict::{CaseResult, Result as Counted};

/// The report as JUnit XML. What did not run is an error, so that no CI shows it as green; what fails in
/// quarantine is skipped.
///
/// # Errors
/// The XML writer's.
pub fn to_junit(report: &Report) -> Result<String, SerializeError> {
    let mut junit = quick_junit::Report::new("hodei-e2e");
    junit.set_time(Duration::from_secs_f64(report.seconds));
    for layer in Layer::ALL {
        let cases: Vec<_> = report.cases.iter().filter(|case| case.layer == layer).collect();
        if cases.is_empty() {
            continue;
        }
        let mut suite = TestSuite::new(layer.as_str());
        suite.set_time(Duration::from_secs_f64(cases.iter().map(|case| seconds(case)).sum()));
        suite.add_test_cases(cases.into_iter().flat_map(test_cases));
        junit.add_test_suite(suite);
    }
    junit.to_string()
}

/// All of a case's time: its own seconds are a round's mean.
fn seconds(case: &CaseResult) -> f64 {
    match case.rounds.as_slice() {
        [] => case.seconds,
        rounds => rounds.iter().map(|round| round.seconds).sum(),
    }
}

/// The case, or each of its rounds under a name of its own.
fn test_cases(case: &CaseResult) -> Vec<TestCase> {
    if case.rounds.is_empty() {
        return vec![test_case(case)];
    }
    case.rounds.iter().map(|round| test_case_of(case, round)).collect()
}

fn test_case_of(case: &CaseResult, round: &Round) -> TestCase {
    // The round that the case's own message is of has all of it.
    let full = round.evidence == case.evidence && round.result == case.result;
    let of_round = CaseResult {
        result: round.result,
        class: round.class,
        seconds: round.seconds,
        message: if full { case.message.clone() } else { round.message.clone() },
        rounds: Vec::new(),
        ..case.clone()
    };
    let mut test = test_case(&of_round);
    test.name = format!("{} ({})", case.id, round.name()).into();
    test.add_property(("flaky", if case.is_flaky() { "true" } else { "false" }));
    test
}

fn test_case(case: &CaseResult) -> TestCase {
    let mut status = match case.result {
        Counted::Passed => TestCaseStatus::success(),
        // Known, and so not red; the report's verdict is not green for it.
        Counted::Failed if case.quarantined.is_some() => TestCaseStatus::skipped(),
        Counted::Failed => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Counted::NotRun => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    if case.result != Counted::Passed {
        status.set_message(case.message.lines().next().unwrap_or_default());
        status.set_type(case.class.map_or("not-run", FailureClass::as_str));
        status.set_description(case.message.as_str());
    }
    if let (Counted::Failed, Some(why)) = (case.result, &case.quarantined) {
        status.set_message(why.to_string());
    }
    let mut test = TestCase::new(case.id.as_str(), status);
    test.set_classname(case.layer.as_str());
    test.set_time(Duration::from_secs_f64(case.seconds));
    test.add_property(("title", case.title.as_str()));
    if let Some(run) = &case.taken_over {
        test.add_property(("passed in run", run.as_str()));
    }
    if let Some(why) = &case.quarantined {
        test.add_property(("quarantine", why.to_string().as_str()));
    }
    test
}

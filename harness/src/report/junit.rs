//! JUnit: a test suite a layer, for CI systems that show nothing else.

use std::time::Duration;

use quick_junit::{NonSuccessKind, SerializeError, TestCase, TestCaseStatus, TestSuite};

use super::Report;
use crate::catalogue::Layer;
use crate::failure::FailureClass;
use crate::verdict::{CaseResult, Result as Counted};

/// The report as JUnit XML. What did not run is an error, so that no CI shows it as green.
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
        suite.set_time(Duration::from_secs_f64(cases.iter().map(|case| case.seconds).sum()));
        suite.add_test_cases(cases.into_iter().map(test_case));
        junit.add_test_suite(suite);
    }
    junit.to_string()
}

fn test_case(case: &CaseResult) -> TestCase {
    let mut status = match case.result {
        Counted::Passed => TestCaseStatus::success(),
        Counted::Failed => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Counted::NotRun => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    if case.result != Counted::Passed {
        status.set_message(case.message.lines().next().unwrap_or_default());
        status.set_type(case.class.map_or("not-run", FailureClass::as_str));
        status.set_description(case.message.as_str());
    }
    let mut test = TestCase::new(case.id.as_str(), status);
    test.set_classname(case.layer.as_str());
    test.set_time(Duration::from_secs_f64(case.seconds));
    test.add_property(("title", case.title.as_str()));
    test
}

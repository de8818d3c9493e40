use super::*;
use crate::catalogue::{Layer, Profile};
use crate::verdict::{Result as Counted, count, exit_code, judge};

fn case(id: &str, layer: Layer, result: Counted, class: Option<FailureClass>) -> CaseResult {
    let message = match result {
        Counted::Passed => "",
        Counted::Failed => "await job: not so after 30 s\nlast seen: RUNNING | attempt 1",
        Counted::NotRun => "it left no outcome",
    };
    CaseResult {
        id: id.into(),
        title: format!("The promise of {id}"),
        layer,
        profile: Profile::Core,
        result,
        class,
        seconds: 1.25,
        message: message.into(),
        evidence: format!("evidence/{id}"),
    }
}

fn report() -> Report {
    let cases = vec![
        case("infra.nodes", Layer::Infra, Counted::Passed, None),
        case("full-job.echo", Layer::FullJob, Counted::Failed, Some(FailureClass::Product)),
        case("cleanup.gone", Layer::Cleanup, Counted::NotRun, None),
    ];
    let leaks = vec!["namespace hodei-e2e-3fa9c1-full-job-echo".to_owned()];
    Report {
        schema: SCHEMA.into(),
        run: "20260101-120000-3fa9c1".into(),
        verdict: judge(&cases, &leaks),
        exit_code: exit_code(&cases, &leaks, false),
        counts: count(&cases),
        started_at: "2026-01-01T12:00:00Z".parse().unwrap(),
        seconds: 42.0,
        environment: Fingerprint {
            cluster: "hodei-e2e".into(),
            kubernetes: "v1.34.4".into(),
            nodes: 1,
            worker_image: "hodei-worker:e2e@sha256:1".into(),
            host: "linux x86_64".into(),
        },
        stages: vec![StageTiming {
            name: "cluster".into(),
            seconds: 0.5,
            note: "reused".into(),
            ok: true,
        }],
        cases,
        leaks,
    }
}

#[test]
fn json_is_the_reference_and_reads_back() {
    let report = report();
    let text = serde_json::to_string_pretty(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    insta::assert_snapshot!("json", text);
}

#[test]
fn markdown_says_first_what_failed() {
    insta::assert_snapshot!("markdown", to_markdown(&report()));
}

#[test]
fn junit_has_no_green_for_what_did_not_run() {
    insta::assert_snapshot!("junit", to_junit(&report()).unwrap());
}

#[test]
fn the_summary_ends_with_the_two_counts() {
    let summary = report().summary(Path::new("/state/runs/r/report"));
    assert_eq!(summary.lines().last(), Some("1 passed, 1 failed"));
    insta::assert_snapshot!("summary", summary);
}

use super::*;
use crate::catalogue::{Layer, Profile};
use crate::verdict::{Result as Counted, count, exit_code, judge};

pub(crate) fn case(
    id: &str,
    layer: Layer,
    result: Counted,
    class: Option<FailureClass>,
) -> CaseResult {
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
        requirement: "HU-10.4".into(),
        guards: vec!["argo#2711".into()],
        result,
        class,
        started_at: Some("2026-01-01T12:00:01Z".parse().unwrap()),
        seconds: 1.25,
        message: message.into(),
        evidence: format!("evidence/{id}"),
        taken_over: None,
        quarantined: None,
        rounds: Vec::new(),
        flake_rate: None,
        jobs: None,
    }
}

pub(crate) fn report() -> Report {
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
        exit_code: exit_code(&cases, &leaks),
        counts: count(&cases),
        started_at: "2026-01-01T12:00:00Z".parse().unwrap(),
        seconds: 42.0,
        environment: Fingerprint {
            commit: "4433e5f1".into(),
            cluster: "hodei-e2e".into(),
            kubernetes: "v1.34.4".into(),
            nodes: 1,
            worker_image: "hodei-worker:e2e@sha256:1".into(),
            host: "linux x86_64".into(),
        },
        stages: vec![StageTiming {
            name: "cluster".into(),
            started_at: Some("2026-01-01T12:00:00.5Z".parse().unwrap()),
            seconds: 0.5,
            note: "reused".into(),
            ok: true,
        }],
        cases,
        leaks,
        rounds: None,
        resumed: None,
        shard: None,
        merged: Vec::new(),
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
fn a_report_of_an_older_harness_is_read() {
    let mut old = serde_json::to_value(report()).unwrap();
    for case in old["cases"].as_array_mut().unwrap() {
        for key in ["started_at", "requirement", "guards"] {
            assert!(case.as_object_mut().unwrap().remove(key).is_some(), "{key}");
        }
    }
    assert!(old["stages"][0].as_object_mut().unwrap().remove("started_at").is_some());
    let read: Report = serde_json::from_value(old).unwrap();
    assert_eq!(read.cases[0].started_at, None);
    assert_eq!(read.counts, report().counts);
}

#[test]
fn a_saved_report_is_read_by_file_or_directory_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let paths = report().save(dir.path(), dir.path()).unwrap();
    let names: Vec<_> = paths.iter().map(|path| path.file_name().unwrap()).collect();
    assert_eq!(names, ["report.json", "report.html", "report.md", "junit.xml"]);
    assert_eq!(Report::read(dir.path()).unwrap(), report());
    assert_eq!(Report::read(&paths[0]).unwrap(), report());
    assert_eq!(report().not_passed(), ["full-job.echo", "cleanup.gone"]);
    let text = std::fs::read_to_string(&paths[0]).unwrap();
    let other = dir.path().join("other.json");
    for (content, says) in [
        (text.replace(SCHEMA, "hodei-e2e-report/2"), "its schema is"),
        ("{}".to_owned(), "missing field"),
        ("<html>".to_owned(), "expected value"),
    ] {
        std::fs::write(&other, content).unwrap();
        let error = Report::read(&other).unwrap_err();
        assert!(error.source.to_string().contains(says), "{}", error.source);
    }
    assert!(Report::read(&dir.path().join("none")).is_err());
    let large = dir.path().join("large.json");
    std::fs::File::create(&large).unwrap().set_len(LARGEST + 1).unwrap();
    let error = Report::read(&large).unwrap_err();
    assert!(error.source.to_string().contains("larger than"), "{}", error.source);
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

/// A run of four rounds: one case that failed in the second, one that passed in all.
pub(crate) fn repeated() -> Report {
    use crate::rounds::{Round, combine};
    let round = |id: &str, number: u32, result: Counted| {
        let class = (result == Counted::Failed).then_some(FailureClass::Product);
        let mut case = case(id, Layer::FullJob, result, class);
        case.evidence = format!("evidence/round-{number}/{id}");
        (Round::of(number, None, &case), case)
    };
    let all = |id: &str, failed: u32| {
        let of = |number| if number == failed { Counted::Failed } else { Counted::Passed };
        combine((1..=4).map(|number| round(id, number, of(number))).collect()).unwrap()
    };
    let cases = vec![all("full-job.echo", 2), all("full-job.exit", 0)];
    Report {
        verdict: judge(&cases, &[]),
        exit_code: exit_code(&cases, &[]),
        counts: count(&cases),
        cases,
        leaks: Vec::new(),
        rounds: Some(Rounds {
            asked: 4,
            begun: 4,
            until_failure: false,
            flake_budget: Some(10.0),
            within_budget: Some(false),
        }),
        ..report()
    }
}

#[test]
fn a_flaky_case_is_named_and_counted_in_every_form() {
    let report = repeated();
    assert_eq!((report.verdict, report.exit_code), (crate::verdict::Verdict::NonConformant, 1));
    assert_eq!(report.not_passed(), ["full-job.echo"]);
    insta::assert_snapshot!("rounds_summary", report.summary(Path::new("/report")));
    insta::assert_snapshot!("rounds_markdown", to_markdown(&report));
    insta::assert_snapshot!("rounds_junit", to_junit(&report).unwrap());
    let page = to_html(&report, None).unwrap();
    for said in [
        "✗ flaky",
        "3 of 4 rounds passed, 1 failed (25.0 %, at 95 % between 4.6 and 69.9 %)",
        "evidence/round-2/full-job.echo",
        "full-job.echo (round 4)",
        "4 of 4 rounds, not within the flake budget of 10 %",
    ] {
        assert!(page.contains(said), "{said}");
    }
    let text = serde_json::to_string(&report).unwrap();
    assert!(
        text.contains(r#""flake_rate":{"executions":4,"failures":1,"percent":25.0,"#),
        "{text}"
    );
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
}

/// A run that goes on with another: one case passed there, two are in quarantine, of which one fails.
pub(crate) fn resumed() -> Report {
    use crate::quarantine::Quarantined;
    let known = |id: &str, result, class| CaseResult {
        quarantined: Some(Quarantined {
            owner: "jane".into(),
            reason: "slow | disk".into(),
            issue: Some("https://example.org/7".into()),
            expires: "2026-03-31".parse().unwrap(),
        }),
        ..case(id, Layer::FullJob, result, class)
    };
    let mut taken = case("infra.nodes", Layer::Infra, Counted::Passed, None);
    taken.started_at = Some("2025-12-31T12:00:01Z".parse().unwrap());
    taken.taken_over = Some("20251231-120000-aaaaaa".into());
    taken.evidence = "../20251231-120000-aaaaaa/evidence/infra.nodes".into();
    let cases = vec![
        taken,
        case("full-job.exit", Layer::FullJob, Counted::Passed, None),
        known("full-job.echo", Counted::Failed, Some(FailureClass::Product)),
        known("full-job.output", Counted::Passed, None),
    ];
    Report {
        verdict: judge(&cases, &[]),
        exit_code: exit_code(&cases, &[]),
        counts: count(&cases),
        cases,
        leaks: Vec::new(),
        resumed: Some(crate::resume::Resumed {
            run: "20251231-120000-aaaaaa".into(),
            inputs: "0123456789ab".into(),
            taken_over: 1,
            retried: vec!["full-job.exit".into()],
        }),
        ..report()
    }
}

#[test]
fn what_was_taken_over_or_is_in_quarantine_is_said_in_every_form() {
    let report = resumed();
    assert_eq!((report.verdict, report.exit_code), (crate::verdict::Verdict::Inconclusive, 3));
    insta::assert_snapshot!("resumed_summary", report.summary(Path::new("/report")));
    insta::assert_snapshot!("resumed_markdown", to_markdown(&report));
    insta::assert_snapshot!("resumed_junit", to_junit(&report).unwrap());
    let page = to_html(&report, None).unwrap();
    for said in [
        "taken over from run 20251231-120000-aaaaaa, where it passed",
        "in quarantine until 2026-03-31 (jane): slow | disk https://example.org/7",
        "◌ in quarantine, failed",
        "<dt>in quarantine</dt><dd>2</dd>",
        "goes on with run 20251231-120000-aaaaaa: 1 case(s) passed there",
    ] {
        assert!(page.contains(said), "{said}");
    }
    for untrue in ["What failed first", "title=\"infra.nodes"] {
        assert!(!page.contains(untrue), "{untrue}");
    }
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
}

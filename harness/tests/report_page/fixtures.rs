//! Reports to look at: one of a conformant run, one that failed with long messages, one of many
//! rounds; each with jobs.

use std::path::PathBuf;

use hodei_harness::catalogue::{Layer, Profile};
use hodei_harness::failure::FailureClass;
use hodei_harness::job_times::{AttemptTimes, JobTimeline, JobTimes};
use hodei_harness::progress::StageTiming;
use hodei_harness::report::{Fingerprint, Report, Rounds, SCHEMA};
use hodei_harness::rounds::{Round, combine};
use hodei_harness::verdict::{CaseResult, Result as Counted, count, exit_code, judge};
use jiff::{SignedDuration, Timestamp};

/// Where pages and pictures go; it stays.
pub(crate) fn directory() -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("report-page");
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

fn at(second: f64) -> Timestamp {
    let start: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
    start + SignedDuration::try_from_secs_f64(second).unwrap()
}

/// A job submitted at that second; `number` makes it different from others.
fn job(number: u32, second: f64) -> JobTimeline {
    let n = f64::from(number);
    let (wave, run) = ((n * 1.7).sin().abs(), 0.4 + (n * 0.9).cos().abs() * 3.0);
    let started = 0.7 + wave * 2.0;
    JobTimeline {
        id: format!("018f0000-0000-7000-8000-{number:012}"),
        name: format!("echo-{number}"),
        state: if number % 7 == 3 { "failed" } else { "succeeded" }.into(),
        round: None,
        submitted_at: at(second),
        finished: Some(started + run),
        attempts: vec![AttemptTimes {
            epoch: 1,
            node: "hodei-e2e-control-plane".into(),
            warm: number % 11 == 10,
            claimed: Some(0.011),
            pod_created: (number % 11 != 10).then_some(0.06 + wave / 10.0),
            scheduled: (number % 5 != 4).then_some(0.07 + wave / 5.0),
            image: None,
            running: Some(started + 0.4),
            registered: Some(started - 0.05),
            started: Some(started),
            output: Some(started + 0.02),
            finished: Some(started + run),
            terminating: Some(started + run + 0.004),
            gone: (number % 7 != 3).then_some(started + run + 1.2 + wave * 2.0),
        }],
        attempts_left_out: 0,
    }
}

fn case(number: u32, layer: Layer, result: Counted) -> CaseResult {
    let second = f64::from(number);
    let failed = result == Counted::Failed;
    let jobs = (0..number % 6 * 4).map(|n| job(number * 10 + n, second + f64::from(n) * 0.4));
    let jobs: Vec<_> = jobs.collect();
    CaseResult {
        id: format!("{layer}.case-{number}-of-a-name-that-is-long-enough"),
        title: "A job whose worker's pod is deleted by someone else is tried again, once".into(),
        layer,
        profile: if number % 3 == 2 { Profile::Extended } else { Profile::Core },
        requirement: "HU-10.4".into(),
        guards: vec!["kubernetes-plugin#2772".into(), "argo#2711".into()],
        result,
        class: failed.then_some(FailureClass::Product),
        started_at: Some(at(second)),
        seconds: 3.0 + f64::from(number % 9) * 2.3,
        message: match result {
            Counted::Passed => String::new(),
            Counted::Failed => message(),
            Counted::NotRun => "the cluster lacks multi-node (two nodes or more)".into(),
        },
        evidence: format!("evidence/{layer}.case-{number}"),
        taken_over: None,
        quarantined: None,
        rounds: Vec::new(),
        flake_rate: None,
        jobs: (!jobs.is_empty()).then_some(JobTimes { jobs, left_out: 0 }),
    }
}

fn message() -> String {
    let word = "x".repeat(600);
    let line = "await job 018f0000-0000-7000-8000-000000000001: not SUCCEEDED after 30 s; last seen RUNNING";
    format!("{line}\nlast seen: {word}\n{}", format!("{line}\n").repeat(120))
}

fn report(cases: Vec<CaseResult>) -> Report {
    let stages = [("engine", 0.2), ("cluster", 41.0), ("worker image", 3.0), ("cases", 60.0)];
    let mut began = 0.0;
    let stages = stages.map(|(name, seconds)| {
        let stage = StageTiming {
            name: name.into(),
            started_at: Some(at(began)),
            seconds,
            note: format!("what was to be said of {name}"),
            ok: true,
        };
        began += seconds;
        stage
    });
    Report {
        schema: SCHEMA.into(),
        run: "20260101-120000-3fa9c1".into(),
        verdict: judge(&cases, &[]),
        exit_code: exit_code(&cases, &[]),
        counts: count(&cases),
        started_at: at(0.0),
        seconds: 104.2,
        environment: Fingerprint {
            commit: "4433e5f1a9b0c3d2e1f04433e5f1a9b0c3d2e1f0".into(),
            cluster: "hodei-e2e".into(),
            kubernetes: "v1.34.4".into(),
            nodes: 1,
            worker_image: format!("hodei-worker:e2e@sha256:{}", "ab".repeat(32)),
            host: "linux x86_64".into(),
        },
        stages: stages.to_vec(),
        cases,
        leaks: Vec::new(),
        rounds: None,
        resumed: None,
        shard: None,
        merged: Vec::new(),
    }
}

/// Every case passed.
pub(crate) fn conformant() -> Report {
    let layers = Layer::ALL.into_iter().zip((0..).step_by(5));
    let of_layer = |(layer, first): (Layer, u32)| {
        (first..first + 5).map(move |number| case(number, layer, Counted::Passed))
    };
    report(layers.flat_map(of_layer).collect())
}

/// Some failed, one did not run, something was left behind.
pub(crate) fn failing() -> Report {
    let mut cases = conformant().cases;
    for number in [7_u32, 8, 13] {
        let index = usize::try_from(number).unwrap();
        cases[index] = case(number, cases[index].layer, Counted::Failed);
    }
    cases[7].evidence = "evidence/first".into();
    cases[21] = case(21, cases[21].layer, Counted::NotRun);
    let leaks = vec![format!("namespace hodei-e2e-3fa9c1-{}", "of-a-long-name-".repeat(8))];
    let (verdict, exit_code) = (judge(&cases, &leaks), exit_code(&cases, &leaks));
    Report { verdict, exit_code, leaks, ..report(cases) }
}

/// Two hundred rounds of six cases, of which one is flaky.
pub(crate) fn rounds() -> Report {
    let of_round = |number: u32, round: u32| {
        let failed = number == 4 && round.is_multiple_of(3);
        let result = if failed { Counted::Failed } else { Counted::Passed };
        let mut case = case(number, Layer::FullJob, result);
        case.started_at = Some(at(f64::from(round * 20 + number)));
        case.evidence = format!("evidence/round-{round}/{}", case.id);
        (Round::of(round, None, &case), case)
    };
    let all = |number| combine((1..=200).map(|round| of_round(number, round)).collect()).unwrap();
    let rounds = Rounds {
        asked: 200,
        begun: 200,
        until_failure: false,
        flake_budget: Some(5.0),
        within_budget: Some(false),
    };
    Report { rounds: Some(rounds), ..report((1..7).map(all).collect()) }
}

/// A run's directory with evidence of the case that failed first.
pub(crate) fn evidence() -> tempfile::TempDir {
    let run = tempfile::tempdir().unwrap();
    let directory = run.path().join("evidence/first");
    std::fs::create_dir_all(&directory).unwrap();
    let line = r#"{"timestamp":"2026-01-01T12:00:02.5Z","level":"WARN","message":"a worker is late","epoch":2,"worker":"018f0000-0000-7000-8000-000000000001"}"#;
    std::fs::write(directory.join("server.log"), format!("{line}\n").repeat(80)).unwrap();
    std::fs::write(directory.join("rows-jobs.jsonl"), "x".repeat(5000)).unwrap();
    run
}

//! One report of several runs: the shards of a CI matrix, or the same cases again. A case that no
//! run ran is not run, one that several ran keeps what came of each, and runs of different things
//! are not put together at all.

use std::collections::{BTreeMap, BTreeSet};

use super::{Fingerprint, Report, SCHEMA};
use crate::digest::Inputs;
use crate::progress::StageTiming;
use crate::rounds::{Round, combine};
use crate::shard::Shard;
use crate::verdict::{CaseResult, Verdict, count, exit_code, judge};

/// Puts reports together, whatever their order.
///
/// # Errors
/// There is none, one is there twice or was put together itself, or they are of different commits,
/// worker images or clusters; the sentence says which.
pub fn merge(mut reports: Vec<Report>) -> Result<Report, String> {
    reports.sort_by(|one, other| (one.started_at, &one.run).cmp(&(other.started_at, &other.run)));
    check(&reports)?;
    let cases = cases(&reports);
    let of_run = |report: &Report| {
        let run = report.run.clone();
        report.leaks.clone().into_iter().map(move |leak| format!("{leak} (run {run})"))
    };
    let leaks: Vec<_> = reports.iter().flat_map(of_run).collect();
    let runs: Vec<_> = reports.iter().map(|report| report.run.clone()).collect();
    let first = reports.first().ok_or("there is no report")?;
    let code = Some(exit_code(&cases, &leaks)).filter(|code| *code != 0);
    let codes = reports.iter().map(|report| report.exit_code);
    Ok(Report {
        schema: SCHEMA.into(),
        run: name(&runs),
        verdict: verdict(&reports, &cases, &leaks),
        exit_code: code.or_else(|| codes.clone().find(|code| *code != 0)).unwrap_or_default(),
        counts: count(&cases),
        started_at: first.started_at,
        seconds: seconds(&reports),
        environment: known(&reports).unwrap_or(&first.environment).clone(),
        stages: reports.iter().flat_map(stages).collect(),
        cases,
        leaks,
        rounds: None,
        resumed: None,
        shard: None,
        merged: runs,
    })
}

fn check(reports: &[Report]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for report in reports {
        if !seen.insert(&report.run) {
            return Err(format!("run {} is there twice", report.run));
        }
        if !report.merged.is_empty() {
            let runs = report.merged.join(", ");
            return Err(format!("{} was put together itself: give its runs {runs}", report.run));
        }
        if report.environment.commit.is_empty() {
            return Err(format!("run {} does not say of which commit it is", report.run));
        }
    }
    same(reports, "commit", |on| on.commit.clone())?;
    same(reports, "worker image", |on| on.worker_image.clone())?;
    same(reports, "Kubernetes version", |on| on.kubernetes.clone())?;
    same(reports, "number of nodes", |on| match on.nodes {
        0 => String::new(),
        nodes => nodes.to_string(),
    })
}

/// All reports that say it say the same; one whose run had no cluster says nothing.
fn same(reports: &[Report], what: &str, of: fn(&Fingerprint) -> String) -> Result<(), String> {
    let said = reports.iter().map(|report| (of(&report.environment), &report.run));
    let mut said = said.filter(|(value, _)| !value.is_empty());
    let Some((value, run)) = said.next() else { return Ok(()) };
    match said.find(|(other, _)| *other != value) {
        None => Ok(()),
        Some((other, of)) => {
            Err(format!("the {what} is not the same: {value} in run {run}, {other} in run {of}"))
        }
    }
}

/// The environment of a run that had a cluster.
fn known(reports: &[Report]) -> Option<&Fingerprint> {
    let mut all = reports.iter().map(|report| &report.environment);
    all.find(|environment| environment.nodes > 0)
}

/// Each case once, by layer and id.
fn cases(reports: &[Report]) -> Vec<CaseResult> {
    let mut all: BTreeMap<&str, Vec<(Round, CaseResult)>> = BTreeMap::new();
    for report in reports {
        for case in &report.cases {
            all.entry(&case.id).or_default().extend(rounds(report, case));
        }
    }
    let nobody = nobody(reports);
    let elsewhere = reports.iter().filter_map(|report| report.shard.as_ref());
    let elsewhere = elsewhere.flat_map(|shard| &shard.elsewhere);
    let missing: BTreeMap<_, _> = elsewhere
        .filter(|case| !all.contains_key(case.id.as_str()))
        .map(|case| (&case.id, CaseResult { message: nobody.clone(), ..case.clone() }))
        .collect();
    let mut cases: Vec<_> = missing.into_values().collect();
    cases.extend(all.into_values().filter_map(once));
    cases.sort_by(|one, other| (one.layer, &one.id).cmp(&(other.layer, &other.id)));
    cases
}

/// A case as one run saw it: its rounds, or the run as a round.
fn rounds(report: &Report, case: &CaseResult) -> Vec<(Round, CaseResult)> {
    let run = Some(report.run.as_str());
    let place = |evidence: &str| match evidence {
        "" => String::new(),
        evidence => format!("{}/{evidence}", report.run),
    };
    let case = CaseResult { evidence: place(&case.evidence), ..case.clone() };
    if case.rounds.is_empty() {
        return vec![(Round::of(1, run, &case), case)];
    }
    let named = |round: &Round| Round {
        run: Some(report.run.clone()),
        evidence: place(&round.evidence),
        ..round.clone()
    };
    // Its jobs are of all of its rounds, and are there once.
    let mut case = case;
    let mut jobs = case.jobs.take().map(|jobs| jobs.of_run(&report.run));
    let each = case.rounds.iter();
    each.map(|round| (named(round), CaseResult { jobs: jobs.take(), ..case.clone() })).collect()
}

/// What is said of a case that one run alone ran is that run's word.
fn once(mut rounds: Vec<(Round, CaseResult)>) -> Option<CaseResult> {
    if rounds.len() == 1 && rounds[0].1.rounds.is_empty() {
        return rounds.pop().map(|(_, case)| case);
    }
    combine(rounds)
}

/// Why a case has no run: which shards are missing.
fn nobody(reports: &[Report]) -> String {
    let shards: Vec<_> =
        reports.iter().filter_map(|report| Some(report.shard.as_ref()?.shard)).collect();
    let wholes: BTreeSet<_> = shards.iter().map(|shard| shard.of).collect();
    let all = wholes.into_iter().flat_map(|of| (1..=of).map(move |index| Shard { index, of }));
    let missing: Vec<_> =
        all.filter(|shard| !shards.contains(shard)).map(|shard| shard.to_string()).collect();
    format!("no shard ran it: there is no report of {}", missing.join(", "))
}

fn verdict(reports: &[Report], cases: &[CaseResult], leaks: &[String]) -> Verdict {
    let inconclusive = reports.iter().any(|report| report.verdict == Verdict::Inconclusive);
    match judge(cases, leaks) {
        // A run that a signal ended says so by this alone, if all of its cases had ended.
        Verdict::Conformant | Verdict::Partial if inconclusive => Verdict::Inconclusive,
        verdict => verdict,
    }
}

fn seconds(reports: &[Report]) -> f64 {
    let Some(began) = reports.iter().map(|report| report.started_at).min() else { return 0.0 };
    let end =
        |report: &Report| report.started_at.duration_since(began).as_secs_f64() + report.seconds;
    reports.iter().map(end).fold(0.0, f64::max)
}

fn stages(report: &Report) -> impl Iterator<Item = StageTiming> {
    let named = |stage: &StageTiming| StageTiming {
        name: format!("{} (run {})", stage.name, report.run),
        ..stage.clone()
    };
    report.stages.iter().map(named)
}

fn name(runs: &[String]) -> String {
    format!("merged-{}", Inputs::new().add("runs", runs.join("+")).tag())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{case, report};
    use super::*;
    use crate::catalogue::Layer;
    use crate::failure::{EXIT_INCONCLUSIVE, FailureClass};
    use crate::job_times::JobTimes;
    use crate::job_times::tests::usual;
    use crate::shard::ShardOf;
    use crate::verdict::Result as Counted;

    fn part(run: &str, shard: &str, mine: &[(&str, Counted)], elsewhere: &[&str]) -> Report {
        let make = |id: &str, result: Counted| {
            let class = (result == Counted::Failed).then_some(FailureClass::Product);
            case(id, Layer::Infra, result, class)
        };
        let cases: Vec<_> = mine.iter().map(|(id, result)| make(id, *result)).collect();
        let elsewhere = elsewhere.iter().map(|id| make(id, Counted::NotRun)).collect();
        Report {
            run: run.into(),
            verdict: judge(&cases, &[]),
            exit_code: exit_code(&cases, &[]),
            counts: count(&cases),
            cases,
            leaks: Vec::new(),
            shard: Some(ShardOf { shard: shard.parse().unwrap(), elsewhere }),
            ..report()
        }
    }

    use Counted::{Failed, NotRun, Passed};

    #[test]
    fn shards_that_all_passed_are_conformant_and_one_that_is_missing_is_not() {
        let one = part("r1", "1/2", &[("infra.a", Passed), ("infra.c", Passed)], &["infra.b"]);
        let two = part("r2", "2/2", &[("infra.b", Passed)], &["infra.a", "infra.c"]);
        let both = merge(vec![two.clone(), one.clone()]).unwrap();
        assert_eq!(both, merge(vec![one.clone(), two]).unwrap());
        assert_eq!((both.verdict, both.exit_code, both.counts.passed), (Verdict::Conformant, 0, 3));
        assert_eq!(both.cases[1].evidence, "r2/evidence/infra.b");
        let alone = merge(vec![one]).unwrap();
        assert_eq!((alone.verdict, alone.exit_code), (Verdict::Inconclusive, EXIT_INCONCLUSIVE));
        assert_eq!(alone.not_passed(), ["infra.b"]);
        assert_eq!(alone.cases[1].message, "no shard ran it: there is no report of 2/2");
    }

    #[test]
    fn what_ran_twice_is_shown_twice_and_a_failure_counts() {
        let one = part("r1", "1/1", &[("infra.a", Passed), ("infra.b", Passed)], &[]);
        let two = part("r2", "1/1", &[("infra.a", Failed), ("infra.b", Passed)], &[]);
        let mut three = part("r3", "1/1", &[("infra.b", Passed)], &[]);
        three.cases[0].rounds =
            (1..=2).map(|round| Round::of(round, None, &three.cases[0])).collect();
        let merged = merge(vec![one, two, three]).unwrap();
        assert_eq!((merged.cases[0].word(), merged.exit_code), ("flaky", 1));
        let names: Vec<_> = merged.cases[1].rounds.iter().map(Round::name).collect();
        assert_eq!(
            names,
            ["round 1 of run r1", "round 1 of run r2", "round 1 of run r3", "round 2 of run r3"]
        );
    }

    #[test]
    fn jobs_of_every_round_are_there_once_and_say_of_which_run() {
        let jobs = |number| JobTimes { jobs: vec![usual(number)], left_out: 0 };
        let mut one = part("r1", "1/1", &[("infra.a", Passed)], &[]);
        one.cases[0].jobs = Some(jobs(0));
        let mut two = part("r2", "1/1", &[("infra.a", Passed)], &[]);
        let of = |round| {
            let case = CaseResult { jobs: Some(jobs(round)), ..two.cases[0].clone() };
            (Round::of(round, None, &case), case)
        };
        two.cases[0] = combine(vec![of(1), of(2)]).unwrap();
        let merged = merge(vec![one.clone(), two]).unwrap();
        let jobs = &merged.cases[0].jobs.as_ref().unwrap().jobs;
        let rounds: Vec<_> = jobs.iter().map(|job| job.round.as_deref().unwrap()).collect();
        assert_eq!(rounds, ["round 1 of run r1", "round 1 of run r2", "round 2 of run r2"]);
        assert_eq!(merge(vec![one.clone()]).unwrap().cases[0].jobs, one.cases[0].jobs);
    }

    #[test]
    fn a_run_that_did_not_come_to_its_end_is_not_green() {
        let mut ended = part("r1", "1/1", &[("infra.a", Passed)], &[]);
        (ended.verdict, ended.exit_code) = (Verdict::Inconclusive, 143);
        let merged = merge(vec![ended]).unwrap();
        assert_eq!((merged.verdict, merged.exit_code), (Verdict::Inconclusive, 143));
        let mut left = part("r1", "1/1", &[("infra.a", Passed)], &[]);
        left.leaks = vec!["namespace x".into()];
        let merged = merge(vec![left, part("r2", "1/1", &[("infra.b", NotRun)], &[])]).unwrap();
        assert_eq!(merged.verdict, Verdict::NonConformant);
        assert_eq!(merged.leaks, ["namespace x (run r1)"]);
    }

    #[test]
    fn runs_of_different_things_are_refused() {
        let with = |change: fn(&mut Report)| {
            let mut other = part("r2", "2/2", &[("infra.b", Passed)], &["infra.a"]);
            change(&mut other);
            merge(vec![part("r1", "1/2", &[("infra.a", Passed)], &["infra.b"]), other])
        };
        type Change = fn(&mut Report);
        let refused: [(Change, &str); 7] = [
            (|other| other.run = "r1".into(), "there twice"),
            (|other| other.merged = vec!["r8".into()], "put together itself"),
            (|other| other.environment.commit = String::new(), "of which commit"),
            (
                |other| other.environment.commit = "f00".into(),
                "commit is not the same: 4433e5f1 in",
            ),
            (|other| other.environment.worker_image = "w:2".into(), "worker image is not"),
            (|other| other.environment.kubernetes = "v1.33.0".into(), "Kubernetes version is not"),
            (|other| other.environment.nodes = 2, "number of nodes is not"),
        ];
        for (change, says) in refused {
            let error = with(change).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        // Another machine and another name of the cluster are no difference, nor is a run that
        // never had one.
        with(|other| other.environment.host = "linux aarch64".into()).unwrap();
        with(|other| other.environment.cluster = "ci".into()).unwrap();
        let commit = || report().environment.commit;
        let begun = Fingerprint { commit: commit(), ..Default::default() };
        let mut none = part("r2", "2/2", &[("infra.b", NotRun)], &["infra.a"]);
        none.environment = begun;
        let merged = merge(vec![none, part("r3", "1/2", &[("infra.a", Passed)], &[])]).unwrap();
        assert_eq!((merged.verdict, merged.environment.nodes), (Verdict::Inconclusive, 1));
        assert_eq!(merge(Vec::new()).unwrap_err(), "there is no report");
    }
}

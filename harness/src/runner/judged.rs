//! From the outcomes on disk to the results of a run: those of each round, and what a case that did
//! not run lacked.

use std::collections::BTreeSet;

use super::RunRequest;
use crate::catalogue::Case;
use crate::failure::Result;
use crate::feature;
use crate::outcome::Outcome;
use crate::rounds::{Round, combine};
use crate::run_dir::RunDir;
use crate::verdict::{CaseResult, Result as Counted, judge_case};

/// What became of each case in these rounds.
pub(super) fn judged(
    cases: &[&Case],
    run: &RunDir,
    rounds: &[Option<u32>],
    interrupted: bool,
) -> Result<Vec<CaseResult>> {
    let judge = |case: &Case, round| {
        let outcome = Outcome::read(&run.at_round(round).outcomes(), &case.id)?;
        Ok(judge_case(case, outcome.as_ref(), interrupted))
    };
    let of_all = |case: &&Case| {
        let mut all = Vec::new();
        for round in rounds {
            let result = judge(case, *round)?;
            let Some(number) = round else { return Ok(result) };
            all.push((Round::of(*number, None, &result), result));
        }
        combine(all).map_or_else(|| judge(case, None), Ok)
    };
    cases.iter().map(of_all).collect()
}

/// A case that was left out is told apart from one that should have run and did not.
pub(super) fn say_what_is_lacking(
    cases: &[&Case],
    results: &mut [CaseResult],
    here: &BTreeSet<feature::Feature>,
) {
    for (case, result) in cases.iter().zip(results) {
        if let Some(why) = feature::lacking(case, here) {
            result.message = why;
            result.rounds.clear();
            result.flake_rate = None;
        }
    }
}

/// Whether what failed in a round is the reason to begin no other.
pub(super) fn is_last(request: &RunRequest, cases: &[&Case], run: &RunDir) -> Result<bool> {
    if !request.repeat.until_failure && !request.fail_fast {
        return Ok(false);
    }
    let results = judged(cases, run, &[run.round], false)?;
    let is_known = |case: &CaseResult| request.quarantine.of(&case.id).is_some();
    Ok(results.iter().any(|case| case.result == Counted::Failed && !is_known(case)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::CASES;
    use super::*;
    use crate::catalogue::{Catalogue, Selection};
    use crate::feature::Feature;
    use crate::outcome::Status;
    use crate::quarantine::Quarantine;
    use crate::rounds::Repeat;
    use crate::verdict::{NO_OUTCOME, Verdict, exit_code, judge};

    #[test]
    fn a_case_that_cannot_run_says_why_and_is_never_green() {
        let catalogue = Catalogue::parse(CASES).unwrap();
        let cases: Vec<_> = catalogue.cases.iter().collect();
        let mut results: Vec<_> = cases.iter().map(|case| judge_case(case, None, false)).collect();
        say_what_is_lacking(&cases, &mut results, &BTreeSet::from([Feature::NodeControl]));
        assert_eq!(results[0].message, NO_OUTCOME);
        assert!(results[1].message.contains("lacks multi-node ("), "{}", results[1].message);
        assert_eq!(judge(&results, &[]), Verdict::Inconclusive);
        assert_eq!(exit_code(&results, &[]), crate::failure::EXIT_INCONCLUSIVE);
    }

    fn save(run: &RunDir, id: &str, status: Status) {
        let outcome = Outcome { status, ..Outcome::running(id, run.evidence(id), run.round) };
        outcome.save(&run.outcomes()).unwrap();
    }

    #[test]
    fn each_round_is_judged_by_its_own_outcome_and_a_failed_one_may_be_the_last() {
        let state = tempfile::tempdir().unwrap();
        let (run, _lock) = RunDir::create(state.path()).unwrap();
        let catalogue = Catalogue::parse(CASES).unwrap();
        let cases = catalogue.select(&Selection::default(), &Quarantine::default()).unwrap();
        let rounds = [Some(1), Some(2), Some(3)];
        let status = [Status::Passed, Status::Failed, Status::Passed];
        for (round, status) in rounds.into_iter().zip(status) {
            save(&run.at_round(round), &cases[0].id, status);
            save(&run.at_round(round), &cases[1].id, Status::Passed);
        }
        let results = judged(&cases, &run, &rounds, false).unwrap();
        assert_eq!((results[0].word(), results[1].word()), ("flaky", "passed"));
        assert_eq!(results[0].evidence, "evidence/round-2/lifecycle.evicted");
        assert_eq!(results[0].flake_rate.unwrap().percent.round(), 33.0);
        assert_eq!(judge(&results, &[]), Verdict::NonConformant);
        // A round that was begun and left no outcomes is not passed over.
        let more = judged(&cases, &run, &[Some(1), Some(4)], false).unwrap();
        assert!(more.iter().all(|case| case.result == Counted::NotRun), "{more:?}");

        let last = |until_failure, fail_fast, round| {
            let repeat = Repeat { rounds: 5, until_failure, flake_budget: None };
            let request = RunRequest { repeat, fail_fast, ..Default::default() };
            is_last(&request, &cases, &run.at_round(Some(round))).unwrap()
        };
        assert!(last(true, false, 2) && last(false, true, 2));
        assert!(!last(true, true, 1) && !last(false, false, 2));
        let id = &cases[0].id;
        let known = format!(
            "[[quarantine]]\ncase = {id:?}\nowner = \"jane\"\nreason = \"slow\"\nexpires = 2026-03-31"
        );
        let request = RunRequest {
            fail_fast: true,
            quarantine: Quarantine::parse(&known, &catalogue).unwrap(),
            ..Default::default()
        };
        assert!(!is_last(&request, &cases, &run.at_round(Some(2))).unwrap());
    }
}

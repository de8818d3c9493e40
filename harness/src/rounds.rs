//! Rounds: what became of one case each time it was run, and what all of them say together.
//!
//! A case that ran once has none. How many rounds there are is `runner`'s; reports of several
//! runs are put together by `report::merge`, where each run is a round of its own.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::bounded::headline;
use crate::failure::FailureClass;
use crate::flake_rate::FlakeRate;
use crate::job_times::JobTimes;
use crate::verdict::{CaseResult, Counts, Result as Counted};

/// The most rounds of one run.
pub const MOST_ROUNDS: u32 = 1000;

/// How often the cases of a run are run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Repeat {
    /// At most this often: 1 to [`MOST_ROUNDS`].
    pub rounds: u32,
    /// No further round begins once a case has failed.
    pub until_failure: bool,
    /// A case may fail in this part of its rounds, in percent, and the exit code is 0 still.
    pub flake_budget: Option<f64>,
}

impl Default for Repeat {
    fn default() -> Self {
        Self { rounds: 1, until_failure: false, flake_budget: None }
    }
}

impl Repeat {
    /// The numbers of the rounds: one without a number for a run that repeats nothing.
    pub fn numbers(&self) -> impl Iterator<Item = Option<u32>> + use<> {
        let several = self.rounds > 1;
        (1..=self.rounds.max(1)).map(move |round| several.then_some(round))
    }
}

/// One round of one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// From 1.
    pub round: u32,
    /// The run it was part of, in a report that was put together from several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub run: Option<String>,
    /// How it is counted.
    pub result: Counted,
    /// Whose failure, for a failed one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub class: Option<FailureClass>,
    /// When it began, if it did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub started_at: Option<Timestamp>,
    /// Seconds, clean-up included.
    pub seconds: f64,
    /// Why it failed or did not run, in a line; the case's own message has all of the first.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub message: String,
    /// Directory of its evidence, relative to the run's.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub evidence: String,
}

impl Round {
    /// What became of a case in `round`.
    #[must_use]
    pub fn of(round: u32, run: Option<&str>, case: &CaseResult) -> Self {
        Self {
            round,
            run: run.map(str::to_owned),
            result: case.result,
            class: case.class,
            started_at: case.started_at,
            seconds: case.seconds,
            message: headline(&case.message).into_owned(),
            evidence: case.evidence.clone(),
        }
    }

    /// "round 3", or "round 3 of run 20260101-120000-3fa9c1".
    #[must_use]
    pub fn name(&self) -> String {
        match &self.run {
            Some(run) => format!("round {} of run {run}", self.round),
            None => format!("round {}", self.round),
        }
    }
}

/// How many rounds of a case came out how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally(pub Counts);

impl Tally {
    /// Counts rounds.
    #[must_use]
    pub fn of(rounds: &[Round]) -> Self {
        Self(Counts::of(rounds.iter().map(|round| round.result)))
    }

    /// Whether the case both passed and failed.
    #[must_use]
    pub const fn is_flaky(&self) -> bool {
        self.0.passed > 0 && self.0.failed > 0
    }

    /// How often a round that ran failed; `None` if none ran.
    #[must_use]
    pub fn flake_rate(&self) -> Option<FlakeRate> {
        FlakeRate::of(self.0.failed, self.0.passed + self.0.failed)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { passed, failed, not_run, .. } = self.0;
        let all = passed + failed + not_run;
        write!(f, "{passed} of {all} rounds passed, {failed} failed")?;
        if not_run > 0 {
            write!(f, ", {not_run} not run")?;
        }
        self.flake_rate().iter().try_for_each(|rate| write!(f, " ({rate})"))
    }
}

/// One case from what became of it in each round: failed if any failed, else not run if any did
/// not run. Message and evidence are those of the first such round, the seconds a round's mean, and
/// its jobs those of all of them.
/// `None` without rounds.
#[must_use]
pub fn combine(rounds: Vec<(Round, CaseResult)>) -> Option<CaseResult> {
    let (mut all, mut told): (Vec<Round>, Option<CaseResult>) = (Vec::new(), None);
    let (mut seconds, mut ran) = (0.0, 0_u32);
    let mut jobs: Option<JobTimes> = None;
    for (round, mut case) in rounds {
        if let Some(of_round) = case.jobs.take() {
            jobs.get_or_insert_default().extend(of_round.in_round(&round.name()));
        }
        if round.started_at.is_some() {
            (seconds, ran) = (seconds + round.seconds, ran + 1);
        }
        all.push(round);
        match &told {
            Some(known) if weight(known.result) >= weight(case.result) => {}
            _ => told = Some(case),
        }
    }
    let mut told = told?;
    told.started_at = all.iter().filter_map(|round| round.started_at).min();
    told.seconds = seconds / f64::from(ran.max(1));
    told.flake_rate = Tally::of(&all).flake_rate();
    told.rounds = all;
    told.jobs = jobs;
    Some(told)
}

/// Whether every case ran in all of its rounds and failed in at most `percent` of them. How often
/// one in quarantine failed is not asked.
#[must_use]
pub fn is_within(cases: &[CaseResult], percent: f64) -> bool {
    let within = |case: &CaseResult| {
        case.tally().is_some_and(|tally| {
            let known = case.quarantined.is_some();
            let rate = tally.flake_rate().map_or(0.0, |rate| rate.percent);
            tally.0.not_run == 0 && (known || rate <= percent)
        })
    };
    cases.iter().any(|case| case.quarantined.is_none()) && cases.iter().all(within)
}

const fn weight(result: Counted) -> u8 {
    match result {
        Counted::Passed => 0,
        Counted::NotRun => 1,
        Counted::Failed => 2,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalogue::Layer;
    use crate::quarantine::Quarantined;
    use crate::report::tests::case;

    fn rounds(results: &[Counted]) -> Vec<(Round, CaseResult)> {
        let one = |(index, result): (usize, &Counted)| {
            let class = (*result == Counted::Failed).then_some(FailureClass::Product);
            let mut made = case("infra.a", Layer::Infra, *result, class);
            made.evidence = format!("evidence/round-{}/infra.a", index + 1);
            (Round::of(u32::try_from(index + 1).unwrap(), None, &made), made)
        };
        results.iter().enumerate().map(one).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn no_round_is_lost_and_one_failure_is_enough(
            given in proptest::collection::vec(
                prop_oneof![Just(Counted::Passed), Just(Counted::Failed), Just(Counted::NotRun)], 1..20)
        ) {
            let combined = combine(rounds(&given)).unwrap();
            let results: Vec<_> = combined.rounds.iter().map(|round| round.result).collect();
            prop_assert_eq!(&results, &given);
            let has = |wanted| given.contains(&wanted);
            let expected = match (has(Counted::Failed), has(Counted::NotRun)) {
                (true, _) => Counted::Failed,
                (false, true) => Counted::NotRun,
                (false, false) => Counted::Passed,
            };
            prop_assert_eq!(combined.result, expected);
            let tally = Tally::of(&combined.rounds);
            prop_assert_eq!(tally.is_flaky(), has(Counted::Passed) && has(Counted::Failed));
            let first = given.iter().position(|one| *one == expected).unwrap() + 1;
            prop_assert_eq!(combined.evidence, format!("evidence/round-{first}/infra.a"));
        }
    }

    #[test]
    fn a_tally_says_how_often_it_failed_of_those_that_ran() {
        use Counted::{Failed, NotRun, Passed};
        let of = |given: &[Counted]| Tally::of(&combine(rounds(given)).unwrap().rounds);
        for (given, says, flaky) in [
            (
                vec![Passed, Failed, Passed, Passed],
                "3 of 4 rounds passed, 1 failed (25.0 %, at 95 % between 4.6 and 69.9 %)",
                true,
            ),
            (
                vec![Passed, NotRun, Failed],
                "1 of 3 rounds passed, 1 failed, 1 not run (50.0 %, at 95 % between 9.5 and 90.5 %)",
                true,
            ),
            (
                vec![Failed, Failed],
                "0 of 2 rounds passed, 2 failed (100.0 %, at 95 % between 34.2 and 100.0 %)",
                false,
            ),
            (
                vec![Passed, Passed],
                "2 of 2 rounds passed, 0 failed (0.0 %, at 95 % between 0.0 and 65.8 %)",
                false,
            ),
            (vec![NotRun], "0 of 1 rounds passed, 0 failed, 1 not run", false),
        ] {
            assert_eq!((of(&given).to_string().as_str(), of(&given).is_flaky()), (says, flaky));
        }
        assert_eq!(combine(Vec::new()), None);
    }

    #[test]
    fn a_budget_is_for_failures_and_not_for_what_did_not_run() {
        use Counted::{Failed, NotRun, Passed};
        let of = |given: &[Counted]| combine(rounds(given)).unwrap();
        let (good, flaky) = (of(&[Passed; 4]), of(&[Passed, Failed, Passed, Passed]));
        let known = |case: CaseResult| CaseResult {
            quarantined: Some(Quarantined {
                owner: "jane".into(),
                reason: "slow disk".into(),
                issue: None,
                expires: "2026-03-31".parse().unwrap(),
            }),
            ..case
        };
        let (known, not_run) = (known(flaky.clone()), known(of(&[Passed, NotRun])));
        for (cases, percent, within) in [
            (vec![good.clone(), flaky.clone()], 25.0, true),
            (vec![good.clone(), flaky.clone()], 24.9, false),
            (vec![good.clone(), of(&[Passed, NotRun])], 100.0, false),
            (vec![good.clone(), known.clone()], 0.0, true),
            (vec![good.clone(), not_run], 100.0, false),
            (vec![known], 100.0, false),
            (vec![good, case("infra.once", Layer::Infra, Passed, None)], 100.0, false),
            (vec![], 100.0, false),
        ] {
            assert_eq!(is_within(&cases, percent), within, "{percent}: {cases:?}");
        }
    }

    #[test]
    fn one_round_has_no_number_and_several_count_from_one() {
        let numbers =
            |rounds| -> Vec<_> { Repeat { rounds, ..Default::default() }.numbers().collect() };
        assert_eq!(numbers(1), [None]);
        assert_eq!(numbers(3), [Some(1), Some(2), Some(3)]);
    }
}

use std::path::Path;

use super::*;
use crate::outcome::Status;
use crate::report::tests::report;
use crate::verdict::{count, judge};

/// A state directory with runs that a test writes.
struct State {
    directory: tempfile::TempDir,
    paths: Paths,
    catalogue: Catalogue,
}

impl State {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let (state, cache) = (directory.path().to_path_buf(), directory.path().join("cache"));
        let paths = Paths::new(state, cache, workspace.to_path_buf());
        Self { paths, catalogue: Catalogue::read(workspace).unwrap(), directory }
    }

    fn id(&self, index: usize) -> &str {
        &self.catalogue.cases[index].id
    }

    fn plan(&self, earlier: Option<Earlier>) -> Plan {
        let inputs = Inputs::default().with(COMMIT, "c0").with("worker image", "w:1");
        let cases = (0..4).map(|index| self.id(index).to_owned()).collect();
        Plan { cases, elsewhere: vec![], shard: None, rounds: 1, inputs, complete: true, earlier }
    }

    /// A run that has ended, with its plan.
    fn run(&self, plan: &Plan) -> RunDir {
        let (run, _lock) = RunDir::create(self.directory.path()).unwrap();
        plan.save(&run).unwrap();
        run
    }

    fn outcome(&self, run: &RunDir, index: usize, status: Status, class: Option<FailureClass>) {
        let outcome = Outcome::running(self.id(index), run.evidence(self.id(index)), None);
        Outcome { status, class, seconds: 2.0, ..outcome }.save(&run.outcomes()).unwrap();
    }

    fn open(&self, run: &RunDir) -> Result<Resume> {
        Resume::open(&self.paths, run.id.as_str(), &self.catalogue)
    }

    /// What becomes of the cases that the plan of a run has, if none has an outcome yet.
    fn results(&self) -> Vec<CaseResult> {
        self.catalogue.cases[..4].iter().map(|case| judge_case(case, None, false)).collect()
    }
}

fn refused<T: fmt::Debug>(result: Result<T>, says: &str) {
    let error = result.unwrap_err();
    assert!(error.is_refusal() && error.help.is_some(), "{error:?}");
    assert!(error.source.to_string().contains(says), "{}", error.source);
}

#[test]
fn a_run_that_cannot_be_gone_on_with_says_why() {
    let state = State::new();
    refused(Resume::open(&state.paths, "3fa9c1", &state.catalogue), "there is none in");
    let (live, lock) = RunDir::create(state.directory.path()).unwrap();
    refused(state.open(&live), "its process lives");
    drop(lock);
    refused(state.open(&live), "did not write down");
    std::fs::write(live.plan(), "{").unwrap();
    refused(state.open(&live), "damaged");
    let with = |change: fn(&mut Plan)| {
        let mut plan = state.plan(None);
        change(&mut plan);
        state.open(&state.run(&plan))
    };
    refused(with(|plan| plan.rounds = 2), "in rounds");
    refused(with(|plan| plan.complete = false), "before its first case");
    refused(with(|plan| plan.cases.push("infra.gone".into())), "no infra.gone any more");
    refused(with(|plan| plan.elsewhere.push("infra.gone".into())), "no infra.gone any more");
    let good = state.run(&state.plan(None));
    assert_eq!(
        Resume::open(&state.paths, good.id.short(), &state.catalogue).unwrap().earlier.run,
        good.id.as_str()
    );
}

#[test]
fn what_differs_is_named_and_what_is_not_known_yet_is_not_asked() {
    let state = State::new();
    let resume = state.open(&state.run(&state.plan(None))).unwrap();
    let here = |commit: &str| Inputs::default().with(COMMIT, commit);
    resume.require_same(&here("c0")).unwrap();
    resume.require_same(&here("c0").with("worker image", "w:1")).unwrap();
    refused(resume.require_same(&here("c1")), "commit: c0 there, c1 here");
    refused(
        resume.require_same(&here("c1").with("worker image", "w:2").with("server", "s")),
        "commit: c0 there, c1 here; server: nothing there, s here; worker image: w:1 there, w:2 here",
    );
    refused(resume.require_same(&here("")), "not known of which commit");
    refused(resume.require_same(&Inputs::default()), "not known of which commit");
    assert_ne!(here("c0").digest(), here("c1").digest());
}

#[test]
fn of_a_killed_run_passes_count_failures_stay_and_the_rest_runs() {
    let state = State::new();
    let run = state.run(&state.plan(None));
    state.outcome(&run, 0, Status::Passed, None);
    state.outcome(&run, 1, Status::Failed, Some(FailureClass::Product));
    state.outcome(&run, 2, Status::Failed, Some(FailureClass::Infrastructure));
    state.outcome(&run, 3, Status::Running, None);
    let earlier = state.open(&run).unwrap().earlier;
    assert_eq!(earlier.passed_ids(), BTreeSet::from([state.id(0).to_owned()]));
    assert_eq!(earlier.retried, [state.id(2)]);
    let mut results = state.results();
    results.iter_mut().skip(1).for_each(|case| case.result = Counted::Passed);
    earlier.apply("here", &mut results);
    let words: Vec<_> = results.iter().map(CaseResult::word).collect();
    assert_eq!(words, ["passed", "flaky", "passed", "passed"]);
    assert_eq!(results[0].taken_over.as_deref(), Some(run.id.as_str()));
    assert_eq!(results[0].evidence, format!("../{}/evidence/{}", run.id, state.id(0)));
    let names: Vec<_> = results[1].rounds.iter().map(Round::name).collect();
    assert_eq!(names, [format!("round 1 of run {}", run.id), "round 1 of run here".to_owned()]);
    assert_eq!(judge(&results, &[]), crate::verdict::Verdict::NonConformant);
    let resumed = earlier.resumed(&Inputs::default());
    assert!(resumed.to_string().ends_with(&format!("infrastructure: {}", state.id(2))));
}

/// Whether the run in the middle was killed or wrote its report, the third knows the same.
#[test]
fn a_run_that_went_on_is_gone_on_with_and_nothing_is_lost_on_the_way() {
    let state = State::new();
    let first = state.run(&state.plan(None));
    state.outcome(&first, 0, Status::Passed, None);
    state.outcome(&first, 1, Status::Failed, Some(FailureClass::Network));
    let earlier = state.open(&first).unwrap().earlier;
    for killed in [true, false] {
        let second = state.run(&state.plan(Some(earlier.clone())));
        state.outcome(&second, 1, Status::Passed, None);
        state.outcome(&second, 2, Status::Passed, None);
        if !killed {
            let outcome = |id: &str| Outcome::read(&second.outcomes(), id).unwrap();
            let judged = |case| judge_case(case, outcome(&case.id).as_ref(), true);
            let mut cases: Vec<_> = state.catalogue.cases[..4].iter().map(judged).collect();
            earlier.apply(second.id.as_str(), &mut cases);
            let leaks = vec!["namespace x".to_owned()];
            let report = Report { counts: count(&cases), cases, leaks, ..report() };
            report.save(&second.report(), &second.path).unwrap();
        }
        let third = state.open(&second).unwrap().earlier;
        let mut results = state.results();
        results[1].result = Counted::Passed;
        third.apply("third", &mut results);
        let words: Vec<_> = results.iter().map(CaseResult::word).collect();
        assert_eq!(words, ["passed", "flaky", "passed", "not run"], "killed: {killed}");
        let taken = |index: usize| results[index].taken_over.as_deref();
        assert_eq!((taken(0), taken(2)), (Some(first.id.as_str()), Some(second.id.as_str())));
        assert_eq!(results[0].evidence, format!("../{}/evidence/{}", first.id, state.id(0)));
        let rounds: Vec<_> = results[1].rounds.iter().map(|round| round.run.as_deref()).collect();
        let runs = [first.id.as_str(), second.id.as_str(), "third"].map(Some);
        assert_eq!(rounds, runs, "killed: {killed}");
        assert_eq!(third.leaks.len(), usize::from(!killed));
    }
}

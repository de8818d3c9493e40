use super::super::tests::execution;
use super::*;

use Counted::{Failed, Passed};

fn of(executions: Vec<Execution>) -> Summary {
    Summary::of(&Contents { executions, unreadable: 0 }, &[], None)
}

/// Executions of one case, each on a commit; one of a changed checkout ends with "+".
fn on(commits: &[(&str, Counted)]) -> Vec<Execution> {
    let one = |(index, (commit, status)): (usize, &(&str, Counted))| Execution {
        commit: commit.trim_end_matches('+').into(),
        dirty: commit.ends_with('+'),
        ..execution("infra.a", u32::try_from(index).unwrap(), *status)
    };
    commits.iter().enumerate().map(one).collect()
}

#[test]
fn flaky_is_both_on_one_commit_and_broken_is_all_of_the_last() {
    for (commits, expect) in [
        (&[("c1", Passed), ("c1", Failed), ("c1", Passed)][..], Some(Condition::Flaky)),
        (&[("c1", Passed), ("c2", Failed)], Some(Condition::Broken)),
        (&[("c1", Failed), ("c2", Passed)], None),
        (&[("c1", Passed), ("c1", Failed), ("c2", Passed)], Some(Condition::Flaky)),
        // Whatever it was before, it is broken now.
        (&[("c1", Passed), ("c1", Failed), ("c2", Failed)], Some(Condition::Broken)),
        // What was changed in between is not known.
        (&[("c1+", Passed), ("c1+", Failed), ("c1+", Passed)], None),
        (&[("c1", Passed), ("c1+", Failed), ("c1", Passed)], None),
        (&[("c1", Passed), ("c1+", Failed)], Some(Condition::Broken)),
        // Nor of what was no checkout.
        (&[("", Passed), ("", Failed), ("", Passed)], None),
        (&[("c1", Passed)], None),
    ] {
        let found = of(on(commits)).cases.remove(0);
        assert_eq!(found.condition, expect, "{commits:?}");
    }
}

fn several(case: &str, first: u32, results: &[Counted]) -> Vec<Execution> {
    let one = |(index, status): (u32, &Counted)| execution(case, first + index, *status);
    (0..).zip(results).map(one).collect()
}

/// A flaky case, a broken one, one that never failed, one whose one execution failed long ago.
fn history() -> Contents {
    let mut executions = several("full-job.echo", 10, &[Passed, Failed, Passed, Passed, Failed]);
    executions[4].round = Some(3);
    executions[4].class = Some(FailureClass::Infrastructure);
    executions.extend(several("infra.nodes", 20, &[Failed; 6]));
    executions.extend(several("infra.quota", 30, &[Passed; 40]));
    executions.extend(several("cleanup.gone", 1, &[Failed]));
    let later = Execution { commit: "c1".into(), ..execution("cleanup.gone", 9, Passed) };
    executions.push(later);
    let evil = "\u{1b}[31mred\u{202e}";
    executions[5..11].iter_mut().for_each(|one| one.message = evil.into());
    Contents { executions, unreadable: 2 }
}

#[test]
fn a_person_reads_the_worst_first() {
    let summary = Summary::of(&history(), &[], None);
    let order: Vec<_> = summary.cases.iter().map(|one| one.case.as_str()).collect();
    assert_eq!(order, ["infra.nodes", "full-job.echo", "cleanup.gone", "infra.quota"]);
    insta::assert_snapshot!("history", summary.render());
    insta::assert_snapshot!("history_json", serde_json::to_string_pretty(&summary).unwrap());
}

#[test]
fn cases_and_a_time_narrow_what_is_looked_at() {
    let cases = ["infra.quota".to_owned(), "infra.other".to_owned()];
    let summary = Summary::of(&history(), &cases, None);
    assert_eq!((summary.executions, summary.runs), (40, 40));
    assert_eq!(summary.unseen, ["infra.other"]);
    let since = "2026-01-01T12:00:14Z".parse().unwrap();
    let summary = Summary::of(&history(), &["full-job.echo".to_owned()], Some(since));
    assert_eq!(summary.cases[0].rate.executions, 1);
    assert_eq!(summary.cases[0].condition, Some(Condition::Broken));
    let since = "2026-02-01T12:00:00Z".parse().unwrap();
    let summary = Summary::of(&history(), &cases[..1], Some(since));
    insta::assert_snapshot!("history_nothing", summary.render());
}

#[test]
fn more_executions_of_a_rate_are_worse_than_few() {
    let mut executions = several("infra.few", 0, &[Failed, Passed]);
    executions.extend(several("infra.many", 10, &[Failed, Passed, Failed, Passed, Failed, Passed]));
    let order: Vec<_> = of(executions).cases.into_iter().map(|one| one.case).collect();
    assert_eq!(order, ["infra.many", "infra.few"]);
}

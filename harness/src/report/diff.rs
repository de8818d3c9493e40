//! Two reports side by side: what got worse, better or slower, what is new or gone, and on what
//! else the runs differed.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::Report;
use crate::bounded::{headline, visible};
use crate::failure::FailureClass;
use crate::verdict::{CaseResult, Result as Counted, Verdict};

/// A case is slower when it takes this many times as long, …
pub const SLOWER_RATIO: f64 = 1.5;
/// … and this many seconds more: a ratio of small numbers says nothing.
pub const SLOWER_SECONDS: f64 = 2.0;

/// New or gone cases listed for a person, of those that passed.
const LISTED: usize = 10;

/// What the second report says that the first does not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diff {
    /// The runs' ids.
    pub runs: Pair<String>,
    /// Their verdicts.
    pub verdicts: Pair<Verdict>,
    /// Passed before and does not now, or did not run before and fails now.
    pub worse: Vec<Change>,
    /// Did not pass before and does now.
    pub better: Vec<Change>,
    /// Failed before and did not run now: neither worse nor better.
    pub unknown: Vec<Change>,
    /// Passed in both and took longer, by [`SLOWER_RATIO`] and [`SLOWER_SECONDS`].
    pub slower: Vec<Change>,
    /// Only in the second.
    pub new: Vec<Single>,
    /// Only in the first.
    pub gone: Vec<Single>,
    /// Left behind in the second and not in the first.
    pub leaks: Vec<String>,
    /// On what the runs differed.
    pub environment: Vec<Difference>,
}

/// Before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Pair<T> {
    /// In the first report.
    pub before: T,
    /// In the second.
    pub after: T,
}

/// A case in one report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Single {
    /// Its id.
    pub id: String,
    /// How it was counted.
    pub result: Counted,
}

/// A case in both reports.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Its id.
    pub id: String,
    /// How it was counted.
    pub result: Pair<Counted>,
    /// How long it took.
    pub seconds: Pair<f64>,
    /// Whose failure it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<FailureClass>,
    /// Why it does not pass now, in a line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// One thing in which the environments differed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What.
    pub what: &'static str,
    /// Its values.
    pub value: Pair<String>,
}

/// Compares two reports; the order of their cases does not matter.
#[must_use]
pub fn diff(before: &Report, after: &Report) -> Diff {
    let known: BTreeMap<_, _> = before.cases.iter().map(|case| (case.id.as_str(), case)).collect();
    let now: BTreeMap<_, _> = after.cases.iter().map(|case| (case.id.as_str(), case)).collect();
    let mut found = Diff {
        runs: Pair { before: before.run.clone(), after: after.run.clone() },
        verdicts: Pair { before: before.verdict, after: after.verdict },
        worse: Vec::new(),
        better: Vec::new(),
        unknown: Vec::new(),
        slower: Vec::new(),
        new: Vec::new(),
        gone: Vec::new(),
        leaks: after.leaks.iter().filter(|leak| !before.leaks.contains(leak)).cloned().collect(),
        environment: environment(before, after),
    };
    for case in &after.cases {
        match known.get(case.id.as_str()) {
            Some(earlier) => found.sort_in(earlier, case),
            None => found.new.push(Single { id: case.id.clone(), result: case.result }),
        }
    }
    let gone = before.cases.iter().filter(|case| !now.contains_key(case.id.as_str()));
    found.gone = gone.map(|case| Single { id: case.id.clone(), result: case.result }).collect();
    found
}

fn environment(before: &Report, after: &Report) -> Vec<Difference> {
    let (b, a) = (&before.environment, &after.environment);
    let pairs = [
        ("commit", b.commit.clone(), a.commit.clone()),
        ("cluster", b.cluster.clone(), a.cluster.clone()),
        ("Kubernetes", b.kubernetes.clone(), a.kubernetes.clone()),
        ("nodes", b.nodes.to_string(), a.nodes.to_string()),
        ("worker image", b.worker_image.clone(), a.worker_image.clone()),
        ("host", b.host.clone(), a.host.clone()),
    ];
    let differ = pairs.into_iter().filter(|(_, before, after)| before != after);
    let difference = |(what, before, after)| Difference { what, value: Pair { before, after } };
    differ.map(difference).collect()
}

impl Diff {
    /// Whether the second run is worse: a case got worse, a new one failed, something new was left
    /// behind. Slower is not worse: machines differ.
    #[must_use]
    pub fn is_worse(&self) -> bool {
        let new_failure = self.new.iter().any(|case| case.result == Counted::Failed);
        !self.worse.is_empty() || new_failure || !self.leaks.is_empty()
    }

    fn sort_in(&mut self, before: &CaseResult, after: &CaseResult) {
        use Counted::{Failed, NotRun, Passed};
        let list = match (before.result, after.result) {
            // It is known to fail: neither better nor worse.
            (_, Failed) if after.quarantined.is_some() => return,
            (Passed, Failed | NotRun) | (NotRun, Failed) => &mut self.worse,
            (Failed | NotRun, Passed) => &mut self.better,
            (Failed, NotRun) => &mut self.unknown,
            (Passed, Passed) if is_slower(before.seconds, after.seconds) => &mut self.slower,
            (Passed, Passed) | (Failed, Failed) | (NotRun, NotRun) => return,
        };
        list.push(Change {
            id: after.id.clone(),
            result: Pair { before: before.result, after: after.result },
            seconds: Pair { before: before.seconds, after: after.seconds },
            class: after.class,
            message: headline(&after.message).into_owned(),
        });
    }

    /// The comparison for the terminal.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a String cannot fail");
        visible(&text).into_owned()
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let Pair { before, after } = &self.verdicts;
        writeln!(text, "{} ({before}) → {} ({after})", self.runs.before, self.runs.after)?;
        changes(text, "worse", "✗", &self.worse)?;
        singles(text, "new", "+", &self.new)?;
        singles(text, "gone", "-", &self.gone)?;
        changes(text, "failed before, not run now", "?", &self.unknown)?;
        if !self.leaks.is_empty() {
            writeln!(text, "\nleft behind ({})", self.leaks.len())?;
            self.leaks.iter().try_for_each(|leak| writeln!(text, "  ✗ {leak}"))?;
        }
        changes(text, "better", "✓", &self.better)?;
        if !self.slower.is_empty() {
            writeln!(text, "\nslower ({})", self.slower.len())?;
        }
        for Change { id, seconds: Pair { before, after }, .. } in &self.slower {
            writeln!(text, "  ~ {id}: {before:.1} s → {after:.1} s ({:.1} times)", after / before)?;
        }
        if !self.environment.is_empty() {
            writeln!(text, "\nenvironment")?;
        }
        for Difference { what, value: Pair { before, after } } in &self.environment {
            writeln!(text, "  {what}: {before} → {after}")?;
        }
        let is = if self.is_worse() { "worse" } else { "not worse" };
        writeln!(
            text,
            "\n{is}: {} worse, {} better, {} slower, {} new, {} gone",
            self.worse.len(),
            self.better.len(),
            self.slower.len(),
            self.new.len(),
            self.gone.len()
        )
    }
}

fn is_slower(before: f64, after: f64) -> bool {
    after > before * SLOWER_RATIO && after - before > SLOWER_SECONDS
}

fn changes(text: &mut String, title: &str, sign: &str, changes: &[Change]) -> std::fmt::Result {
    if !changes.is_empty() {
        writeln!(text, "\n{title} ({})", changes.len())?;
    }
    for change in changes {
        let Pair { before, after } = change.result;
        let class = change.class.map(|class| format!(", {class}")).unwrap_or_default();
        writeln!(text, "  {sign} {}: {} → {}{class}", change.id, before.as_str(), after.as_str())?;
        if !change.message.is_empty() {
            writeln!(text, "      {}", change.message)?;
        }
    }
    Ok(())
}

/// All that did not pass, and the first of those that did: a run of one layer lacks most cases of
/// a run of all.
fn singles(text: &mut String, title: &str, sign: &str, cases: &[Single]) -> std::fmt::Result {
    if !cases.is_empty() {
        writeln!(text, "\n{title} ({})", cases.len())?;
    }
    let (passed, not): (Vec<_>, Vec<_>) =
        cases.iter().partition(|case| case.result == Counted::Passed);
    for case in not.iter().chain(passed.iter().take(LISTED)) {
        writeln!(text, "  {sign} {} ({})", case.id, case.result.as_str())?;
    }
    match passed.len().saturating_sub(LISTED) {
        0 => Ok(()),
        more => writeln!(text, "  {sign} {more} more (passed)"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{case, report};
    use super::*;
    use crate::catalogue::Layer;

    fn with(cases: &[(&str, Counted, f64)]) -> Report {
        let make = |(id, result, seconds): &(&str, Counted, f64)| {
            let class = (*result == Counted::Failed).then_some(FailureClass::Product);
            CaseResult { seconds: *seconds, ..case(id, Layer::Infra, *result, class) }
        };
        Report { cases: cases.iter().map(make).collect(), leaks: Vec::new(), ..report() }
    }

    #[test]
    fn each_pair_of_results_is_in_one_list() {
        use Counted::{Failed, NotRun, Passed};
        for (before, after, list) in [
            (Passed, Failed, "worse"),
            (Passed, NotRun, "worse"),
            (NotRun, Failed, "worse"),
            (Failed, Passed, "better"),
            (NotRun, Passed, "better"),
            (Failed, NotRun, "unknown"),
            (Passed, Passed, ""),
            (Failed, Failed, ""),
            (NotRun, NotRun, ""),
        ] {
            let found = diff(&with(&[("a", before, 1.0)]), &with(&[("a", after, 1.0)]));
            let lists = [
                ("worse", &found.worse),
                ("better", &found.better),
                ("unknown", &found.unknown),
                ("slower", &found.slower),
            ];
            for (name, changes) in lists {
                assert_eq!(
                    changes.len(),
                    usize::from(name == list),
                    "{before:?} → {after:?}: {name}"
                );
            }
            assert_eq!(found.is_worse(), list == "worse");
        }
    }

    #[test]
    fn slower_takes_both_a_ratio_and_seconds_and_is_not_worse() {
        for (before, after, slower) in [
            (10.0, 15.1, true),
            (10.0, 14.9, false),
            (0.1, 2.0, false),
            (0.1, 2.2, true),
            (4.0, 6.0, false),
        ] {
            let found = diff(
                &with(&[("a", Counted::Passed, before)]),
                &with(&[("a", Counted::Passed, after)]),
            );
            assert_eq!(found.slower.len(), usize::from(slower), "{before} → {after}");
            assert!(!found.is_worse());
        }
    }

    #[test]
    fn a_person_reads_what_got_worse_first() {
        use Counted::{Failed, NotRun, Passed};
        let before = with(&[
            ("a", Passed, 1.0),
            ("b", Failed, 1.0),
            ("c", Passed, 4.0),
            ("d", Passed, 1.0),
            ("e", Failed, 1.0),
        ]);
        let mut after = with(&[
            ("f", Failed, 1.0),
            ("e", NotRun, 0.0),
            ("c", Passed, 12.0),
            ("b", Passed, 1.0),
            ("a", Failed, 1.0),
        ]);
        after.run = "20260102-120000-aaaaaa".into();
        after.environment.nodes = 2;
        after.leaks = vec!["namespace x\u{1b}[2J".into()];
        let found = diff(&before, &after);
        assert!(found.is_worse());
        insta::assert_snapshot!("diff", found.render());
    }

    #[test]
    fn of_many_that_are_gone_those_that_did_not_pass_are_all_named() {
        let ids: Vec<_> = (0..100).map(|number| format!("case-{number}")).collect();
        let result = |at: usize| if at % 5 == 4 { Counted::NotRun } else { Counted::Passed };
        let cases: Vec<_> =
            ids.iter().enumerate().map(|(at, id)| (id.as_str(), result(at), 1.0)).collect();
        let text = diff(&with(&cases), &with(&[])).render();
        let lines = |end: &str| text.lines().filter(|line| line.ends_with(end)).count();
        assert_eq!(lines("(not run)"), 20, "{text}");
        assert_eq!(lines("(passed)"), LISTED + 1, "{text}");
        assert!(text.contains("\n  - 70 more (passed)\n"), "{text}");
    }

    #[test]
    fn a_new_case_that_fails_and_a_new_leak_are_worse() {
        let none = with(&[]);
        assert!(diff(&none, &with(&[("a", Counted::Failed, 1.0)])).is_worse());
        assert!(!diff(&none, &with(&[("a", Counted::NotRun, 1.0)])).is_worse());
        assert!(!diff(&with(&[("a", Counted::Passed, 1.0)]), &none).is_worse());
        let leaky = Report { leaks: vec!["pod x".into()], ..none.clone() };
        assert!(diff(&none, &leaky).is_worse() && !diff(&leaky, &leaky).is_worse());
    }
}

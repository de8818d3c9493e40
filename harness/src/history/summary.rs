//! What the executions of a case say together: how often it fails, whether it is flaky or broken.
//! Pure functions of what a history holds.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use super::{Contents, Execution, SAMPLES, median};
use crate::bounded::visible;
use crate::failure::FailureClass;
use crate::flake_rate::FlakeRate;
use crate::verdict::Result as Counted;

/// What has to be said of a case beside its rate; the worse comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// It passed and failed on one commit, with a checkout that did not differ from it.
    Flaky,
    /// It failed each time on the commit it ran on last.
    Broken,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flaky => "flaky",
            Self::Broken => "broken",
        })
    }
}

/// The newest failure of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastFailure {
    /// Its run.
    pub run: String,
    /// Which round of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round: Option<u32>,
    /// When the case began.
    pub at: Timestamp,
    /// Whose failure.
    pub class: Option<FailureClass>,
    /// What failed first, in a line.
    pub message: String,
}

impl fmt::Display for LastFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { run, round, class, message, .. } = self;
        write!(f, "last failed in run {run}")?;
        round.iter().try_for_each(|round| write!(f, ", round {round}"))?;
        let class = class.map_or("unclassified", FailureClass::as_str);
        write!(f, " ({class}): {}", visible(message))
    }
}

/// What the executions of one case say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaseHistory {
    /// Its id.
    pub case: String,
    /// Whether it is flaky or broken.
    pub condition: Option<Condition>,
    /// How often it ran and failed.
    pub rate: FlakeRate,
    /// Whose its failures were, and how many.
    pub classes: BTreeMap<FailureClass, usize>,
    /// The median seconds of its last passes; `None` without any.
    pub median_seconds: Option<f64>,
    /// Its newest failure.
    pub last_failure: Option<LastFailure>,
}

impl CaseHistory {
    /// `None` without executions; these are in the order in which they were written down.
    fn of(case: &str, executions: &[&Execution]) -> Option<Self> {
        let failed = || executions.iter().filter(|one| one.status == Counted::Failed);
        let rate = FlakeRate::of(failed().count(), executions.len())?;
        let mut classes = BTreeMap::new();
        for class in failed().filter_map(|one| one.class) {
            *classes.entry(class).or_default() += 1;
        }
        let passed = executions.iter().rev().filter(|one| one.status == Counted::Passed);
        let last_failure = failed().max_by_key(|one| one.started_at).map(|one| LastFailure {
            run: one.run.clone(),
            round: one.round,
            at: one.started_at,
            class: one.class,
            message: one.message.clone(),
        });
        Some(Self {
            case: case.to_owned(),
            condition: condition(executions),
            rate,
            classes,
            median_seconds: median(passed.map(|one| one.seconds).take(SAMPLES).collect()),
            last_failure,
        })
    }

    /// The worst first: broken before flaky before the rest, then by the rate that is at least to be
    /// feared, so that one failure in one execution says less than ten in ten.
    fn compare(&self, other: &Self) -> Ordering {
        let by = |f: fn(&FlakeRate) -> f64| f(&other.rate).total_cmp(&f(&self.rate));
        let worse = other.condition.cmp(&self.condition);
        let rates = worse.then_with(|| by(|rate| rate.lower)).then_with(|| by(|rate| rate.percent));
        rates.then_with(|| self.case.cmp(&other.case))
    }
}

fn condition(executions: &[&Execution]) -> Option<Condition> {
    let last = executions.iter().max_by_key(|one| one.started_at)?;
    let is_same = |one: &&&Execution| (&one.commit, one.dirty) == (&last.commit, last.dirty);
    if executions.iter().filter(is_same).all(|one| one.status == Counted::Failed) {
        return Some(Condition::Broken);
    }
    // What runs on a changed checkout may differ from one run to the next.
    let clean = executions.iter().filter(|one| !one.dirty && !one.commit.is_empty());
    let mut seen: BTreeMap<&str, BTreeSet<bool>> = BTreeMap::new();
    for one in clean {
        seen.entry(&one.commit).or_default().insert(one.status == Counted::Passed);
    }
    seen.values().any(|results| results.len() == 2).then_some(Condition::Flaky)
}

/// What a history says of the cases that are asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Runs in which one of them was executed.
    pub runs: usize,
    /// Executions of them.
    pub executions: usize,
    /// When the first began.
    pub first: Option<Timestamp>,
    /// When the last began.
    pub last: Option<Timestamp>,
    /// Lines of the history that could not be understood.
    pub unreadable: usize,
    /// The cases, the worst first.
    pub cases: Vec<CaseHistory>,
    /// Cases that were asked for by name and are not in it.
    pub unseen: Vec<String>,
}

impl Summary {
    /// Of all cases, or of those in `cases`; of executions that began at or after `since`.
    #[must_use]
    pub fn of(contents: &Contents, cases: &[String], since: Option<Timestamp>) -> Self {
        let wanted = |one: &&Execution| {
            (cases.is_empty() || cases.contains(&one.case))
                && since.is_none_or(|since| one.started_at >= since)
        };
        let executions: Vec<_> = contents.executions.iter().filter(wanted).collect();
        let mut by_case: BTreeMap<&str, Vec<&Execution>> = BTreeMap::new();
        for one in &executions {
            by_case.entry(&one.case).or_default().push(one);
        }
        let mut found: Vec<_> =
            by_case.iter().filter_map(|(case, all)| CaseHistory::of(case, all)).collect();
        found.sort_by(CaseHistory::compare);
        let unseen = cases.iter().filter(|case| !by_case.contains_key(case.as_str()));
        let runs: BTreeSet<_> = executions.iter().map(|one| &one.run).collect();
        let times = || executions.iter().map(|one| one.started_at);
        Self {
            runs: runs.len(),
            executions: executions.len(),
            first: times().min(),
            last: times().max(),
            unreadable: contents.unreadable,
            cases: found,
            unseen: unseen.cloned().collect(),
        }
    }

    /// The table that a person reads.
    #[must_use]
    pub fn render(&self) -> String {
        let mut lines = Vec::new();
        let Self { runs, executions, first, last, unreadable, cases, unseen } = self;
        if let (Some(first), Some(last)) = (first, last) {
            let day = |time: &Timestamp| time.strftime("%Y-%m-%d").to_string();
            let (first, last) = (day(first), day(last));
            let cases = cases.len();
            lines.push(format!(
                "{executions} executions of {cases} case(s) in {runs} run(s), {first} to {last}\n"
            ));
            lines.extend(self.table().lines().map(|line| line.trim_end().to_owned()));
            lines.push(String::new());
        }
        lines.extend(cases.iter().filter_map(|one| {
            let failure = one.last_failure.as_ref()?;
            let word = one.condition.map(|condition| format!("{condition} "));
            Some(format!("{}{}: {failure}\n", word.unwrap_or_default(), visible(&one.case)))
        }));
        lines.extend(unseen.iter().map(|case| format!("{case} was not executed\n")));
        if *unreadable > 0 {
            lines.push(format!("{unreadable} line(s) of the history could not be read\n"));
        }
        if *executions == 0 {
            lines.push("nothing was executed\n".to_owned());
        }
        lines.join("\n")
    }

    fn table(&self) -> comfy_table::Table {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["case", "", "ran", "failed", "rate", "at 95 %", "median"]);
        for one in &self.cases {
            let FlakeRate { executions, failures, percent, lower, upper } = one.rate;
            table.add_row([
                visible(&one.case).into_owned(),
                one.condition.map(|condition| condition.to_string()).unwrap_or_default(),
                executions.to_string(),
                failures.to_string(),
                format!("{percent:.1} %"),
                format!("{lower:.1} – {upper:.1} %"),
                one.median_seconds.map_or_else(|| "–".into(), |seconds| format!("{seconds:.1} s")),
            ]);
        }
        table
    }
}

#[cfg(test)]
mod tests;

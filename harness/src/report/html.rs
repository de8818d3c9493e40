//! HTML: one page for a person, with nothing outside it. What is on it is `templates/report.html`;
//! here is what that needs to know. Every value is escaped by the template's engine.

use std::borrow::Cow;
use std::path::Path;

use askama::Template;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::Report;
use super::chart::{Axis, Place, Tick, believed, clock, lanes};
use super::excerpt::{Excerpt, excerpts, inside};
use super::jobs::{JobsOfCase, Phase, heads, jobs};
use super::latency::{Latency, latency};
use crate::bounded::{cut, headline, visible};
use crate::catalogue::Layer;
use crate::failure::FailureClass;
use crate::job_times::Mark as Moment;
use crate::progress::StageTiming;
use crate::public_bug;
use crate::rounds::{Round, Tally};
use crate::verdict::{CaseResult, Counts, Result as Counted, Verdict, count};

/// Bytes shown of the first failure's message.
const FIRST_MESSAGE: usize = 16 * 1024;
/// Bytes shown of any other message, or of a stage's note.
const MESSAGE: usize = 4 * 1024;
/// Rounds named of a case that did not pass in them.
const ROUNDS: usize = 50;
/// Bars of the timeline: a run of many rounds has a bar for each of the first.
const BARS: usize = 2000;
/// Further failures named beside the first.
const FURTHER: usize = 20;

pub(super) const STYLE: &str = concat!(
    include_str!("../../templates/report.css"),
    include_str!("../../templates/report_jobs.css")
);
pub(super) const SCRIPT: &str = include_str!("../../templates/report.js");

/// The report as a page. `run` is the run's directory, for the evidence of its first failure;
/// without one the page says where the evidence was.
///
/// # Errors
/// The template engine's.
pub fn to_html(report: &Report, run: Option<&Path>) -> askama::Result<String> {
    let page = Page::of(report, run).render()?;
    Ok(visible(&page).into_owned())
}

/// The directory of the evidence that a page shows, relative to the run's: that of the case which
/// failed first. `None` if nothing failed, or a stage did.
pub(super) fn first_evidence(report: &Report) -> Option<&str> {
    let first = First::of(report, None)?;
    Some(first.evidence).filter(|evidence| !evidence.is_empty())
}

/// The digest by which the page lets its own script run, and no other.
pub(super) fn script_digest() -> String {
    BASE64_STANDARD.encode(Sha256::digest(SCRIPT))
}

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    report: &'a Report,
    style: &'static str,
    script: &'static str,
    script_digest: String,
    verdict: Mark,
    says: &'static str,
    took: String,
    first: Option<First<'a>>,
    layers: Vec<LayerView<'a>>,
    stages: Vec<StageView<'a>>,
    lanes: Vec<Vec<Bar<'a>>>,
    ticks: Vec<Tick>,
    latency: Option<Latency>,
    jobs: Vec<JobsOfCase<'a>>,
    phases: [Phase; Phase::ALL.len()],
    heads: [&'static str; Moment::ALL.len()],
}

/// A result as a class of the style sheet, a sign, and a word: never colour alone.
#[derive(Clone, Copy)]
struct Mark {
    class: &'static str,
    sign: &'static str,
    word: &'static str,
}

struct First<'a> {
    what: &'static str,
    name: &'a str,
    anchor: Option<usize>,
    title: &'a str,
    class: &'static str,
    message: Cow<'a, str>,
    evidence: &'a str,
    excerpts: Vec<Excerpt>,
    further: Vec<(usize, &'a str)>,
    unnamed: usize,
}

struct LayerView<'a> {
    layer: Layer,
    counts: Counts,
    mark: Mark,
    took: String,
    cases: Vec<CaseView<'a>>,
}

struct CaseView<'a> {
    index: usize,
    case: &'a CaseResult,
    mark: Mark,
    took: String,
    /// Percent of the longest case.
    share: String,
    message: Cow<'a, str>,
    headline: Cow<'a, str>,
    guards: Vec<(&'a str, Option<String>)>,
    tally: Option<Tally>,
    remarks: Vec<String>,
    missed: Vec<RoundView<'a>>,
    unnamed: usize,
    jobs: usize,
}

/// A round in which a case did not pass.
struct RoundView<'a> {
    round: &'a Round,
    name: String,
    mark: Mark,
    took: String,
}

struct StageView<'a> {
    stage: &'a StageTiming,
    took: String,
    note: Cow<'a, str>,
    place: Place,
}

impl<'a> RoundView<'a> {
    fn of(round: &'a Round) -> Self {
        let (name, mark) = (round.name(), mark(round.result));
        Self { round, name, mark, took: clock(round.seconds) }
    }
}

struct Bar<'a> {
    index: usize,
    id: &'a str,
    round: String,
    mark: Mark,
    took: String,
    place: Place,
}

impl<'a> Page<'a> {
    fn of(report: &'a Report, run: Option<&Path>) -> Self {
        let (lanes, ticks) = timeline(report);
        let (verdict, says) = judged(report.verdict);
        Self {
            report,
            style: STYLE,
            script: SCRIPT,
            script_digest: script_digest(),
            verdict,
            says,
            took: clock(report.seconds),
            first: First::of(report, run),
            layers: layers(report),
            stages: stages(report),
            lanes,
            ticks,
            latency: latency(report),
            jobs: jobs(report),
            phases: Phase::ALL,
            heads: heads(),
        }
    }

    /// A number of cases as a width.
    fn part(&self, number: &usize) -> String {
        let part = u32::try_from(*number).unwrap_or(u32::MAX);
        let all = u32::try_from(self.report.cases.len().max(1)).unwrap_or(u32::MAX);
        format!("width:{:.3}%", f64::from(part) / f64::from(all) * 100.0)
    }
}

fn judged(verdict: Verdict) -> (Mark, &'static str) {
    let mark = |class, sign| Mark { class, sign, word: "" };
    match verdict {
        Verdict::Conformant => (mark("passed", "✓"), "Every selected case ran and passed."),
        Verdict::Partial => (
            mark("not-run", "◐"),
            "Every core case passed; an extended one failed or is in quarantine.",
        ),
        Verdict::NonConformant => {
            (mark("failed", "✗"), "A promise is not kept, or something was left behind.")
        }
        Verdict::Inconclusive => (
            mark("not-run", "?"),
            "A selected case did not run, or is in quarantine, so nothing can be said.",
        ),
    }
}

fn mark(result: Counted) -> Mark {
    match result {
        Counted::Passed => Mark { class: "passed", sign: "✓", word: "passed" },
        Counted::Failed => Mark { class: "failed", sign: "✗", word: "failed" },
        Counted::NotRun => Mark { class: "not-run", sign: "–", word: "not run" },
    }
}

/// A case in quarantine is neither green nor red.
fn mark_of(case: &CaseResult) -> Mark {
    let word = match (&case.quarantined, case.result) {
        (Some(_), Counted::Passed) => "in quarantine, passed",
        (Some(_), Counted::Failed) => "in quarantine, failed",
        (Some(_), Counted::NotRun) => "in quarantine, not run",
        (None, _) => return Mark { word: case.word(), ..mark(case.result) },
    };
    Mark { class: "not-run", sign: "◌", word }
}

impl<'a> First<'a> {
    /// A stage that failed; else the first failed case of the first layer that has one, since a
    /// layer explains those after it; else the first that did not run.
    fn of(report: &'a Report, run: Option<&Path>) -> Option<Self> {
        let order = |(_, case): &(usize, &CaseResult)| (case.layer, case.started_at);
        let of = |result| {
            let cases = report.cases.iter().enumerate();
            let counts = |case: &CaseResult| case.result == result && case.quarantined.is_none();
            let mut cases: Vec<_> = cases.filter(|(_, case)| counts(case)).collect();
            cases.sort_by_key(order);
            cases
        };
        let mut cases = of(Counted::Failed);
        cases.extend(of(Counted::NotRun));
        let mut cases = cases.into_iter();
        let mut first = match report.stages.iter().find(|stage| !stage.ok) {
            Some(stage) => Self::stage(stage),
            None => Self::case(cases.next()?, run),
        };
        let mut rest = cases.map(|(index, case)| (index, case.id.as_str()));
        first.further = rest.by_ref().take(FURTHER).collect();
        first.unnamed = rest.count();
        Some(first)
    }

    fn stage(stage: &'a StageTiming) -> Self {
        Self {
            what: "stage",
            name: &stage.name,
            anchor: None,
            title: "",
            class: "",
            message: cut(&stage.note, FIRST_MESSAGE),
            evidence: "",
            excerpts: Vec::new(),
            further: Vec::new(),
            unnamed: 0,
        }
    }

    fn case((index, case): (usize, &'a CaseResult), run: Option<&Path>) -> Self {
        let directory = run.and_then(|run| inside(run, &case.evidence));
        Self {
            what: "case",
            name: &case.id,
            anchor: Some(index),
            title: &case.title,
            class: case.class.map_or("", FailureClass::as_str),
            message: cut(&case.message, FIRST_MESSAGE),
            evidence: &case.evidence,
            excerpts: directory.map(|directory| excerpts(&directory)).unwrap_or_default(),
            further: Vec::new(),
            unnamed: 0,
        }
    }
}

fn layers(report: &Report) -> Vec<LayerView<'_>> {
    let seconds = report.cases.iter().map(|case| believed(case.seconds));
    let longest = seconds.fold(f64::MIN_POSITIVE, f64::max);
    let views = Layer::ALL.into_iter().map(|layer| {
        let of_layer = report.cases.iter().enumerate().filter(|(_, case)| case.layer == layer);
        let cases: Vec<_> = of_layer.map(|(index, case)| view(index, case, longest)).collect();
        let results: Vec<_> = cases.iter().map(|view| view.case.clone()).collect();
        let counts = count(&results);
        let result = match counts {
            Counts { failed: 1.., .. } => Counted::Failed,
            Counts { not_run: 1.., .. } | Counts { quarantined: 1.., .. } => Counted::NotRun,
            Counts { .. } => Counted::Passed,
        };
        let took = clock(cases.iter().map(|view| believed(view.case.seconds)).sum());
        LayerView { layer, counts, mark: mark(result), took, cases }
    });
    views.filter(|view| !view.cases.is_empty()).collect()
}

fn view(index: usize, case: &CaseResult, longest: f64) -> CaseView<'_> {
    let missed = case.missed_rounds();
    CaseView {
        index,
        case,
        tally: case.tally(),
        missed: missed.iter().take(ROUNDS).map(|round| RoundView::of(round)).collect(),
        unnamed: missed.len().saturating_sub(ROUNDS),
        remarks: case.remarks(),
        jobs: case.jobs.as_ref().map_or(0, |jobs| jobs.jobs.len()),
        mark: mark_of(case),
        took: clock(case.seconds),
        share: format!("width:{:.2}%", believed(case.seconds) / longest * 100.0),
        message: cut(&case.message, MESSAGE),
        headline: headline(&case.message),
        guards: case.guards.iter().map(|bug| (bug.as_str(), public_bug::url(bug))).collect(),
    }
}

fn stages<'a>(report: &'a Report) -> Vec<StageView<'a>> {
    // One of an older harness does not say when it began: its bar says only how long it took.
    let began = |stage: &StageTiming| stage.started_at.unwrap_or(report.started_at);
    let stretches = report.stages.iter().map(|stage| (began(stage), stage.seconds));
    let axis = Axis::over(report.started_at, stretches);
    let view = |stage: &'a StageTiming| StageView {
        took: clock(stage.seconds),
        note: cut(&stage.note, MESSAGE),
        place: axis.place(began(stage), stage.seconds),
        stage,
    };
    report.stages.iter().map(view).collect()
}

fn timeline(report: &Report) -> (Vec<Vec<Bar<'_>>>, Vec<Tick>) {
    let ran = report.cases.iter().enumerate().flat_map(|(index, case)| ran(index, case));
    // What another run did is not in the time of this one.
    let ran: Vec<_> = ran.filter(|ran| ran.began >= report.started_at).collect();
    let stretches: Vec<(Timestamp, f64)> =
        ran.iter().map(|ran| (ran.began, ran.seconds)).take(BARS).collect();
    let Some(from) = stretches.iter().map(|(began, _)| *began).min() else {
        return (Vec::new(), Vec::new());
    };
    let axis = Axis::over(from, stretches.iter().copied());
    let bar = |at: usize| {
        let Ran { index, id, round, result, began, seconds } = &ran[at];
        let place = axis.place(*began, *seconds);
        let round = round.map(|round| format!(" ({})", round.name())).unwrap_or_default();
        Bar { index: *index, id, round, mark: mark(*result), took: clock(*seconds), place }
    };
    let lanes = lanes(&stretches).into_iter().map(|lane| lane.into_iter().map(bar).collect());
    (lanes.collect(), axis.ticks())
}

/// A case, or one of its rounds, that ran.
struct Ran<'a> {
    index: usize,
    id: &'a str,
    round: Option<&'a Round>,
    result: Counted,
    began: Timestamp,
    seconds: f64,
}

fn ran(index: usize, case: &CaseResult) -> Vec<Ran<'_>> {
    let of = |round, result, began: Option<Timestamp>, seconds| {
        Some(Ran { index, id: &case.id, round, result, began: began?, seconds })
    };
    if case.rounds.is_empty() {
        return of(None, case.result, case.started_at, case.seconds).into_iter().collect();
    }
    let rounds = case.rounds.iter();
    rounds.filter_map(|one| of(Some(one), one.result, one.started_at, one.seconds)).collect()
}

#[cfg(test)]
mod tests;

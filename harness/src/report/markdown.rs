//! Markdown: for a pull request's comment and a CI job's summary page.

use std::fmt::Write;

use super::Report;
use crate::catalogue::Layer;
use crate::failure::FailureClass;
use crate::verdict::{CaseResult, Result as Counted, count};

/// Characters of a failure's message that the table of a case shows.
const MESSAGE_LIMIT: usize = 1500;
/// Rounds named of a case that did not pass in them.
const ROUNDS: usize = 20;

/// The report as GitHub-flavoured Markdown.
#[must_use]
pub fn to_markdown(report: &Report) -> String {
    let mut text = String::new();
    write(&mut text, report).expect("writing to a String cannot fail");
    text
}

fn write(text: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(text, "# Hodei end to end: {}\n", report.verdict)?;
    let (counts, seconds) = (report.counts, report.seconds);
    writeln!(
        text,
        "**{counts}{}** in {seconds:.0} s · run `{}`\n",
        report.taken_over(),
        report.run
    )?;
    let on = &report.environment;
    writeln!(
        text,
        "Cluster `{}` (Kubernetes {}, {} node(s)) · worker image `{}` · {}\n",
        on.cluster, on.kubernetes, on.nodes, on.worker_image, on.host
    )?;
    if !on.commit.is_empty() {
        writeln!(text, "Commit `{}`\n", on.commit)?;
    }
    if let Some(rounds) = &report.rounds {
        writeln!(text, "**{rounds}**, {} flaky case(s)\n", report.flaky())?;
    }
    if let Some(resumed) = &report.resumed {
        writeln!(text, "It {resumed}\n")?;
    }
    if let Some(shard) = &report.shard {
        writeln!(text, "Shard {}; {} case(s) are in others\n", shard.shard, shard.elsewhere.len())?;
    }
    if !report.merged.is_empty() {
        writeln!(text, "Of runs {}\n", report.merged.join(", "))?;
    }
    failures(text, report)?;
    writeln!(text, "| layer | passed | failed | not run | seconds |\n|---|--:|--:|--:|--:|")?;
    for layer in Layer::ALL {
        let cases: Vec<_> =
            report.cases.iter().filter(|case| case.layer == layer).cloned().collect();
        if cases.is_empty() {
            continue;
        }
        let (counts, seconds) = (count(&cases), cases.iter().map(|case| case.seconds).sum::<f64>());
        let (passed, failed, not_run) = (counts.passed, counts.failed, counts.not_run);
        writeln!(text, "| {layer} | {passed} | {failed} | {not_run} | {seconds:.1} |")?;
    }
    writeln!(text, "\n<details><summary>Every case</summary>\n")?;
    writeln!(text, "| case | promise | result | seconds |\n|---|---|---|--:|")?;
    for case in &report.cases {
        let (id, title, seconds) = (&case.id, cell(&case.title), case.seconds);
        writeln!(text, "| `{id}` | {title} | {} | {seconds:.1} |", shown(case))?;
    }
    writeln!(text, "\n</details>\n\n<details><summary>Stages of the run</summary>\n")?;
    writeln!(text, "| stage | seconds | |\n|---|--:|---|")?;
    for stage in &report.stages {
        let first = stage.note.lines().next().unwrap_or_default();
        let mark = if stage.ok { "" } else { "failed: " };
        writeln!(text, "| {} | {:.1} | {mark}{} |", stage.name, stage.seconds, cell(first))?;
    }
    writeln!(text, "\n</details>")
}

fn failures(text: &mut String, report: &Report) -> std::fmt::Result {
    for case in report.cases.iter().filter(|case| case.result != Counted::Passed) {
        writeln!(text, "### `{}`: {}\n\n{}\n", case.id, shown(case), case.title)?;
        rounds(text, case)?;
        let message: String = case.message.chars().take(MESSAGE_LIMIT).collect();
        writeln!(text, "````text\n{}\n````\n", message.trim_end())?;
        if !case.evidence.is_empty() {
            writeln!(text, "Evidence: `{}`\n", case.evidence)?;
        }
    }
    if !report.leaks.is_empty() {
        writeln!(text, "### Left behind\n")?;
        for leak in &report.leaks {
            writeln!(text, "- {leak}")?;
        }
        writeln!(text)?;
    }
    Ok(())
}

/// The rounds in which a case did not pass.
fn rounds(text: &mut String, case: &CaseResult) -> std::fmt::Result {
    let missed = case.missed_rounds();
    if missed.is_empty() {
        return Ok(());
    }
    for round in missed.iter().take(ROUNDS) {
        let (name, result) = (round.name(), round.result.as_str());
        writeln!(text, "- {name} ({result}, {:.1} s): `{}`", round.seconds, round.evidence)?;
    }
    match missed.len().saturating_sub(ROUNDS) {
        0 => writeln!(text),
        more => writeln!(text, "- {more} more\n"),
    }
}

fn shown(case: &CaseResult) -> String {
    let shown = match (case.result, case.class) {
        (Counted::Passed, _) => "passed".to_owned(),
        (Counted::Failed, class) => {
            let class = class.map_or("unclassified", FailureClass::as_str);
            format!("**{}** ({class})", case.word())
        }
        (Counted::NotRun, _) => "**not run**".to_owned(),
    };
    let tally = case.tally().map(|tally| tally.to_string());
    let remarks = case.remarks().into_iter().map(|remark| cell(&remark));
    std::iter::once(shown).chain(tally).chain(remarks).collect::<Vec<_>>().join(", ")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

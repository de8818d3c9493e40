//! Markdown: for a pull request's comment and a CI job's summary page.

use std::fmt::Write;

use super::Report;
use crate::catalogue::Layer;
use crate::failure::FailureClass;
use crate::verdict::{CaseResult, Result as Counted, count};

/// Characters of a failure's message that the table of a case shows.
const MESSAGE_LIMIT: usize = 1500;

/// The report as GitHub-flavoured Markdown.
#[must_use]
pub fn to_markdown(report: &Report) -> String {
    let mut text = String::new();
    write(&mut text, report).expect("writing to a String cannot fail");
    text
}

fn write(text: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(text, "# Hodei end to end: {}\n", report.verdict)?;
    writeln!(text, "**{}** in {:.0} s · run `{}`\n", report.counts, report.seconds, report.run)?;
    let on = &report.environment;
    writeln!(
        text,
        "Cluster `{}` (Kubernetes {}, {} node(s)) · worker image `{}` · {}\n",
        on.cluster, on.kubernetes, on.nodes, on.worker_image, on.host
    )?;
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

fn shown(case: &CaseResult) -> String {
    match (case.result, case.class) {
        (Counted::Passed, _) => "passed".to_owned(),
        (Counted::Failed, class) => {
            format!("**failed** ({})", class.map_or("unclassified", FailureClass::as_str))
        }
        (Counted::NotRun, _) => "**not run**".to_owned(),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

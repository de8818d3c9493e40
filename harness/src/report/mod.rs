//! The report of a run: one value, written as JSON (the reference), HTML, JUnit, Markdown and a
//! summary for the terminal. Each form shows what the value says; HTML also the evidence of what
//! failed first.

pub mod archive;
mod chart;
mod diff;
mod excerpt;
mod html;
mod jobs;
mod junit;
mod latency;
mod markdown;
mod merge;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use diff::{Change, Diff, Difference, Pair, SLOWER_RATIO, SLOWER_SECONDS, Single, diff};
pub use html::to_html;
pub use junit::to_junit;
pub use markdown::to_markdown;
pub use merge::merge;

use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::paths::write_atomically;
use crate::progress::StageTiming;
use crate::resume::Resumed;
use crate::shard::ShardOf;
use crate::verdict::{CaseResult, Counts, Verdict};

/// All that is known of a run at its end. The JSON form is this value, field for field; fields are
/// added, and never renamed or given another meaning, within one `schema`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `hodei-e2e-report/1`.
    pub schema: String,
    /// Id of the run.
    pub run: String,
    /// What the run says.
    pub verdict: Verdict,
    /// The exit code of the process that made it.
    pub exit_code: u8,
    /// Cases by how they are counted.
    pub counts: Counts,
    /// When the run began.
    pub started_at: Timestamp,
    /// Seconds in all.
    pub seconds: f64,
    /// What it ran on.
    pub environment: Fingerprint,
    /// The stages of the run, with their times.
    pub stages: Vec<StageTiming>,
    /// Each selected case, in the catalogue's order.
    pub cases: Vec<CaseResult>,
    /// What was left behind after the clean-up.
    pub leaks: Vec<String>,
    /// How often each case was to run, for a run that repeats its cases.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rounds: Option<Rounds>,
    /// The run that this one goes on with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub resumed: Option<Resumed>,
    /// Which part of the chosen cases this is, for a run of a part.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub shard: Option<ShardOf>,
    /// The runs that this report was put together from; empty for a run's own.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub merged: Vec<String>,
}

/// The rounds of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rounds {
    /// As many were asked for.
    pub asked: u32,
    /// As many have begun.
    pub begun: u32,
    /// Whether none was to begin after a failure.
    pub until_failure: bool,
    /// The part of its rounds, in percent, that a case was allowed to fail in.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub flake_budget: Option<f64>,
    /// Whether no case failed more often, all ran, and nothing was left behind; the exit code is
    /// 0 then, whatever the verdict.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub within_budget: Option<bool>,
}

impl std::fmt::Display for Rounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} rounds", self.begun, self.asked)?;
        f.write_str(if self.until_failure { ", until one fails" } else { "" })?;
        match (self.flake_budget, self.within_budget) {
            (Some(percent), Some(true)) => write!(f, ", within the flake budget of {percent} %"),
            (Some(percent), _) => write!(f, ", not within the flake budget of {percent} %"),
            (None, _) => Ok(()),
        }
    }
}

/// What a run ran on, so that two reports can be compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The checkout's commit, with a digest of what differs from it; empty if it is unknown.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub commit: String,
    /// The cluster's name.
    pub cluster: String,
    /// Kubernetes version the API server reports.
    pub kubernetes: String,
    /// Number of nodes.
    pub nodes: usize,
    /// The worker image and its id.
    pub worker_image: String,
    /// The operating system and architecture of the host.
    pub host: String,
}

/// The value of [`Report::schema`].
pub const SCHEMA: &str = "hodei-e2e-report/1";
/// The largest report that is read, in bytes: a thousand cases with the longest messages.
const LARGEST: u64 = 128 * 1024 * 1024;

/// Whether there is a file of that name that begins as an archive does.
fn is_archive(file: &Path) -> bool {
    let mut begins = Vec::new();
    let read = File::open(file).and_then(|opened| opened.take(4).read_to_end(&mut begins));
    read.is_ok() && archive::is_archive(&begins)
}

/// A directory of its own with the evidence that a page of `report` shows, from the archive at `path`;
/// `None` if that is no archive.
///
/// # Errors
/// It is an archive that cannot be read to its end, or the directory cannot be made.
pub fn opened(report: &Report, path: &Path) -> Result<Option<tempfile::TempDir>> {
    if !is_archive(path) {
        return Ok(None);
    }
    let into = tempfile::tempdir().classify(FailureClass::Harness, "make", "a directory")?;
    if let Some(directory) = html::first_evidence(report) {
        archive::extract(path, directory, into.path())?;
    }
    Ok(Some(into))
}

impl Report {
    /// How many cases both passed and failed.
    #[must_use]
    pub fn flaky(&self) -> usize {
        self.cases.iter().filter(|case| case.is_flaky()).count()
    }

    /// What a verdict has to say of passes that are another run's; empty without any.
    #[must_use]
    pub fn taken_over(&self) -> String {
        match self.cases.iter().filter(|case| case.taken_over.is_some()).count() {
            0 => String::new(),
            some => format!("; {some} of them in an earlier run"),
        }
    }

    /// Reads a saved report: its JSON file, the directory that holds it, or an [`archive`] of it.
    ///
    /// # Errors
    /// It cannot be read, is too large, or is no report of this schema.
    pub fn read(path: &Path) -> Result<Self> {
        let file = if path.is_dir() { path.join("report.json") } else { path.to_path_buf() };
        let subject = || format!("the report {}", file.display());
        let harness = FailureClass::Harness;
        if is_archive(&file) {
            return Self::parse(&archive::report(&file)?, &subject());
        }
        let mut bytes = Vec::new();
        let opened = File::open(&file).classify(harness, "read", subject())?;
        let read = opened.take(LARGEST + 1).read_to_end(&mut bytes);
        if read.classify(harness, "read", subject())? as u64 > LARGEST {
            let cause = format!("it is larger than {LARGEST} bytes");
            return Err(HarnessError::new(harness, "read", subject(), cause));
        }
        Self::parse(&bytes, &subject())
    }

    fn parse(bytes: &[u8], subject: &str) -> Result<Self> {
        let harness = FailureClass::Harness;
        let report: Self =
            serde_json::from_slice(bytes).classify(harness, "understand", subject)?;
        if report.schema == SCHEMA {
            return Ok(report);
        }
        let cause = format!("its schema is {:?}, and this tool reads {SCHEMA}", report.schema);
        Err(HarnessError::new(harness, "understand", subject, cause))
    }

    /// The ids of the cases that failed or did not run.
    #[must_use]
    pub fn not_passed(&self) -> Vec<String> {
        use crate::verdict::Result::Passed;
        let cases = self.cases.iter().filter(|case| case.result != Passed);
        cases.map(|case| case.id.clone()).collect()
    }

    /// Writes `report.json`, `report.html`, `report.md` and `junit.xml` into `dir`; returns their
    /// paths. `run` is the run's directory, where the evidence is.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, dir: &Path, run: &Path) -> Result<Vec<PathBuf>> {
        let harness = FailureClass::Harness;
        let json = serde_json::to_string_pretty(self).classify(harness, "encode", "the report")?;
        let junit = to_junit(self).classify(harness, "encode", "the JUnit report")?;
        let html = to_html(self, Some(run)).classify(harness, "render", "the HTML report")?;
        let files = [
            ("report.json", json),
            ("report.html", html),
            ("report.md", to_markdown(self)),
            ("junit.xml", junit),
        ];
        let mut paths = Vec::new();
        for (name, text) in files {
            let path = dir.join(name);
            write_atomically(&path, text.as_bytes(), 0o644)?;
            paths.push(path);
        }
        Ok(paths)
    }

    /// The summary for the terminal. Its last line is exactly `N passed, N failed`.
    #[must_use]
    pub fn summary(&self, dir: &Path) -> String {
        use crate::verdict::Result::Passed;
        let mut lines = Vec::new();
        for case in self.cases.iter().filter(|case| case.result != Passed) {
            let class = case.class.map_or("not run", FailureClass::as_str);
            let (flaky, tally) = match case.tally() {
                Some(tally) if tally.is_flaky() => ("flaky, ", format!("{tally}: ")),
                Some(tally) => ("", format!("{tally}: ")),
                None => ("", String::new()),
            };
            let message = case.message.trim_end();
            let (sign, known) = match case.quarantined {
                Some(_) => ("◌", "in quarantine, "),
                None => ("✗", ""),
            };
            lines.push(format!("{sign} {} ({known}{flaky}{class}): {tally}{message}", case.id));
        }
        lines.extend(self.leaks.iter().map(|leak| format!("✗ left behind: {leak}")));
        lines.extend(self.cases.iter().filter_map(|case| {
            Some(format!("quarantine: {} is {}", case.id, case.quarantined.as_ref()?))
        }));
        lines.extend(self.resumed.iter().map(|resumed| format!("resumed: {resumed}")));
        lines.extend(
            self.rounds
                .iter()
                .map(|rounds| format!("rounds: {rounds}, {} flaky case(s)", self.flaky())),
        );
        lines.extend(self.shard.iter().map(|shard| {
            let others = shard.elsewhere.len();
            format!("shard: {}; {others} case(s) are in others", shard.shard)
        }));
        lines.extend(self.merged.iter().map(|run| format!("merged: run {run}")));
        lines.push(format!("report: {}", dir.display()));
        lines.push(format!("verdict: {} ({}{})", self.verdict, self.counts, self.taken_over()));
        lines.push(format!("{} passed, {} failed", self.counts.passed, self.counts.failed));
        lines.join("\n")
    }
}

#[cfg(test)]
pub(crate) mod tests;

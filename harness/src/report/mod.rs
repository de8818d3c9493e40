//! The report of a run: one value, written as JSON (the reference), JUnit, Markdown and a summary
//! for the terminal. Each form shows what the value says and computes nothing.

mod junit;
mod markdown;

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use junit::to_junit;
pub use markdown::to_markdown;

use crate::failure::{Classify, FailureClass, Result};
use crate::paths::write_atomically;
use crate::progress::StageTiming;
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
}

/// What a run ran on, so that two reports can be compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
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

impl Report {
    /// Writes `report.json`, `report.md` and `junit.xml` into `dir`; returns their paths.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        let harness = FailureClass::Harness;
        let json = serde_json::to_string_pretty(self).classify(harness, "encode", "the report")?;
        let junit = to_junit(self).classify(harness, "encode", "the JUnit report")?;
        let files = [("report.json", json), ("report.md", to_markdown(self)), ("junit.xml", junit)];
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
            lines.push(format!("✗ {} ({class}): {}", case.id, case.message.trim_end()));
        }
        lines.extend(self.leaks.iter().map(|leak| format!("✗ left behind: {leak}")));
        lines.push(format!("report: {}", dir.display()));
        lines.push(format!("verdict: {} ({})", self.verdict, self.counts));
        lines.push(format!("{} passed, {} failed", self.counts.passed, self.counts.failed));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests;

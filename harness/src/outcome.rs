//! What became of one case, as its own process wrote it down.
//!
//! The first thing a case writes is that it runs; if nothing follows, its process was ended.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::failure::{Classify, FailureClass, Result};
use crate::job_times::JobTimes;
use crate::paths::write_atomically;

/// How a case stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It began and has not ended, or its process was ended.
    Running,
    /// The promise holds and nothing was left behind.
    Passed,
    /// It does not, or something was left behind.
    Failed,
}

/// What became of one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The case's id in the catalogue.
    pub id: String,
    /// How it stands.
    pub status: Status,
    /// Whose failure it is, for a failed one.
    pub class: Option<FailureClass>,
    /// From its beginning to its end, clean-up included.
    pub seconds: f64,
    /// When it began.
    pub started_at: Timestamp,
    /// What failed first; empty for a pass.
    pub message: String,
    /// Where its evidence is.
    pub evidence: PathBuf,
    /// Which round of the run, for one that runs its cases several times.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub round: Option<u32>,
    /// Its jobs in time, as far as it came; `None` for a case without a server.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub jobs: Option<JobTimes>,
}

impl Outcome {
    /// A case that begins now, in the run's round.
    #[must_use]
    pub fn running(id: &str, evidence: PathBuf, round: Option<u32>) -> Self {
        Self {
            id: id.to_owned(),
            status: Status::Running,
            class: None,
            seconds: 0.0,
            started_at: Timestamp::now(),
            message: String::new(),
            evidence,
            round,
            jobs: None,
        }
    }

    /// Writes it to its place among the outcomes of a run.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, outcomes: &Path) -> Result<()> {
        let text =
            serde_json::to_vec_pretty(self).classify(FailureClass::Harness, "encode", &self.id)?;
        write_atomically(&outcomes.join(format!("{}.json", self.id)), &text, 0o600)
    }

    /// The outcome of a case; `None` if it never began.
    ///
    /// # Errors
    /// The file is there and cannot be read or understood.
    pub fn read(outcomes: &Path, id: &str) -> Result<Option<Self>> {
        let path = outcomes.join(format!("{id}.json"));
        let subject = || format!("the outcome {}", path.display());
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).classify(
                FailureClass::Harness,
                "understand",
                subject(),
            ),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).infrastructure("read", subject()),
        }
    }
}

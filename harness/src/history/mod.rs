//! What became of each case in the runs of this machine, for longer than their directories are kept:
//! one JSON line an execution, written once at the end of a run.
//!
//! The file is appended to and rewritten under a lock, and never read under it: a rewrite is a new
//! file. A line begins with its own newline, so that what a crash or a full disk tore never runs
//! into the next one. What is concluded from it is `summary`'s.

mod summary;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use summary::{CaseHistory, Condition, LastFailure, Summary};

use crate::bounded::headline;
use crate::catalogue::Case;
use crate::failure::{Classify, FailureClass, Result};
use crate::lock::Lock;
use crate::paths::write_atomically;
use crate::progress::Progress;
use crate::report::Report;
use crate::verdict::{CaseResult, Result as Counted};
use crate::wait::Wait;

/// Executions of a case whose times are looked at, the newest first.
const SAMPLES: usize = 9;
/// A history of more bytes is made smaller: some fifty thousand executions.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// Executions of one case that are kept at most when it is.
const KEPT: usize = 2048;
/// Another run writes for milliseconds.
const LOCK_DEADLINE: Duration = Duration::from_secs(20);

/// One execution of one case that came to an end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Execution {
    /// Its run.
    pub run: String,
    /// The case's id.
    pub case: String,
    /// Which round of the run, for one that ran its cases several times.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub round: Option<u32>,
    /// Whether it passed or failed.
    pub status: Counted,
    /// Whose failure it was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub class: Option<FailureClass>,
    /// Seconds, clean-up included.
    pub seconds: f64,
    /// When it began.
    pub started_at: Timestamp,
    /// The commit of the checkout; empty outside of one.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub commit: String,
    /// Whether the checkout differed from its commit.
    #[serde(default)]
    pub dirty: bool,
    /// What failed first, in a line.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub message: String,
}

impl Execution {
    /// All that came to an end in a run itself: not what another run passed, nor what did not run.
    #[must_use]
    pub fn of(report: &Report) -> Vec<Self> {
        // A changed checkout is its commit and a digest of the changes.
        let commit = report.environment.commit.split_once('+');
        let (commit, dirty) = match commit {
            Some((commit, _)) => (commit, true),
            None => (report.environment.commit.as_str(), false),
        };
        let one = |case: &CaseResult, round, status, class, seconds: f64, at, message: &str| {
            (status != Counted::NotRun && seconds.is_finite()).then_some(Self {
                run: report.run.clone(),
                case: case.id.clone(),
                round,
                status,
                class,
                seconds,
                started_at: at?,
                commit: commit.to_owned(),
                dirty,
                message: headline(message).into_owned(),
            })
        };
        let of_case = |case: &CaseResult| -> Vec<Option<Self>> {
            if case.rounds.is_empty() {
                let CaseResult { result, class, seconds, started_at, message, .. } = case;
                return vec![one(case, None, *result, *class, *seconds, *started_at, message)];
            }
            let of_round = |round: &crate::rounds::Round| {
                let number = Some(round.round);
                let (at, message) = (round.started_at, &round.message);
                one(case, number, round.result, round.class, round.seconds, at, message)
            };
            case.rounds.iter().map(of_round).collect()
        };
        let own = report.cases.iter().filter(|case| case.taken_over.is_none());
        own.flat_map(of_case).flatten().collect()
    }
}

/// What a history says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Contents {
    /// In the order in which they were written down.
    pub executions: Vec<Execution>,
    /// Lines that could not be understood: torn by a crash, or of another tool.
    pub unreadable: usize,
}

impl Contents {
    /// Understands lines; one that is not of an execution is counted and passed over.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let mut contents = Self::default();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<Execution>(line) {
                Ok(one) if one.status != Counted::NotRun => contents.executions.push(one),
                _ => contents.unreadable += 1,
            }
        }
        contents
    }

    /// The newest executions of each case, as many as fit in `bytes`, in their order.
    fn newest(self, bytes: usize) -> Vec<Execution> {
        let mut executions = self.executions;
        let mut kept = KEPT;
        loop {
            let mut of_case: BTreeMap<String, usize> = BTreeMap::new();
            let mut newest: Vec<_> = executions.into_iter().rev().collect();
            newest.retain(|one| {
                let count = of_case.entry(one.case.clone()).or_default();
                *count += 1;
                *count <= kept
            });
            newest.reverse();
            executions = newest;
            let size: usize = executions.iter().filter_map(line).map(|line| line.len()).sum();
            if size <= bytes || kept == 0 {
                return executions;
            }
            kept /= 2;
        }
    }
}

fn line(execution: &Execution) -> Option<String> {
    serde_json::to_string(execution).ok().map(|text| format!("\n{text}\n"))
}

fn lines(executions: &[Execution]) -> String {
    executions.iter().filter_map(line).collect()
}

/// The history in a state directory.
#[derive(Debug, Clone)]
pub struct History {
    file: PathBuf,
    lock: PathBuf,
    most: usize,
}

impl History {
    /// The history of a state directory; perhaps nothing was written down there yet.
    #[must_use]
    pub fn at(state: &Path) -> Self {
        let (file, lock) = (state.join("history.jsonl"), state.join("history.lock"));
        Self { file, lock, most: MOST_BYTES }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// Writes down what became of the cases of a run; durable when this returns. A history that has
    /// grown too large loses the oldest executions of each case.
    ///
    /// # Errors
    /// The disk is full, the file cannot be written, or another process holds the lock for longer
    /// than writing takes. Then some of the executions may be missing, and nothing else.
    pub async fn append(&self, executions: &[Execution]) -> Result<()> {
        if executions.is_empty() {
            return Ok(());
        }
        // A signal that ended the run must not end this.
        let stage = Progress::silent().unlisted();
        let wait = Wait::infrastructure("the lock of the history", LOCK_DEADLINE);
        let _lock = Lock::acquire_within(&self.lock, &wait, || {}, &stage).await?;
        let written = self.write(lines(executions).as_bytes());
        let size = written.infrastructure("write", self.subject())?;
        if size > self.most as u64 {
            let newest = self.read()?.newest(self.most / 2);
            write_atomically(&self.file, lines(&newest).as_bytes(), 0o600)?;
        }
        Ok(())
    }

    fn write(&self, text: &[u8]) -> std::io::Result<u64> {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).append(true).mode(0o600).open(&self.file)?;
        file.write_all(text)?;
        file.sync_data()?;
        Ok(file.metadata()?.len())
    }

    /// What is written down, the newest part of it if somebody made it larger than it may be.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub fn read(&self) -> Result<Contents> {
        let most = self.most as u64 * 2;
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(&self.file)?;
            let start = file.metadata()?.len().saturating_sub(most);
            file.seek(SeekFrom::Start(start))?;
            let mut bytes = Vec::new();
            file.take(most).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Ok(Contents::parse(&bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Contents::default()),
            Err(error) => Err(error).infrastructure("read", self.subject()),
        }
    }

    fn subject(&self) -> String {
        format!("the history {}", self.file.display())
    }
}

/// The median seconds of each case's last passes; a case without any is not in it.
///
/// # Errors
/// The history exists and cannot be read.
pub fn seconds(state: &Path, cases: &[&Case]) -> Result<BTreeMap<String, f64>> {
    let executions = History::at(state).read()?.executions;
    let passed = |case: &Case| {
        let of_case = executions.iter().rev().filter(|one| one.case == case.id);
        let passed = of_case.filter(|one| one.status == Counted::Passed);
        passed.map(|one| one.seconds).take(SAMPLES).collect::<Vec<_>>()
    };
    let median = |case: &&Case| Some((case.id.clone(), median(passed(case))?));
    Ok(cases.iter().filter_map(median).collect())
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests;

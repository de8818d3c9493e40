//! A run on disk: its id, its directory, and the lock that says whether its owner still lives.
//!
//! The lock is flock(2): the kernel drops it when the owner dies, however it dies, so liveness
//! needs neither a process id nor a clock.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::failure::{Classify, Result};
use crate::journal::Journal;
use crate::paths::ensure_private_dir;

/// Label (and container label) of everything a run makes.
pub const RUN_LABEL: &str = "hodei.io/e2e-run";
/// Label that names the case.
pub const CASE_LABEL: &str = "hodei.io/e2e-case";
/// Label with the Unix time, in seconds, after which nobody needs the thing any more.
pub const EXPIRY_LABEL: &str = "hodei.io/e2e-expires";
/// Runs whose directories are kept when all they made is gone.
const KEPT_RUNS: usize = 30;

/// Identifies a run; sorts by its beginning; valid as a label's value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(String);

impl RunId {
    /// A new id: UTC time and six random hexadecimal digits.
    #[must_use]
    pub fn generate() -> Self {
        let tail = &uuid::Uuid::new_v4().simple().to_string()[..6];
        Self(format!("{}-{tail}", Timestamp::now().strftime("%Y%m%d-%H%M%S")))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The random part, for names that must be short.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.rsplit('-').next().unwrap_or(&self.0)
    }
}

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The directory of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDir {
    /// Whose.
    pub id: RunId,
    /// Where.
    pub path: PathBuf,
    /// The round whose outcomes and evidence are meant; `None` for a run that repeats nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub round: Option<u32>,
}

/// Held by the owner for as long as the run lasts.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunDir {
    /// Makes the directory of a new run and takes its lock.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn create(state: &Path) -> Result<(Self, RunLock)> {
        let id = RunId::generate();
        let run = Self { path: state.join("runs").join(id.as_str()), id, round: None };
        ensure_private_dir(&run.path)?;
        let lock = run.try_lock()?.ok_or("another process holds its lock");
        Ok((run.clone(), lock.infrastructure("own", format!("run {}", run.id))?))
    }

    /// All runs below a state directory, oldest first.
    ///
    /// # Errors
    /// The directory exists and cannot be read.
    pub fn all(state: &Path) -> Result<Vec<Self>> {
        let dir = state.join("runs");
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).infrastructure("read", dir.display().to_string()),
        };
        let mut runs: Vec<_> = entries
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| {
                let id = RunId(entry.file_name().into_string().ok()?);
                Some(Self { id, path: entry.path(), round: None })
            })
            .collect();
        runs.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(runs)
    }

    /// Takes the lock if no living process holds it.
    ///
    /// # Errors
    /// The lock file cannot be opened or locked.
    pub fn try_lock(&self) -> Result<Option<RunLock>> {
        let path = self.path.join("lock");
        let subject = || format!("the lock of run {}", self.id);
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .infrastructure("open", subject())?;
        match file.try_lock() {
            Ok(()) => {
                writeln!(file, "{}", std::process::id()).infrastructure("write", subject())?;
                Ok(Some(RunLock { _file: file }))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).infrastructure("take", subject()),
        }
    }

    /// The journal, for entries of `case` or of the run itself.
    #[must_use]
    pub fn journal(&self, case: Option<&str>) -> Journal {
        Journal::at(self.journal_path(), case.map(str::to_owned))
    }

    /// Where the journal is.
    #[must_use]
    pub fn journal_path(&self) -> PathBuf {
        self.path.join("journal.jsonl")
    }

    /// The same run in another round.
    #[must_use]
    pub fn at_round(&self, round: Option<u32>) -> Self {
        Self { round, ..self.clone() }
    }

    /// The last round of which there are outcomes; `None` for a run that repeats nothing.
    #[must_use]
    pub fn last_round(&self) -> Option<u32> {
        let entries = std::fs::read_dir(self.path.join("outcomes")).ok()?;
        let round = |name: &str| name.strip_prefix("round-")?.parse().ok();
        entries.flatten().filter_map(|entry| round(entry.file_name().to_str()?)).max()
    }

    /// The random part of the id, and the round: `3fa9c1`, `3fa9c1-r12`. For names that must be
    /// short; what a run makes apart from its cases is named by [`RunId::short`].
    #[must_use]
    pub fn short(&self) -> String {
        match self.round {
            Some(round) => format!("{}-r{round}", self.id.short()),
            None => self.id.short().to_owned(),
        }
    }

    fn of_round(&self, directory: &str) -> PathBuf {
        let directory = self.path.join(directory);
        match self.round {
            Some(round) => directory.join(format!("round-{round}")),
            None => directory,
        }
    }

    /// Where each case leaves its outcome of the round.
    #[must_use]
    pub fn outcomes(&self) -> PathBuf {
        self.of_round("outcomes")
    }

    /// Evidence of one case in the round.
    #[must_use]
    pub fn evidence(&self, case: &str) -> PathBuf {
        self.of_round("evidence").join(case)
    }

    /// What one case has to keep from others in the round; gone when the run has ended.
    #[must_use]
    pub fn private(&self, case: &str) -> PathBuf {
        self.of_round("private").join(case)
    }

    /// What nextest said in the round.
    #[must_use]
    pub fn nextest_log(&self) -> PathBuf {
        match self.round {
            Some(round) => self.path.join(format!("nextest-round-{round}.log")),
            None => self.path.join("nextest.log"),
        }
    }

    /// Reports of the run.
    #[must_use]
    pub fn report(&self) -> PathBuf {
        self.path.join("report")
    }

    /// What it is to run and on what, for another that goes on with it.
    #[must_use]
    pub fn plan(&self) -> PathBuf {
        self.path.join("plan.json")
    }

    /// The environment that its cases use.
    #[must_use]
    pub fn environment(&self) -> PathBuf {
        self.path.join("environment.json")
    }
}

/// Removes the directories of old runs of which nothing is left but paper.
///
/// # Errors
/// The state directory cannot be read.
pub fn prune(state: &Path) -> Result<usize> {
    let runs = RunDir::all(state)?;
    let old = runs.len().saturating_sub(KEPT_RUNS);
    let mut removed = 0;
    for run in &runs[..old] {
        let Some(_lock) = run.try_lock()? else { continue };
        if Journal::read(&run.journal_path())?.outstanding().is_empty()
            && std::fs::remove_dir_all(&run.path).is_ok()
        {
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_live_while_its_lock_is_held() {
        let state = tempfile::tempdir().unwrap();
        let (run, lock) = RunDir::create(state.path()).unwrap();
        assert!(run.try_lock().unwrap().is_none());
        drop(lock);
        assert_eq!(RunDir::all(state.path()).unwrap(), std::slice::from_ref(&run));
        assert_eq!(run.id.short().len(), 6);
    }

    #[test]
    fn rounds_share_nothing_but_the_run() {
        let state = tempfile::tempdir().unwrap();
        let (run, _lock) = RunDir::create(state.path()).unwrap();
        let rounds = [run.clone(), run.at_round(Some(1)), run.at_round(Some(11))];
        let all: [fn(&RunDir) -> PathBuf; 5] = [
            |run| run.outcomes(),
            |run| run.evidence("a.b"),
            |run| run.private("a.b"),
            |run| run.nextest_log(),
            |run| run.short().into(),
        ];
        for of in all {
            let mut places: Vec<_> = rounds.iter().map(of).collect();
            places.sort();
            places.dedup();
            assert_eq!(places.len(), rounds.len(), "{places:?}");
        }
        // The longest name of a namespace: a DNS label, and a label's value after "gpu.".
        let longest = format!("hodei-e2e-{}-{}", run.at_round(Some(1000)).short(), "x".repeat(36));
        assert!(longest.len() + "gpu.".len() <= 63, "{longest}");
        std::fs::create_dir_all(rounds[1].outcomes()).unwrap();
        std::fs::create_dir_all(rounds[2].outcomes()).unwrap();
        assert_eq!(run.last_round(), Some(11));
        let read: RunDir =
            serde_json::from_str(&serde_json::to_string(&rounds[2]).unwrap()).unwrap();
        assert_eq!(read, rounds[2]);
    }
}

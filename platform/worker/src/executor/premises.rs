//! What a worker that takes one job after another has to itself: directories and files that are emptied
//! between two jobs, so that the second finds nothing of the first.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::error::AgentError;

/// How long emptying the directories may take.
const CLEAN_TIMEOUT: Duration = Duration::from_secs(10);

/// The directories of one worker. A clone is the same premises.
#[derive(Debug, Clone)]
pub struct Premises {
    own: Arc<Option<Own>>,
    /// Held by the job that is in.
    door: Arc<Mutex<()>>,
    /// Why what a job left could not be removed.
    problem: Arc<OnceLock<String>>,
    leave: CancellationToken,
}

/// What may be emptied.
#[derive(Debug, Default)]
struct Own {
    /// Each directory with what was in it before the first job.
    directories: HashMap<PathBuf, HashSet<OsString>>,
    /// Files that cannot be removed, and can be written to.
    files: Vec<PathBuf>,
}

/// The right of one job to be in.
#[derive(Debug)]
pub(super) struct Stay(OwnedMutexGuard<()>);

impl Premises {
    /// Directories and files that are this worker's alone. What is in a directory now stays, and what is
    /// there later is a job's, as is all that is in a file. `leave` is cancelled when what a job left cannot
    /// be removed: the worker takes no further one.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn look(
        paths: impl IntoIterator<Item = PathBuf>,
        leave: CancellationToken,
    ) -> io::Result<Self> {
        let mut own = Own::default();
        for path in paths {
            if !path.is_file() {
                let names = names(&path)?;
                own.directories.insert(path, names);
            } else if fs::OpenOptions::new().append(true).open(&path).is_ok() {
                own.files.push(path);
            }
        }
        Ok(Self::new(Some(own), leave))
    }

    /// All places may be others', too: nothing is removed, and one job is all.
    #[must_use]
    pub fn shared(leave: CancellationToken) -> Self {
        Self::new(None, leave)
    }

    fn new(own: Option<Own>, leave: CancellationToken) -> Self {
        let (door, problem) = (Arc::default(), Arc::default());
        Self { own: Arc::new(own), door, problem, leave }
    }

    /// Whether what the jobs left was removed.
    ///
    /// # Errors
    /// When it could not be.
    pub fn check(&self) -> Result<(), AgentError> {
        match self.problem.get().cloned() {
            Some(problem) => Err(AgentError::Unclean { problem }),
            None => Ok(()),
        }
    }

    /// Waits for the job before to be gone; `None` when what it left could not be removed.
    pub(super) async fn enter(&self) -> Option<Stay> {
        let stay = Stay(self.door.clone().lock_owned().await);
        self.problem.get().is_none().then_some(stay)
    }

    /// Removes what the job has left; whether nothing of it is there any more.
    pub(super) async fn leave(&self, stay: Stay) -> bool {
        let own = self.own.clone();
        let cleaning = tokio::task::spawn_blocking(move || clean(own.as_ref().as_ref()));
        let problem = match timeout(CLEAN_TIMEOUT, cleaning).await {
            Ok(Ok(Ok(()))) => return true,
            Ok(Ok(Err(problem))) => problem,
            Ok(Err(panic)) => panic.to_string(),
            Err(_) => format!("not within {CLEAN_TIMEOUT:?}"),
        };
        tracing::error!(
            problem,
            "what the job left cannot be removed: this worker takes no further job"
        );
        self.problem.get_or_init(|| problem);
        drop(stay.0);
        self.leave.cancel();
        false
    }
}

fn clean(own: Option<&Own>) -> Result<(), String> {
    let own = own.ok_or(
        "the agent is not the first process of a container: its directories may be others'",
    )?;
    for file in &own.files {
        let emptied = fs::OpenOptions::new().write(true).truncate(true).open(file);
        emptied.map_err(|error| format!("{}: {error}", file.display()))?;
    }
    for (directory, kept) in &own.directories {
        let told = |error: io::Error| format!("{}: {error}", directory.display());
        for name in names(directory).map_err(told)?.difference(kept) {
            remove(&directory.join(name)).map_err(told)?;
        }
        if names(directory).map_err(told)?.difference(kept).next().is_some() {
            return Err(format!("{}: something still writes there", directory.display()));
        }
    }
    Ok(())
}

fn names(directory: &Path) -> io::Result<HashSet<OsString>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect()
}

/// Removes a file, or a directory with all that is in it. Symbolic links are not followed.
fn remove(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.is_dir() {
        return fs::remove_file(path);
    }
    match fs::remove_dir_all(path) {
        // As caches of some tools are: made read-only against accidents.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            unlock(path)?;
            fs::remove_dir_all(path)
        }
        result => result,
    }
}

/// Gives the owner every right on a directory and all below it.
fn unlock(directory: &Path) -> io::Result<()> {
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        fs::set_permissions(&next, fs::Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&next)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn premises(directory: &Path) -> (Premises, CancellationToken) {
        let leave = CancellationToken::new();
        (Premises::look([directory.to_owned()], leave.clone()).unwrap(), leave)
    }

    #[tokio::test]
    async fn what_came_is_removed_and_what_was_there_stays() {
        let (home, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (inside, victim) = (home.path(), outside.path().join("victim"));
        fs::create_dir(inside.join("volume")).unwrap();
        fs::write(&victim, "").unwrap();
        let (premises, leave) = premises(inside);
        let stay = premises.enter().await.unwrap();
        fs::write(inside.join("volume/kept"), "").unwrap();
        fs::write(inside.join(".hidden"), "").unwrap();
        fs::create_dir_all(inside.join("cache/deep")).unwrap();
        fs::write(inside.join("cache/deep/file"), "").unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.join("cache/link")).unwrap();
        for locked in ["cache/deep", "cache"] {
            fs::set_permissions(inside.join(locked), fs::Permissions::from_mode(0o555)).unwrap();
        }
        assert!(premises.leave(stay).await);
        assert_eq!(names(inside).unwrap(), HashSet::from(["volume".into()]));
        assert!(inside.join("volume/kept").exists() && victim.exists());
        assert!(!leave.is_cancelled() && premises.enter().await.is_some());
    }

    #[tokio::test]
    async fn what_was_written_to_a_file_is_removed_and_the_file_stays() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("termination-log");
        fs::write(&file, "").unwrap();
        let premises = Premises::look([file.clone()], CancellationToken::new()).unwrap();
        let stay = premises.enter().await.unwrap();
        fs::write(&file, "left").unwrap();
        assert!(premises.leave(stay).await);
        assert_eq!(fs::read(&file).unwrap(), b"");
    }

    #[test]
    fn locked_directories_are_unlocked() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::set_permissions(&deep, fs::Permissions::from_mode(0o000)).unwrap();
        unlock(&home.path().join("a")).unwrap();
        assert_eq!(fs::metadata(&deep).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[tokio::test]
    async fn after_a_failure_nobody_gets_in() {
        let home = tempfile::tempdir().unwrap();
        let own = home.path().join("own");
        fs::create_dir(&own).unwrap();
        let (premises, leave) = premises(&own);
        let stay = premises.enter().await.unwrap();
        fs::remove_dir(&own).unwrap();
        fs::write(&own, "no directory").unwrap();
        assert!(!premises.leave(stay).await);
        assert!(leave.is_cancelled() && premises.enter().await.is_none());
        assert!(premises.check().unwrap_err().to_string().contains("own"));
    }
}

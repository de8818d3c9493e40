//! One bootstrap at a time: a lock that the kernel lets go of when its holder ends, however it
//! ends.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use crate::failure::{Classify, Result};
use crate::paths::Paths;
use crate::progress::{Progress, Stage};
use crate::wait::{Observed, Wait};

/// A cold bootstrap of somebody else may have to end first.
const DEADLINE: Duration = Duration::from_secs(3600);

/// Held as long as this value lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock of this state directory.
    ///
    /// # Errors
    /// It cannot be opened, is held past the deadline, or a signal came.
    pub async fn acquire(paths: &Paths, progress: &Progress, stage: &Stage) -> Result<Self> {
        Self::acquire_file(&paths.state().join("bootstrap.lock"), progress, stage).await
    }

    /// Waits for the lock that a file is.
    ///
    /// # Errors
    /// As for [`Self::acquire`].
    pub async fn acquire_file(path: &Path, progress: &Progress, stage: &Stage) -> Result<Self> {
        let wait =
            Wait::infrastructure("the other hodei-e2e on this state directory to end", DEADLINE);
        let mut said = false;
        let held = || {
            if !said {
                progress.say("another hodei-e2e is at work: waiting for it");
                said = true;
            }
        };
        Self::acquire_within(path, &wait, held, stage).await
    }

    /// Waits for the lock that a file is as `wait` says; calls `held` whenever another holds it.
    ///
    /// # Errors
    /// As for [`Self::acquire`].
    pub(crate) async fn acquire_within(
        path: &Path,
        wait: &Wait,
        mut held: impl FnMut(),
        stage: &Stage,
    ) -> Result<Self> {
        let mut file = Some(
            File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(path)
                .infrastructure("open", path.display().to_string())?,
        );
        wait.until(stage, async || {
            let outcome = file.as_ref().map(File::try_lock);
            match outcome {
                Some(Err(TryLockError::WouldBlock)) => {
                    held();
                    Ok(Observed::NotYet("it holds the lock".into()))
                }
                Some(Err(TryLockError::Error(error))) => {
                    Err(error).infrastructure("lock", path.display().to_string())
                }
                Some(Ok(())) | None => Ok(match file.take() {
                    Some(file) => Observed::Ready(Self { _file: file }),
                    None => Observed::NotYet("the lock was taken twice".into()),
                }),
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_holder_waits_for_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_path_buf();
        let paths = Paths::new(path.clone(), path.clone(), path);
        let progress = Progress::silent();
        let stage = progress.unlisted();
        let first = Lock::acquire(&paths, &progress, &stage).await.unwrap();
        let second = Lock::acquire(&paths, &progress, &stage);
        let blocked = tokio::time::timeout(Duration::from_millis(50), second).await;
        assert!(blocked.is_err(), "two held it at once");
        drop(first);
        Lock::acquire(&paths, &progress, &stage).await.unwrap();
    }
}

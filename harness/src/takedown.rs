//! What `down` and `pristine` have in common: the stack goes, and what runs left, and the word of an
//! environment that cases could use.

use crate::environment::Environment;
use crate::failure::Result;
use crate::paths::{Paths, remove_file};
use crate::progress::Progress;
use crate::reap::{Kept, RunReaped, reap};
use crate::run_dir::RunDir;
use crate::stack;

/// Takes down the stack and what runs left. Runs that still go on are not touched.
///
/// # Errors
/// Something could not be removed; it stays in its journal.
pub async fn stack_and_runs(paths: &Paths, progress: &Progress) -> Result<()> {
    progress.stage("stack", async |stage| stack::stop_stack(paths, &stage).await).await?;
    progress
        .stage("runs", async |stage| {
            let mut live = 0;
            for run in RunDir::all(paths.state())? {
                let reaped = reap(&run, Kept::Remove, false).await?;
                live += usize::from(matches!(reaped, RunReaped::Live));
            }
            if live > 0 {
                stage.note(format!("{live} still going on, not touched"));
            }
            Ok(())
        })
        .await?;
    remove_file(&Environment::standing_path(paths.state()))
}

//! The platform's own programs, compiled from the checkout.

use std::path::Path;
use std::time::Duration;

use crate::environment::Programs;
use crate::failure::{Classify, FailureClass, Result};
use crate::journal::EntryId;
use crate::lineage::MARK_ENV;
use crate::process::Command;
use crate::progress::Stage;
use crate::tools::executable_from_cargo;

/// Compiling everything, cold, on two cores.
pub(super) const BUILD_DEADLINE: Duration = Duration::from_secs(2400);

/// How the programs are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Soon there, with the assertions of debug builds: for cases.
    Debug,
    /// As they are delivered: for benchmarks and hands-on use.
    Release,
}

impl Profile {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Debug => &[],
            Self::Release => &["--release"],
        }
    }
}

/// Compiles server and CLI of the checkout `workspace`. `mark` is the entry of a run's journal that the
/// compiler carries, so that it does not outlive a killed run unknown.
///
/// # Errors
/// Something does not compile: class product, since it is the checkout's own.
pub async fn compile_programs(
    workspace: &Path,
    profile: Profile,
    mark: Option<EntryId>,
    log: &Path,
    stage: &Stage,
) -> Result<Programs> {
    stage.line("cargo build");
    let cargo = Command::cargo("cargo")
        .args(["build", "-p", "hodei-server", "-p", "hodei", "--message-format=json"])
        .args(profile.flags())
        .directory(workspace)
        .deadline(BUILD_DEADLINE)
        .log_to(log);
    let output = marked(cargo, mark).run(stage).await;
    let output = output.classify(FailureClass::Product, "compile", "server and CLI")?;
    Ok(Programs {
        server: executable_from_cargo(&output.stdout, "hodei-server")?,
        cli: executable_from_cargo(&output.stdout, "hodei")?,
    })
}

/// A command that carries the entry.
pub(super) fn marked(command: Command, mark: Option<EntryId>) -> Command {
    match mark {
        Some(mark) => command.env(MARK_ENV, mark.to_string()),
        None => command,
    }
}

//! The right to change the machine: root, or sudo without a password.

use crate::failure::{FailureClass, HarnessError, Result};
use crate::process::Command;
use crate::progress::Stage;

/// How commands that need root are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// This process is root.
    Root,
    /// `sudo -n` works.
    Sudo,
    /// Neither.
    None,
}

impl Privilege {
    /// Finds out.
    pub async fn detect(stage: &Stage) -> Self {
        if nix::unistd::geteuid().is_root() {
            Self::Root
        } else if Command::new("sudo").args(["-n", "true"]).run(stage).await.is_ok() {
            Self::Sudo
        } else {
            Self::None
        }
    }

    /// A command that runs as root.
    ///
    /// # Errors
    /// There is no right to, which the error explains.
    pub fn command(self, program: &str) -> Result<Command> {
        match self {
            Self::Root => Ok(Command::new(program)),
            Self::Sudo => Ok(Command::new("sudo").args(["-n", program])),
            Self::None => Err(HarnessError::new(
                FailureClass::Infrastructure,
                "run",
                format!("{program} as root"),
                "this user is not root and sudo asks for a password or is absent",
            )
            .with_help("run as root, or let this user sudo without a password")),
        }
    }
}

//! The context file by which `hodei` finds the stack. One that a person wrote is never touched.

use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;

use super::StackAddress;
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::paths::write_atomically;

/// The first line of a file that is ours.
const MARK: &str = "# Written by hodei-e2e; `hodei-e2e down` removes it.";

/// Where `hodei` looks.
pub(super) fn path() -> Result<PathBuf> {
    let strategy = etcetera::choose_base_strategy().infrastructure("find", "a home directory")?;
    Ok(strategy.config_dir().join("hodei/context.toml"))
}

/// Refuses a file that is a person's own.
pub(super) fn check(path: &Path) -> Result<()> {
    match std::fs::read_to_string(path) {
        Ok(text) if !text.starts_with(MARK) => {
            let cause = "it is your own";
            let subject = format!("the context {}", path.display());
            Err(HarnessError::new(FailureClass::Infrastructure, "write", subject, cause).with_help(
                "move it away while the stack is up, or set XDG_CONFIG_HOME to another directory",
            ))
        }
        _ => Ok(()),
    }
}

/// Writes the context.
pub(super) fn write(address: &StackAddress) -> Result<()> {
    check(&address.context)?;
    let text = format!("{MARK}\ngrpc = \"{}\"\nrest = \"{}\"\n", address.grpc, address.rest);
    write_atomically(&address.context, text.as_bytes(), 0o600)
}

/// Removes the context if it is ours.
pub(super) fn remove(path: &Path) -> Result<()> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.starts_with(MARK) => {
            std::fs::remove_file(path).infrastructure("remove", path.display().to_string())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ones_own_context_is_never_touched() {
        let dir = tempfile::tempdir().unwrap();
        let context = dir.path().join("hodei/context.toml");
        let address = StackAddress {
            grpc: "http://g".into(),
            rest: "http://r".into(),
            context: context.clone(),
        };
        write(&address).unwrap();
        write(&address).unwrap();
        assert!(std::fs::read_to_string(&context).unwrap().contains("rest = \"http://r\""));
        remove(&context).unwrap();
        assert!(!context.exists());
        std::fs::write(&context, "grpc = \"https://mine\"\n").unwrap();
        assert!(write(&address).unwrap_err().help.is_some());
        remove(&context).unwrap();
        assert!(context.exists());
    }
}

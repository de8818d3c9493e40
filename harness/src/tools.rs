//! The programs that the harness drives: kind and cargo-nextest. A user's own is used when its
//! version will do; else the pinned one is installed into this tool's cache.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::component::Go;
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::paths::Paths;
use crate::process::Command;
use crate::progress::Stage;
use crate::versions::Versions;

/// Compiling nextest on two cores takes minutes.
const INSTALL_DEADLINE: Duration = Duration::from_secs(1800);

/// Where the tools are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tools {
    /// `kind`.
    pub kind: PathBuf,
    /// `cargo-nextest`, to be run as `cargo-nextest nextest …`.
    pub nextest: PathBuf,
}

/// A tool that was found, and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// What it says it is.
    pub version: String,
    /// Whether that version will do.
    pub usable: bool,
}

/// Looks for kind: this tool's own first, then in PATH.
pub async fn find_kind(paths: &Paths, versions: &Versions, stage: &Stage) -> Option<Found> {
    let own = paths.tools_bin().join("kind");
    for path in candidates(own, "kind") {
        let Ok(output) = Command::new(&path).arg("version").run(stage).await else { continue };
        let version = output.stdout.split_whitespace().nth(1).unwrap_or_default().to_owned();
        let usable = version == versions.kind;
        if usable {
            return Some(Found { path, version, usable });
        }
    }
    None
}

/// Looks for cargo-nextest: this tool's own first, then in PATH.
pub async fn find_nextest(paths: &Paths, versions: &Versions, stage: &Stage) -> Option<Found> {
    let own = paths.tools_bin().join("cargo-nextest");
    for path in candidates(own, "cargo-nextest") {
        let probe = Command::new(&path).args(["nextest", "--version"]);
        let Ok(output) = probe.run(stage).await else { continue };
        let version = output.stdout.split_whitespace().nth(1).unwrap_or_default().to_owned();
        let usable = at_least(&version, &versions.nextest);
        if usable {
            return Some(Found { path, version, usable });
        }
    }
    None
}

/// kind, installed if it is not there.
///
/// # Errors
/// No Go toolchain, or the module cannot be had.
pub async fn ensure_kind(
    paths: &Paths,
    versions: &Versions,
    go: &Go,
    stage: &Stage,
) -> Result<PathBuf> {
    if let Some(found) = find_kind(paths, versions, stage).await {
        return Ok(found.path);
    }
    stage.line("go install kind");
    let install = go
        .command(paths)
        .env("GOBIN", paths.tools_bin())
        .args(["install", "-trimpath", "-ldflags", "-s -w"])
        .arg(format!("sigs.k8s.io/kind@{}", versions.kind))
        .directory(paths.state());
    install.run(stage).await.infrastructure("install", format!("kind {}", versions.kind))?;
    Ok(paths.tools_bin().join("kind"))
}

/// cargo-nextest, installed if it is not there.
///
/// # Errors
/// The crate cannot be had or compiled.
pub async fn ensure_nextest(paths: &Paths, versions: &Versions, stage: &Stage) -> Result<PathBuf> {
    if let Some(found) = find_nextest(paths, versions, stage).await {
        return Ok(found.path);
    }
    stage.line("cargo install cargo-nextest");
    let root = paths.cache().join("tools");
    let install = Command::cargo("cargo")
        .args(["install", "cargo-nextest", "--locked", "--debug", "--version", &versions.nextest])
        .arg("--root")
        .arg(&root)
        // Optimisation would double the minutes of a tool that waits for tests.
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_TARGET_DIR", root.join("target"))
        .directory(paths.state())
        .deadline(INSTALL_DEADLINE)
        .log_to(paths.log("nextest"));
    let subject = format!("cargo-nextest {}", versions.nextest);
    install.run(stage).await.infrastructure("install", subject)?;
    drop(std::fs::remove_dir_all(root.join("target")));
    Ok(paths.tools_bin().join("cargo-nextest"))
}

/// The executable called `name` in what `cargo build --message-format=json` wrote.
///
/// # Errors
/// Cargo named none.
pub fn executable_from_cargo(messages: &str, name: &str) -> Result<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| {
            let cause = "cargo reported no executable";
            HarnessError::new(FailureClass::Harness, "find", name, cause)
        })
}

fn candidates(own: PathBuf, name: &str) -> Vec<PathBuf> {
    let own = Some(own).filter(|path: &PathBuf| Path::exists(path));
    own.into_iter().chain(which::which(name)).collect()
}

/// Whether a dotted version is not older than another.
fn at_least(have: &str, want: &str) -> bool {
    let parts = |text: &str| -> Vec<u64> {
        text.split('.').map(|part| part.parse().unwrap_or(0)).collect()
    };
    parts(have) >= parts(want)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        for (have, want, yes) in
            [("0.9.151", "0.9.99", true), ("0.9.99", "0.9.151", false), ("", "0.1.0", false)]
        {
            assert_eq!(at_least(have, want), yes, "{have} {want}");
        }
    }

    #[test]
    fn the_executable_is_found_among_other_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"a\"},\"executable\":\"/t/a\"}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"b\"},\"executable\":null}\nnoise";
        assert_eq!(executable_from_cargo(messages, "a").unwrap(), Path::new("/t/a"));
        assert!(executable_from_cargo(messages, "b").is_err());
    }
}

//! Debian packages: which are missing, what else they bring, and their installation, recorded
//! before it begins so that exactly these can be purged again.

use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::engine::Consent;
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::paths::Paths;
use crate::privilege::Privilege;
use crate::process::Command;
use crate::progress::{Progress, Stage};
use crate::record::{Action, Record};

/// Downloads over a slow line are part of this.
const APT_DEADLINE: Duration = Duration::from_secs(900);
/// Package lists older than this are fetched anew: mirrors drop what they name.
const LISTS_MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// What the engine's packages make that purging them leaves behind.
const ENGINE_TREES: [&str; 4] =
    ["/var/lib/docker", "/var/lib/containerd", "/etc/docker", "/etc/containerd"];

/// Installs Debian's engine if `dockerd` is not there. Returns whether it did.
///
/// # Errors
/// No right to, no consent, no apt, or apt failed.
pub async fn ensure(
    paths: &Paths,
    record: &mut Record,
    privilege: Privilege,
    consent: Consent,
    progress: &Progress,
    stage: &Stage,
) -> Result<bool> {
    if which::which("dockerd").is_ok() || Path::new("/usr/sbin/dockerd").exists() {
        return Ok(false);
    }
    let no_engine = |cause: &str| {
        HarnessError::new(
            FailureClass::Infrastructure,
            "find",
            "a container engine",
            cause.to_owned(),
        )
        .with_help("install and start Docker (or set DOCKER_HOST to one that runs), then try again")
    };
    if privilege == Privilege::None {
        return Err(no_engine(
            "none answers, and this user has no right to install one (not root, no sudo without password)",
        ));
    }
    if which::which("apt-get").is_err() {
        return Err(no_engine("none answers, and there is no apt-get to install one with"));
    }
    consent.obtain(
        "No container engine answers: install docker.io from the distribution's packages?",
        progress,
    )?;
    for tree in ENGINE_TREES.iter().filter(|tree| !Path::new(tree).exists()) {
        record.begin(Action::Tree { path: tree.into(), root: true })?;
    }
    packages(paths, record, privilege, &["docker.io", "iptables"], stage).await?;
    Ok(true)
}

/// Installs those of `wanted` that are missing, with their dependencies.
///
/// # Errors
/// apt failed; the error has its last lines.
pub async fn packages(
    paths: &Paths,
    record: &mut Record,
    privilege: Privilege,
    wanted: &[&str],
    stage: &Stage,
) -> Result<()> {
    let log = paths.log("apt");
    let subject = wanted.join(", ");
    if lists_are_stale() {
        stage.line("apt-get update");
        let update = privilege.command("apt-get")?.args(["update"]).deadline(APT_DEADLINE);
        update.log_to(&log).run(stage).await.infrastructure("refresh", "the package lists")?;
    }
    let options = ["install", "--yes", "--no-install-recommends"];
    let simulation = Command::new("apt-get").args(options).arg("--simulate").args(wanted);
    let simulated =
        simulation.run(stage).await.infrastructure("plan the installation of", &subject)?;
    let names = newly_installed(&simulated.stdout);
    if names.is_empty() {
        return Ok(());
    }
    stage.line(&format!("installing {}", names.join(" ")));
    let action = Action::AptPackages { names };
    record.begin(action.clone())?;
    // A set environment of sudo is dropped, so the setting goes through env(1).
    let install = privilege
        .command("env")?
        .args(["DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_MODE=l", "apt-get"])
        .args(options)
        .args(wanted)
        .deadline(APT_DEADLINE)
        .log_to(&log);
    install.run(stage).await.infrastructure("install", &subject).map_err(|error| {
        error.with_help("`apt-get --fix-broken install` may be needed; `hodei-e2e pristine` takes back what was begun")
    })?;
    record.finish(&action, action.clone())
}

/// The packages that a simulated installation adds; upgrades of what is there are not.
fn newly_installed(simulation: &str) -> Vec<String> {
    let mut names: Vec<String> = simulation
        .lines()
        .filter_map(|line| line.strip_prefix("Inst "))
        // "Inst name [old] (new …)" is an upgrade.
        .filter(|rest| !rest.split('(').next().unwrap_or_default().contains('['))
        .filter_map(|rest| rest.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

fn lists_are_stale() -> bool {
    let Ok(entries) = std::fs::read_dir("/var/lib/apt/lists") else { return true };
    let newest = entries
        .filter_map(std::result::Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().contains("Packages"))
        .filter_map(|entry| entry.metadata().ok())
        .filter_map(|metadata| metadata.modified().ok())
        .max();
    // A list keeps the mirror's time stamp; the directory has that of the last update.
    let updated = std::fs::metadata("/var/lib/apt/lists").and_then(|meta| meta.modified()).ok();
    let age = |time: SystemTime| SystemTime::now().duration_since(time).unwrap_or_default();
    newest.is_none() || updated.is_none_or(|time| age(time) > LISTS_MAX_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_absent_is_recorded() {
        let simulation = "Reading package lists...\n\
            Inst runc (1.1.5 Debian:12 [amd64])\n\
            Inst libc6 [2.36-9] (2.36-9+deb12u14 Debian:12 [amd64])\n\
            Inst docker.io (20.10 Debian:12 [amd64])\n\
            Conf runc (1.1.5 Debian:12 [amd64])\n";
        assert_eq!(newly_installed(simulation), ["docker.io", "runc"]);
    }
}

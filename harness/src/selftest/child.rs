//! The sabotaged harness: built in the scratch tree, and run as a child, so that what it proves is
//! what a person who runs it would see. It handles signals itself; this only passes them on.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::bootstrap::BootstrapOptions;
use crate::engine::Consent;
use crate::failure::{Classify, EXIT_TERMINATED, FailureClass, HarnessError, Result};
use crate::paths::{CACHE_DIR_ENV, Paths, STATE_DIR_ENV, WORKSPACE_ENV};
use crate::process::{Command, cargo_run_variables};
use crate::progress::{Progress, Stage};
use crate::server_process::dying_with_parent;
use crate::tools::executable_from_cargo;

/// Compiling the harness, cold, on two cores.
const BUILD_DEADLINE: Duration = Duration::from_secs(2400);
/// A cold build of all that is tested, and every core case at the end of its own deadline.
const RUN_DEADLINE: Duration = Duration::from_secs(3 * 3600);
/// A run that was told to end: its cases have ten seconds, its namespaces two minutes.
const END_DEADLINE: Duration = Duration::from_secs(300);
/// Where Cargo builds.
const TARGET_ENV: &str = "CARGO_TARGET_DIR";

/// A scratch tree, with a target directory that nothing else uses.
#[derive(Debug)]
pub(super) struct Scratch {
    /// The sources.
    pub(super) tree: PathBuf,
    /// What is built of them.
    pub(super) target: PathBuf,
}

impl Scratch {
    /// Builds the harness of the tree; returns its program.
    ///
    /// # Errors
    /// It does not compile.
    pub(super) async fn build(&self, log: PathBuf, stage: &Stage) -> Result<PathBuf> {
        stage.line("cargo build");
        let cargo = Command::cargo("cargo")
            .args(["build", "-p", "hodei-harness", "--bin", "hodei-e2e"])
            .arg("--message-format=json-render-diagnostics")
            .directory(&self.tree)
            .env(TARGET_ENV, &self.target)
            .deadline(BUILD_DEADLINE)
            .log_to(log);
        let output = cargo.run(stage).await;
        let output = output.classify(FailureClass::Harness, "compile", "the sabotaged harness");
        let output = output.map_err(|error| {
            error
                .with_help("what a saboteur puts into the source has to compile, beside all others")
        })?;
        executable_from_cargo(&output.stdout, "hodei-e2e")
    }

    /// Runs the program that [`Self::build`] made; what it says is shown, and is in `log`. A signal
    /// to this process is passed on, and the end of the child awaited.
    ///
    /// # Errors
    /// It cannot be started, or does not end in time.
    pub(super) async fn run(
        &self,
        program: &Path,
        arguments: &[OsString],
        paths: &Paths,
        log: &Path,
        progress: &Progress,
        stage: &Stage,
    ) -> Result<ExitStatus> {
        let subject = "the sabotaged harness";
        let output = File::create(log).infrastructure("write", log.display().to_string())?;
        let copy = output.try_clone().infrastructure("write", log.display().to_string())?;
        let mut command = dying_with_parent(program);
        for name in cargo_run_variables() {
            command.env_remove(name);
        }
        command.args(arguments).current_dir(&self.tree);
        command.env(WORKSPACE_ENV, &self.tree).env(TARGET_ENV, &self.target);
        command.env(STATE_DIR_ENV, paths.state()).env(CACHE_DIR_ENV, paths.cache());
        // A group of its own: a signal from the terminal comes to it once, from here.
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(output).stderr(Stdio::piped());
        let mut child = command.spawn().classify(FailureClass::Harness, "start", subject)?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        let shown = show(child.stderr.take(), copy, progress, stage);
        let ended = async {
            let (status, ()) = tokio::join!(child.wait(), shown);
            status
        };
        tokio::pin!(ended);
        let (word, signal) = tokio::select! {
            status = &mut ended => {
                return status.classify(FailureClass::Harness, "await", subject);
            }
            () = tokio::time::sleep(RUN_DEADLINE) => ("it takes too long: ", Signal::SIGTERM),
            () = stage.cancelled() => ("", signal(progress)),
        };
        progress.say(&format!("{word}ending the sabotaged run"));
        if let Some(pid) = pid {
            kill(pid, signal).classify(FailureClass::Harness, "end", subject)?;
        }
        let status = tokio::time::timeout(END_DEADLINE, &mut ended).await.map_err(|_| {
            // kill_on_drop ends it; what it made is in its journal.
            let cause = format!("still there {} s after {signal}", END_DEADLINE.as_secs());
            HarnessError::new(FailureClass::Harness, "end", subject, cause)
        })?;
        status.classify(FailureClass::Harness, "await", subject)
    }
}

/// The signal that this process was sent.
fn signal(progress: &Progress) -> Signal {
    if progress.interrupted() == Some(EXIT_TERMINATED) { Signal::SIGTERM } else { Signal::SIGINT }
}

/// The flags of a run that bring its cluster up as `options` say.
pub(super) fn bootstrap_arguments(options: &BootstrapOptions) -> Vec<OsString> {
    use clap::ValueEnum;
    let mut words: Vec<OsString> =
        vec!["--cluster-name".into(), options.cluster_name.clone().into()];
    if let Some(source) = options.node_image_source.to_possible_value() {
        words.extend(["--node-image-source".into(), source.get_name().into()]);
    }
    if let Some(nodes) = options.nodes {
        words.extend(["--nodes".into(), nodes.to_string().into()]);
    }
    if let Some(features) = options.network.and_then(|network| network.to_possible_value()) {
        words.extend(["--features".into(), features.get_name().into()]);
    }
    if let Some(kubernetes) = &options.kubernetes {
        words.extend(["--kubernetes".into(), kubernetes.word().into()]);
    }
    if options.consent == Consent::Given {
        words.push("--yes".into());
    }
    words
}

async fn show(
    stderr: Option<tokio::process::ChildStderr>,
    mut log: File,
    progress: &Progress,
    stage: &Stage,
) {
    let Some(stderr) = stderr else { return };
    let mut lines = BufReader::new(stderr).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line);
        drop(std::io::Write::write_all(&mut log, format!("{line}\n").as_bytes()));
        stage.line(&line);
        progress.say(&format!("  {}", line.trim_end()));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::node_image::PodNetwork;

    /// A harness that says when it runs, and ends as its script says. A shell cannot trap a signal that
    /// was ignored when it began, as SIGINT is in what another shell runs in the background.
    fn harness(script: &str) -> (tempfile::TempDir, Scratch, PathBuf, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("hodei-e2e");
        std::fs::write(&program, format!("#!/usr/bin/env -S --default-signal sh\n{script}\n"))
            .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let scratch = Scratch { tree: dir.path().into(), target: dir.path().join("target") };
        let paths = Paths::new("/s".into(), "/c".into(), "/w".into());
        (dir, scratch, program, paths)
    }

    #[tokio::test]
    async fn it_runs_in_the_tree_with_the_state_of_this_harness() {
        let script = format!(
            "echo \"$1 ${WORKSPACE_ENV} ${TARGET_ENV} ${STATE_DIR_ENV} ${CACHE_DIR_ENV}\"; pwd; exit 7"
        );
        let (dir, scratch, program, paths) = harness(&script);
        let progress = Progress::silent();
        let (log, stage) = (dir.path().join("log"), progress.unlisted());
        let words = ["run".into()];
        let ran = scratch.run(&program, &words, &paths, &log, &progress, &stage).await;
        assert_eq!(ran.unwrap().code(), Some(7));
        let tree = dir.path().display();
        let expected = format!("run {tree} {tree}/target /s /c\n{tree}\n");
        assert_eq!(std::fs::read_to_string(&log).unwrap(), expected);
    }

    #[tokio::test]
    async fn a_signal_is_passed_on_and_the_end_awaited() {
        for (code, name) in [(EXIT_TERMINATED, "TERM"), (crate::failure::EXIT_INTERRUPTED, "INT")] {
            let script = format!(
                "trap 'echo cleaned up; exit 9' {name}; echo ready >&2; while :; do sleep 0.05; done"
            );
            let (dir, scratch, program, paths) = harness(&script);
            let (progress, log) = (Progress::silent(), dir.path().join("log"));
            let stage = progress.unlisted();
            let ran = scratch.run(&program, &[], &paths, &log, &progress, &stage);
            let interrupt = async {
                let wait = crate::wait::Wait::infrastructure("the child", Duration::from_secs(20));
                let ready = async || {
                    let text = std::fs::read_to_string(&log).unwrap_or_default();
                    Ok(match text.contains("ready") {
                        true => crate::wait::Observed::Ready(()),
                        false => crate::wait::Observed::NotYet(text),
                    })
                };
                wait.until(&Progress::silent().unlisted(), ready).await.unwrap();
                progress.interrupt(code);
            };
            let (ended, ()) = tokio::join!(ran, interrupt);
            assert_eq!(ended.unwrap().code(), Some(9), "{name}");
            assert!(std::fs::read_to_string(&log).unwrap().contains("cleaned up"), "{name}");
        }
    }

    #[test]
    fn the_cluster_that_is_meant_is_named_to_the_child() {
        let options = BootstrapOptions {
            consent: Consent::Given,
            cluster_name: "mine".into(),
            network: Some(PodNetwork::Policy),
            kubernetes: Some("1.33".parse().unwrap()),
            nodes: Some(2),
            ..BootstrapOptions::default()
        };
        let words = bootstrap_arguments(&options);
        let expected = ["--cluster-name", "mine", "--node-image-source", "auto", "--nodes", "2"];
        assert_eq!(words[..6], expected);
        let own = ["--features", "network-policy", "--kubernetes", "1.33", "--yes"];
        assert_eq!(words[6..], own);
        let asking = BootstrapOptions {
            consent: Consent::Ask,
            network: None,
            kubernetes: None,
            nodes: None,
            ..options
        };
        assert_eq!(bootstrap_arguments(&asking), expected[..4]);
    }
}

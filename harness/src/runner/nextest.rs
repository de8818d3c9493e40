//! nextest, driven: the suites are compiled and their cases run, each in a process of its own.
//!
//! Its result is not read here: each case writes its own outcome, and one that did not is found
//! missing by `verdict`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::programs::{BUILD_DEADLINE, Profile, compile_programs, marked};
use crate::catalogue::Case;
use crate::environment::{ENVIRONMENT_ENV, Programs};
use crate::failure::{Classify, FailureClass, Result};
use crate::journal::EntryId;
use crate::lineage::MARK_ENV;
use crate::process::{Command, cargo_run_variables};
use crate::progress::{Progress, Stage};
use crate::server_process::dying_with_parent;

/// Between the request to end and the kill: nextest gives its tests ten seconds of this.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// The package and the test binary of the cases.
const TARGET: [&str; 4] = ["-p", "hodei-suites", "--test", "e2e_kubernetes_provider"];

/// nextest in one checkout.
#[derive(Debug, Clone)]
pub struct Nextest {
    /// `cargo-nextest`.
    pub program: PathBuf,
    /// The checkout.
    pub workspace: PathBuf,
    /// The entry of a run's journal that all it starts carries, so that neither a compiler nor a
    /// case that has just begun outlives a killed run unknown.
    pub mark: Option<EntryId>,
}

impl Nextest {
    /// Compiles the server, the CLI and the cases; returns the programs.
    ///
    /// # Errors
    /// As for [`compile_programs`].
    pub async fn build(&self, log: &Path, stage: &Stage) -> Result<Programs> {
        let programs =
            compile_programs(&self.workspace, Profile::Debug, self.mark, log, stage).await?;
        stage.line("cargo nextest run --no-run");
        let cases = Command::cargo(&self.program)
            .args(["nextest", "run", "--no-run"])
            .args(TARGET)
            .directory(&self.workspace)
            .deadline(BUILD_DEADLINE)
            .log_to(log);
        let compiled = marked(cases, self.mark).run(stage).await;
        compiled.classify(FailureClass::Product, "compile", "the cases")?;
        Ok(programs)
    }

    /// Runs cases; each line of nextest's about a case is shown. Whether all passed is not said:
    /// their outcomes do.
    ///
    /// # Errors
    /// nextest cannot be started.
    pub async fn run(
        &self,
        cases: &[&Case],
        environment: &Path,
        options: &RunOptions,
        progress: &Progress,
        stage: &Stage,
    ) -> Result<()> {
        let mut command = dying_with_parent(&self.program);
        for name in cargo_run_variables() {
            command.env_remove(name);
        }
        command.args(["nextest", "run", "--run-ignored", "all", "--profile", "e2e"]).args(TARGET);
        command.args(["--no-tests", "fail", "--status-level", "all", "--color", "never"]);
        command.args(["-E", &filter(cases)]);
        if options.fail_fast {
            command.arg("--fail-fast");
        }
        if let Some(threads) = options.threads {
            command.args(["--test-threads", &threads.to_string()]);
        }
        command.current_dir(&self.workspace).stdin(Stdio::null()).stdout(Stdio::null());
        command.env(ENVIRONMENT_ENV, environment).env("HODEI_E2E_K8S", "1");
        if let Some(mark) = self.mark {
            command.env(MARK_ENV, mark.to_string());
        }
        command.stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut child = command.spawn().classify(FailureClass::Harness, "start", "nextest")?;
        let group = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        let stderr = child.stderr.take();
        let shown = show(stderr, &options.log, progress, stage);
        let ended = async {
            let (status, ()) = tokio::join!(child.wait(), shown);
            status
        };
        tokio::pin!(ended);
        let status = tokio::select! {
            status = &mut ended => status,
            () = stage.cancelled() => {
                progress.say("ending the cases");
                if let Some(group) = group {
                    // nextest passes it on to the cases and waits for them.
                    kill(group, Signal::SIGTERM).classify(FailureClass::Harness, "end", "nextest")?;
                }
                match tokio::time::timeout(STOP_DEADLINE, &mut ended).await {
                    Ok(status) => status,
                    // kill_on_drop and the cases' own death signal do the rest.
                    Err(_) => return Ok(()),
                }
            }
        };
        stage.note(status.classify(FailureClass::Harness, "await", "nextest")?.to_string());
        Ok(())
    }
}

/// How cases are run.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Stop at the first failure.
    pub fail_fast: bool,
    /// Cases at a time; nextest's profile decides otherwise.
    pub threads: Option<usize>,
    /// Where nextest's own output goes.
    pub log: PathBuf,
}

async fn show(
    stderr: Option<tokio::process::ChildStderr>,
    log: &Path,
    progress: &Progress,
    stage: &Stage,
) {
    let Some(stderr) = stderr else { return };
    let mut lines = BufReader::new(stderr).lines();
    let mut file = std::fs::File::create(log).ok();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(file) = &mut file {
            drop(std::io::Write::write_all(file, format!("{line}\n").as_bytes()));
        }
        let word = line.split_whitespace().next().unwrap_or_default();
        if matches!(word, "PASS" | "FAIL" | "SIGKILL" | "TIMEOUT" | "TERMINATING" | "SLOW" | "TRY")
        {
            progress.say(line.trim_end());
        } else {
            stage.line(&line);
        }
    }
}

/// nextest's filter expression for exactly these cases.
fn filter(cases: &[&Case]) -> String {
    cases.iter().map(|case| format!("test(={})", case.test)).collect::<Vec<_>>().join(" or ")
}

//! The container engine: the one that answers, or Debian's, installed and started.
//!
//! An engine that runs already is used as it is and never reconfigured. The engine is spoken
//! to through its command line client, so contexts and `DOCKER_HOST` mean what they always do.

pub mod daemon;
pub mod install;
pub mod oci;

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::paths::Paths;
use crate::privilege::Privilege;
use crate::process::{Command, ProcessError};
use crate::progress::{Progress, Stage};
use crate::record::Record;

/// A build or an import may take this long on a slow disk.
const BUILD_DEADLINE: Duration = Duration::from_secs(900);

/// An engine that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// The server's version.
    pub version: String,
    /// Where it keeps images and containers, as it says.
    pub data_root: String,
    /// The default OCI runtime.
    pub default_runtime: String,
}

impl Engine {
    /// The engine that answers now.
    ///
    /// # Errors
    /// Why none does.
    pub async fn connect(stage: &Stage) -> Result<Self, ProcessError> {
        let format = "{{.ServerVersion}}|{{.DockerRootDir}}|{{.DefaultRuntime}}";
        let output = Command::new("docker")
            .args(["info", "--format", format])
            .deadline(Duration::from_secs(20))
            .run(stage)
            .await?;
        let mut fields = output.stdout.trim().splitn(3, '|').map(str::to_owned);
        let mut field = || fields.next().unwrap_or_default();
        Ok(Self { version: field(), data_root: field(), default_runtime: field() })
    }

    /// The id of an image, if the engine has it.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn image_id(&self, reference: &str, stage: &Stage) -> Result<Option<String>> {
        let command = docker(["image", "inspect", "--format", "{{.Id}}", reference]);
        match command.run(stage).await {
            Ok(output) => Ok(Some(output.stdout.trim().to_owned())),
            Err(ProcessError::Failed { ref tail, .. })
                if tail.to_lowercase().contains("no such image") =>
            {
                Ok(None)
            }
            Err(error) => Err(error).infrastructure("look up", format!("image {reference}")),
        }
    }

    /// Makes an image of a root file system's tar archive.
    ///
    /// # Errors
    /// The engine refuses (a full disk, say).
    pub async fn import(&self, tar: &Path, reference: &str, stage: &Stage) -> Result<()> {
        stage.line(&format!("importing {reference}"));
        let command = docker(["import"]).arg(tar).arg(reference).deadline(BUILD_DEADLINE);
        command.run(stage).await.classify(FailureClass::Image, "import", reference)?;
        Ok(())
    }

    /// Builds the Dockerfile in `context` as `reference`.
    ///
    /// # Errors
    /// The build failed; the log has its output.
    pub async fn build(
        &self,
        context: &Path,
        reference: &str,
        args: &[&str],
        log: &Path,
        stage: &Stage,
    ) -> Result<()> {
        stage.line(&format!("building {reference}"));
        let command = docker(["build", "--force-rm", "--tag", reference])
            .args(args)
            .arg(context)
            .deadline(BUILD_DEADLINE)
            .log_to(log);
        command.run(stage).await.classify(FailureClass::Image, "build", reference)?;
        Ok(())
    }
}

/// A command of the engine's client.
pub fn docker<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    Command::new("docker").args(args)
}

/// The engine that answers, else one that is installed and started, with consent.
///
/// # Errors
/// None answers and none could be had; the error says what to do.
pub async fn ensure(
    paths: &Paths,
    record: &mut Record,
    consent: Consent,
    progress: &Progress,
    stage: &Stage,
) -> Result<Engine> {
    let reason = match Engine::connect(stage).await {
        Ok(engine) => {
            stage.note(format!("docker {} was running", engine.version));
            return Ok(engine);
        }
        Err(error @ ProcessError::Interrupted { .. }) => {
            return Err(error).infrastructure("reach", "the container engine");
        }
        Err(error) => error,
    };
    if which::which("docker").is_ok() && names_another_engine() {
        let error = Err(reason).infrastructure("reach", "the container engine");
        return error.map_err(|error| {
            error.with_help("DOCKER_HOST or DOCKER_CONTEXT is set: start that engine, or unset it")
        });
    }
    let privilege = Privilege::detect(stage).await;
    let installed = install::ensure(paths, record, privilege, consent, progress, stage).await?;
    daemon::start(paths, record, privilege, stage).await?;
    let engine = Engine::connect(stage).await.infrastructure("reach", "the container engine")?;
    let how = if installed { "installed and started" } else { "started" };
    stage.note(format!("docker {} {how}", engine.version));
    Ok(engine)
}

/// Whether the machine may be changed without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// `--yes`, or `CI=true`.
    Given,
    /// Ask on the terminal.
    Ask,
}

impl Consent {
    /// Consent by `--yes` or by `CI=true` in the environment.
    #[must_use]
    pub fn from_flag(yes: bool) -> Self {
        let ci = std::env::var("CI").is_ok_and(|value| value == "true" || value == "1");
        if yes || ci { Self::Given } else { Self::Ask }
    }

    /// Asks `question` unless consent was given.
    ///
    /// # Errors
    /// The answer was no, or there is no terminal to ask on.
    pub fn obtain(self, question: &str, progress: &Progress) -> Result<()> {
        use std::io::{IsTerminal, Write};
        if self == Self::Given {
            return Ok(());
        }
        let refused = |cause: &str| {
            HarnessError::new(FailureClass::Infrastructure, "get", "consent", cause.to_owned())
                .with_help(format!("{question} Run again with --yes, or do it by hand."))
        };
        if !std::io::stdin().is_terminal() {
            return Err(refused("there is no terminal to ask on"));
        }
        let answer = progress.suspend(|| {
            eprint!("{question} [y/N] ");
            let mut line = String::new();
            std::io::stderr()
                .flush()
                .and_then(|()| std::io::stdin().read_line(&mut line))
                .map(|_| line)
        });
        let answer = answer.infrastructure("read", "the answer")?;
        if answer.trim().eq_ignore_ascii_case("y") || answer.trim().eq_ignore_ascii_case("yes") {
            Ok(())
        } else {
            Err(refused("the answer was no"))
        }
    }
}

fn names_another_engine() -> bool {
    ["DOCKER_HOST", "DOCKER_CONTEXT"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

//! External commands: output captured, a deadline, the whole process group ended on time-out
//! or signal, and errors that say which command, how it ended, its last lines and its log.
//!
//! What a command means and whose failure it is belongs to the caller.

mod sink;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin};

use crate::failure::Interrupted;
use crate::progress::Stage;
use sink::Sink;

/// How long a command may take if nobody says otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);
/// How long a process group has between SIGTERM and SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(5);

/// A command to run to its end.
#[derive(Debug, Clone)]
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    env_removed: Vec<OsString>,
    directory: Option<PathBuf>,
    deadline: Duration,
    log: Option<PathBuf>,
    stdin: Input,
}

#[derive(Debug, Clone)]
enum Input {
    Null,
    Bytes(Vec<u8>),
    File(PathBuf),
}

/// What a command that succeeded said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Standard output, as text.
    pub stdout: String,
    /// Standard error, as text.
    pub stderr: String,
    /// From start to end.
    pub elapsed: Duration,
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It could not be started at all.
    #[error("`{command}` could not be started")]
    Start {
        /// The command line.
        command: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It ended with a status other than zero.
    #[error("`{command}` ended with {status}{}", Details(tail, log))]
    Failed {
        /// The command line.
        command: String,
        /// Exit code or signal.
        status: ExitStatus,
        /// The last lines it wrote.
        tail: String,
        /// Where all of it is.
        log: Option<PathBuf>,
    },
    /// It was still running at its deadline and was ended.
    #[error("`{command}` was ended after {} s{}", deadline.as_secs(), Details(tail, log))]
    Deadline {
        /// The command line.
        command: String,
        /// How long it was given.
        deadline: Duration,
        /// The last lines it wrote.
        tail: String,
        /// Where all of it is.
        log: Option<PathBuf>,
    },
    /// SIGINT or SIGTERM came and it was ended.
    #[error("`{command}` was ended by a signal to this tool")]
    Interrupted {
        /// The command line.
        command: String,
        /// The mark by which [`crate::failure::HarnessError::is_interrupted`] knows it.
        source: Interrupted,
    },
    /// Its output could not be read or kept (a full disk, say).
    #[error("the output of `{command}` could not be kept")]
    Output {
        /// The command line.
        command: String,
        /// Why not.
        source: std::io::Error,
    },
}

impl ProcessError {
    /// The last lines of output, empty when there were none.
    #[must_use]
    pub fn tail(&self) -> &str {
        match self {
            Self::Failed { tail, .. } | Self::Deadline { tail, .. } => tail,
            Self::Start { .. } | Self::Interrupted { .. } | Self::Output { .. } => "",
        }
    }
}

struct Details<'a>(&'a str, &'a Option<PathBuf>);

impl fmt::Display for Details<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.0.lines() {
            write!(f, "\n  | {line}")?;
        }
        self.1.as_ref().map_or(Ok(()), |log| write!(f, "\n  full log: {}", log.display()))
    }
}

impl Command {
    /// A command without arguments, input or log, with [`DEFAULT_DEADLINE`].
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            env_removed: Vec::new(),
            directory: None,
            deadline: DEFAULT_DEADLINE,
            log: None,
            stdin: Input::Null,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// A command that is Cargo, or calls it.
    #[must_use]
    pub fn cargo(program: impl AsRef<OsStr>) -> Self {
        cargo_run_variables().into_iter().fold(Self::new(program), Self::env_remove)
    }

    /// Sets a variable for the command only.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Hides a variable of this process from the command.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env_removed.push(name.as_ref().to_owned());
        self
    }

    /// Runs it in `directory`.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Gives it this long in all.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Appends what it writes to `log`.
    #[must_use]
    pub fn log_to(mut self, log: impl Into<PathBuf>) -> Self {
        self.log = Some(log.into());
        self
    }

    /// Feeds `bytes` to its standard input.
    #[must_use]
    pub fn stdin_bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Input::Bytes(bytes.into());
        self
    }

    /// Connects its standard input to a file.
    #[must_use]
    pub fn stdin_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.stdin = Input::File(path.into());
        self
    }

    /// The command line as a person would read it. Secrets belong in the environment.
    #[must_use]
    pub fn display(&self) -> String {
        std::iter::once(&self.program)
            .chain(&self.args)
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Runs it to its end; the last line of output shows in `stage`.
    ///
    /// # Errors
    /// See [`ProcessError`]. On time-out and cancellation the command has ended, and every process
    /// of its group has been sent SIGKILL, when this returns.
    pub async fn run(&self, stage: &Stage) -> Result<Output, ProcessError> {
        let started = Instant::now();
        let mut child = self.start()?;
        let group = Group::of(&child);
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut sink = Sink::open(self.log.as_deref()).map_err(|source| self.lost(source))?;
        let ended = tokio::select! {
            result = self.attend(&mut child, (stdin, stdout, stderr), &mut sink, stage) => {
                Ended::Itself(result.map_err(|source| self.lost(source))?)
            }
            () = tokio::time::sleep(self.deadline) => Ended::Late,
            () = stage.cancelled() => Ended::Cancelled,
        };
        let (command, log) = (self.display(), self.log.clone());
        match ended {
            Ended::Itself(status) => {
                group.disarm();
                if status.success() {
                    let (stdout, stderr) = (sink.stdout, sink.stderr);
                    return Ok(Output { stdout, stderr, elapsed: started.elapsed() });
                }
                Err(ProcessError::Failed { command, status, tail: sink.tail(), log })
            }
            Ended::Late => {
                group.end(&mut child).await;
                let deadline = self.deadline;
                Err(ProcessError::Deadline { command, deadline, tail: sink.tail(), log })
            }
            Ended::Cancelled => {
                group.end(&mut child).await;
                Err(ProcessError::Interrupted { command, source: Interrupted })
            }
        }
    }

    fn start(&self) -> Result<Child, ProcessError> {
        let start = || -> std::io::Result<Child> {
            let stdin = match &self.stdin {
                Input::Null => Stdio::null(),
                Input::Bytes(_) => Stdio::piped(),
                Input::File(path) => std::fs::File::open(path)?.into(),
            };
            let mut command = tokio::process::Command::new(&self.program);
            command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
            for name in &self.env_removed {
                command.env_remove(name);
            }
            if let Some(directory) = &self.directory {
                command.current_dir(directory);
            }
            command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.process_group(0).spawn()
        };
        start().map_err(|source| ProcessError::Start { command: self.display(), source })
    }

    async fn attend<O: AsyncRead + Unpin, E: AsyncRead + Unpin>(
        &self,
        child: &mut Child,
        (stdin, stdout, stderr): (Option<ChildStdin>, Option<O>, Option<E>),
        sink: &mut Sink,
        stage: &Stage,
    ) -> std::io::Result<ExitStatus> {
        let feed = async {
            if let (Some(mut stdin), Input::Bytes(bytes)) = (stdin, &self.stdin) {
                // A command may end without reading all of its input; its status tells.
                drop(stdin.write_all(bytes).await);
            }
        };
        let drain = async {
            let mut out = stdout.map(|pipe| BufReader::new(pipe).split(b'\n'));
            let mut err = stderr.map(|pipe| BufReader::new(pipe).split(b'\n'));
            while out.is_some() || err.is_some() {
                let (line, is_stdout) = tokio::select! {
                    line = next(&mut out), if out.is_some() => (line?, true),
                    line = next(&mut err), if err.is_some() => (line?, false),
                };
                if let Some(line) = line {
                    sink.take(&String::from_utf8_lossy(&line), is_stdout, stage)?;
                }
            }
            Ok::<_, std::io::Error>(())
        };
        let (status, (), drained) = tokio::join!(child.wait(), feed, drain);
        drained?;
        status
    }

    fn lost(&self, source: std::io::Error) -> ProcessError {
        ProcessError::Output { command: self.display(), source }
    }
}

enum Ended {
    Itself(ExitStatus),
    Late,
    Cancelled,
}

async fn next<R: AsyncRead + Unpin>(
    lines: &mut Option<tokio::io::Split<BufReader<R>>>,
) -> std::io::Result<Option<Vec<u8>>> {
    let Some(reader) = lines else { return Ok(None) };
    let line = reader.next_segment().await?;
    if line.is_none() {
        *lines = None;
    }
    Ok(line)
}

/// Ends the child's process group when dropped, so that a future that is dropped half-way
/// leaves nothing running.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }

    fn disarm(mut self) {
        self.0 = None;
    }

    async fn end(mut self, child: &mut Child) {
        let Some(group) = self.0.take() else { return };
        signal(group, Signal::SIGTERM);
        if tokio::time::timeout(TERM_GRACE, child.wait()).await.is_err() {
            signal(group, Signal::SIGKILL);
            drop(child.wait().await);
        }
        signal(group, Signal::SIGKILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            signal(group, Signal::SIGKILL);
        }
    }
}

fn signal(group: Pid, signal: Signal) {
    if let Err(error) = killpg(group, signal) {
        // Usually ESRCH: the group is gone already, which is what is wanted.
        tracing::trace!(%group, %signal, %error, "no such process group");
    }
}

/// The variables that `cargo run` gives this process. Build scripts watch some of them, so a Cargo that
/// inherits them compiles much of the workspace again, and the next `cargo run` compiles it back.
pub(crate) fn cargo_run_variables() -> Vec<OsString> {
    let is_one = |name: &OsString| {
        name.to_str().is_some_and(|name| {
            ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|start| name.starts_with(start))
                || ["CARGO_BIN_NAME", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"].contains(&name)
        })
    };
    std::env::vars_os().map(|(name, _)| name).filter(is_one).collect()
}

#[cfg(test)]
mod tests;

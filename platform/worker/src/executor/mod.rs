//! Runs one command: its own process group, an environment built from nothing, both outputs read as
//! they come, and an end that is always told, however the command ends.
//!
//! The executor knows no session. It hands [`Event`]s to its owner through a short channel; when the
//! owner takes none, the pipes are not read, the command blocks on its writes and nothing is lost.

mod command;
mod memory;
mod output;
mod premises;
mod supervise;

pub use self::premises::Premises;

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use hodei_core::{
    attempt::Outcome,
    id::AttemptKey,
    session::{MAX_FRAME_BYTES, OutputStream},
    spec::JobSpec,
};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use crate::process::Family;

/// How long an agent may take to act on the word that it has to leave.
const LEAVING_TIMEOUT: Duration = Duration::from_secs(2);

/// What jobs find around them.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Working directory and HOME of jobs.
    pub workspace: PathBuf,
    /// Where scripts are kept while they run.
    pub scratch: PathBuf,
    /// PATH of jobs: that of the image; `None` for the usual one.
    pub path: Option<String>,
    /// Bounds.
    pub limits: Limits,
    /// What is emptied after each job; `None` where there is only one.
    pub premises: Option<Premises>,
}

/// Bounds of one execution.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest piece of output, in bytes.
    pub frame_bytes: usize,
    /// How long processes that outlive the command may go on before they are killed.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { frame_bytes: MAX_FRAME_BYTES, linger: Duration::from_secs(1) }
    }
}

/// What happens while a command runs: `Started` at most once and first, `Ended` once and last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The command runs.
    Started(Timestamp),
    /// A piece of output.
    Output {
        /// Which stream.
        stream: OutputStream,
        /// When it was read.
        time: Timestamp,
        /// 1 byte to [`Limits::frame_bytes`].
        data: Bytes,
    },
    /// It ended, and all its output came before this.
    Ended {
        /// How; `None` if it was stopped because the worker leaves. Such an attempt has no outcome:
        /// it is lost with its worker, and may be tried again.
        outcome: Option<Outcome>,
        /// When.
        time: Timestamp,
    },
}

/// An order to stop. A later one with less grace hurries an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// From SIGTERM to SIGKILL; zero: SIGKILL at once.
    pub grace: Duration,
    /// Why, which decides what is reported.
    pub cause: StopCause,
}

/// Why a command is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopCause {
    /// The job was cancelled.
    Cancelled,
    /// The worker has to leave; nobody cancelled the job.
    WorkerLeaves,
}

/// A command that runs. Dropping it kills what runs, without waiting.
#[derive(Debug)]
pub struct Execution {
    events: mpsc::Receiver<Event>,
    stop: watch::Sender<Option<Stop>>,
}

impl Execution {
    /// Starts the command of an attempt.
    #[must_use]
    pub fn start(
        spec: JobSpec,
        attempt: AttemptKey,
        environment: Environment,
        family: Family,
    ) -> Self {
        let (sender, events) = mpsc::channel(4);
        let (stop, stopped) = watch::channel(None);
        tokio::spawn(async move {
            let outcome = match &environment.premises {
                None => run(&spec, attempt, &environment, &family, &sender, stopped).await,
                Some(premises) => match premises.enter().await {
                    // The worker leaves, and the attempt is lost with it.
                    None => None,
                    Some(stay) => {
                        let leaving = stopped.clone();
                        let outcome =
                            run(&spec, attempt, &environment, &family, &sender, stopped).await;
                        if !premises.leave(stay).await {
                            await_leaving(leaving).await;
                        }
                        outcome
                    }
                },
            };
            let ended = Event::Ended { outcome, time: Timestamp::now() };
            // Nobody listens any more only when the agent itself ends.
            let _ = sender.send(ended).await;
        });
        Self { events, stop }
    }

    /// The next event; `None` after `Ended`. Safe to cancel.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Orders the command to stop; `Ended` follows.
    pub fn stop(&self, stop: Stop) {
        self.stop.send_replace(Some(stop));
    }

    /// Kills it and waits until it is gone, at most five seconds.
    pub async fn kill(mut self) {
        self.stop(Stop { grace: Duration::ZERO, cause: StopCause::WorkerLeaves });
        let gone = async { while self.next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(5), gone).await.is_err() {
            tracing::error!("the command was killed and is not gone after 5 s");
        }
    }
}

async fn run(
    spec: &JobSpec,
    attempt: AttemptKey,
    environment: &Environment,
    family: &Family,
    events: &mpsc::Sender<Event>,
    stop: watch::Receiver<Option<Stop>>,
) -> Option<Outcome> {
    match command::prepare(spec, attempt, environment) {
        Ok(prepared) => supervise::run(prepared, environment.limits, family, events, stop).await,
        Err(reason) => Some(Outcome::NotRun { reason }),
    }
}

/// Waits for the agent to know that it leaves, but not for long: it says so before it tells the outcome,
/// so that the server gives this worker no further job.
async fn await_leaving(mut stop: watch::Receiver<Option<Stop>>) {
    let leaves =
        |stop: &Option<Stop>| stop.is_some_and(|stop| stop.cause == StopCause::WorkerLeaves);
    _ = tokio::time::timeout(LEAVING_TIMEOUT, stop.wait_for(leaves)).await;
}

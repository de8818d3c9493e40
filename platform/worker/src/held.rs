//! The command of the attempt in hand. What is said of the attempt, and when, is decided by
//! [`AgentSession`](hodei_core::session::AgentSession); here is only what runs.

use hodei_core::{attempt::Outcome, id::AttemptKey};

use crate::executor::{Event, Execution, Stop};

/// The command of one attempt.
#[derive(Debug)]
pub struct Held {
    key: AttemptKey,
    execution: Option<Execution>,
    slowed: bool,
}

impl Held {
    /// A command that was just started.
    #[must_use]
    pub fn new(key: AttemptKey, execution: Execution) -> Self {
        Self { key, execution: Some(execution), slowed: false }
    }

    /// The next event of the command, once there is room for one. Safe to cancel.
    pub async fn next_event(&mut self, has_room: bool) -> Event {
        if has_room == self.slowed {
            self.slowed = !has_room;
            if self.slowed {
                tracing::warn!(attempt = %self.key, "too much output is not acknowledged: the job waits");
            } else {
                tracing::info!(attempt = %self.key, "output is read again");
            }
        }
        let event = match &mut self.execution {
            Some(execution) if has_room => execution.next().await,
            _ => None,
        };
        match event {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// It has told its end: with its outcome, or that it was stopped because the worker leaves.
    pub fn ended(&mut self, outcome: Option<&Outcome>) {
        self.execution = None;
        let attempt = self.key;
        match outcome {
            Some(outcome) => tracing::info!(%attempt, %outcome, "the command ended"),
            None => tracing::warn!(%attempt, "the command was stopped: this worker leaves"),
        }
    }

    /// Stops the command, if it still runs.
    pub fn stop(&self, stop: Stop) {
        if let Some(execution) = &self.execution {
            execution.stop(stop);
        }
    }

    /// Kills the command, if it still runs, and waits until it is gone.
    pub async fn kill(self) {
        if let Some(execution) = self.execution {
            execution.kill().await;
        }
    }
}

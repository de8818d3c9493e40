//! The closed state machine of a job.
//!
//! ```text
//! Queued ──AttemptCreated──▶ Starting ──AttemptRunning──▶ Running
//!   │  ▲                        │  │                        │
//!   │  └────────Requeued────────┴──┼────────────────────────┤
//!   │                              │     CancelRequested    │
//!   └──CancelRequested──▶ Cancelled│◀───── Cancelling ◀─────┘
//! Finished(Succeeded | Failed | Cancelled | TimedOut) from every state that is not final
//! Failed | Cancelled | TimedOut ──Retried──▶ Queued
//! ```
//! The first result stands, whatever arrives later: no attempt, time-out or cancellation leaves a final
//! state. Only a client that asks for it by `Retried` does, for a job that did not succeed; the attempts
//! before it stay fenced by their epochs. A success is never left.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for a worker to be asked for.
    Queued,
    /// A worker was asked for; the command does not run yet.
    Starting,
    /// The command runs.
    Running,
    /// The command was told to stop and has not ended yet.
    Cancelling,
    /// The command returned 0.
    Succeeded,
    /// The command failed or could not be run, and no attempt is left.
    Failed,
    /// The job was cancelled.
    Cancelled,
    /// A time-out ended it.
    TimedOut,
}

/// What can happen to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobEvent {
    /// A worker was asked for under a new epoch.
    AttemptCreated,
    /// The attempt's command runs.
    AttemptRunning,
    /// The attempt failed and another one is allowed.
    Requeued,
    /// A client asked for the job to be cancelled.
    CancelRequested,
    /// A client asked for a job that did not succeed to run again.
    Retried,
    /// The job's one result.
    Finished(FinalState),
}

/// The states a job ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalState {
    /// See [`JobState::Succeeded`].
    Succeeded,
    /// See [`JobState::Failed`].
    Failed,
    /// See [`JobState::Cancelled`].
    Cancelled,
    /// See [`JobState::TimedOut`].
    TimedOut,
}

/// An event that a state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a job that is {state} does not take {event:?}")]
pub struct InvalidTransition {
    /// The state the job was in.
    pub state: JobState,
    /// The event that came.
    pub event: JobEvent,
}

impl JobState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Starting,
        Self::Running,
        Self::Cancelling,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::TimedOut,
    ];

    /// Whether nothing happens any more by itself.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::TimedOut)
    }

    /// The state after an event.
    ///
    /// # Errors
    /// When the state does not allow the event; the job then stays as it is.
    pub fn on(self, event: JobEvent) -> Result<Self, InvalidTransition> {
        use JobEvent as E;
        match (self, event) {
            (Self::Queued, E::AttemptCreated) => Ok(Self::Starting),
            (Self::Starting, E::AttemptRunning) => Ok(Self::Running),
            (Self::Starting | Self::Running, E::Requeued) => Ok(Self::Queued),
            (Self::Queued, E::CancelRequested) => Ok(Self::Cancelled),
            (Self::Starting | Self::Running, E::CancelRequested) => Ok(Self::Cancelling),
            // A command that starts or dies while it is being cancelled changes nothing.
            (Self::Cancelling, E::AttemptRunning | E::CancelRequested) => Ok(Self::Cancelling),
            (Self::Failed | Self::Cancelled | Self::TimedOut, E::Retried) => Ok(Self::Queued),
            (state, E::Finished(end)) if !state.is_final() => Ok(end.into()),
            (state, event) => Err(InvalidTransition { state, event }),
        }
    }

    /// The stable name used in the store and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
        }
    }
}

impl From<FinalState> for JobState {
    fn from(end: FinalState) -> Self {
        match end {
            FinalState::Succeeded => Self::Succeeded,
            FinalState::Failed => Self::Failed,
            FinalState::Cancelled => Self::Cancelled,
            FinalState::TimedOut => Self::TimedOut,
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no state.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a state")]
pub struct UnknownState(pub String);

impl FromStr for JobState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| UnknownState(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVENTS: [JobEvent; 9] = [
        JobEvent::Retried,
        JobEvent::AttemptCreated,
        JobEvent::AttemptRunning,
        JobEvent::Requeued,
        JobEvent::CancelRequested,
        JobEvent::Finished(FinalState::Succeeded),
        JobEvent::Finished(FinalState::Failed),
        JobEvent::Finished(FinalState::Cancelled),
        JobEvent::Finished(FinalState::TimedOut),
    ];

    #[test]
    fn the_usual_way() {
        let mut state = JobState::Queued;
        for (event, next) in [
            (JobEvent::AttemptCreated, JobState::Starting),
            (JobEvent::AttemptRunning, JobState::Running),
            (JobEvent::Requeued, JobState::Queued),
            (JobEvent::AttemptCreated, JobState::Starting),
            (JobEvent::CancelRequested, JobState::Cancelling),
            (JobEvent::Finished(FinalState::Cancelled), JobState::Cancelled),
        ] {
            state = state.on(event).unwrap();
            assert_eq!(state, next);
        }
    }

    #[test]
    fn only_a_job_that_ended_without_success_is_retried() {
        for state in JobState::ALL {
            let retried = state.is_final() && state != JobState::Succeeded;
            assert_eq!(state.on(JobEvent::Retried).ok(), retried.then_some(JobState::Queued));
        }
    }

    #[test]
    fn names_are_read_back() {
        for state in JobState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert!("done".parse::<JobState>().is_err());
    }

    proptest! {
        #[test]
        fn a_job_has_one_result(events in prop::collection::vec(prop::sample::select(&EVENTS), 0..40)) {
            let mut state = JobState::Queued;
            let mut result = None;
            for event in events {
                if let Ok(next) = state.on(event) {
                    let asked_for = event == JobEvent::Retried && result != Some(JobState::Succeeded);
                    prop_assert!(result.is_none() || asked_for, "{state} was left for {next}");
                    state = next;
                    result = state.is_final().then_some(state);
                }
            }
        }
    }
}

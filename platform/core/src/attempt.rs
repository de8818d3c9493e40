//! One try of a job: its states, and the outcome a worker reports.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{failure::Failure, job::FinalState};

/// Where an attempt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptState {
    /// A worker was asked for.
    Provisioning,
    /// The worker has the job; the command does not run yet.
    Assigned,
    /// The command runs.
    Running,
    /// The worker reported an outcome.
    Finished,
    /// The worker failed or was lost before it reported one.
    Lost,
}

impl AttemptState {
    /// Every state.
    pub const ALL: [Self; 5] =
        [Self::Provisioning, Self::Assigned, Self::Running, Self::Finished, Self::Lost];

    /// Whether nothing can happen any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Finished | Self::Lost)
    }

    /// Whether an attempt may go from this state to that one: forward only.
    #[must_use]
    pub fn can_become(self, next: Self) -> bool {
        !self.is_final() && (next as u8) > (self as u8)
    }

    /// The stable name used in the store and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Assigned => "assigned",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for AttemptState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It returned a code, 0 to 255.
    Exited {
        /// The code.
        code: i32,
        /// The kernel killed a process of it at the memory limit.
        out_of_memory: bool,
    },
    /// A signal ended it.
    Signalled {
        /// The signal's number.
        signal: i32,
        /// The kernel sent it at the memory limit.
        out_of_memory: bool,
    },
    /// It could not be run, or its end is not known.
    NotRun {
        /// Why, for a person.
        reason: String,
    },
    /// It was stopped because the job was cancelled.
    Cancelled,
}

impl Outcome {
    /// The job's final state if no further attempt is made.
    #[must_use]
    pub fn final_state(&self) -> FinalState {
        match self {
            Self::Exited { code: 0, .. } => FinalState::Succeeded,
            Self::Cancelled => FinalState::Cancelled,
            _ => FinalState::Failed,
        }
    }

    /// The exit code a shell would show: the command's own, 128 + signal, 127 for a command that
    /// could not be run, 130 for a cancelled one.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Exited { code, .. } => *code,
            Self::Signalled { signal, .. } => 128 + signal,
            Self::NotRun { .. } => 127,
            Self::Cancelled => 130,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let oom = |out_of_memory: &bool| if *out_of_memory { " (out of memory)" } else { "" };
        match self {
            Self::Exited { code, out_of_memory } => {
                write!(f, "exit code {code}{}", oom(out_of_memory))
            }
            Self::Signalled { signal, out_of_memory } => {
                write!(f, "killed by signal {signal}{}", oom(out_of_memory))
            }
            Self::NotRun { reason } => write!(f, "not run: {reason}"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

/// How an attempt ended: with an outcome of its command, or with its worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptEnd {
    /// The worker reported this.
    Finished(Outcome),
    /// The worker failed.
    Lost(Failure),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_only_moves_forward() {
        for from in AttemptState::ALL {
            for to in AttemptState::ALL {
                assert_eq!(from.can_become(to), !from.is_final() && (to as u8) > (from as u8));
            }
        }
        assert!(!AttemptState::Finished.can_become(AttemptState::Lost), "a result stands");
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        let oom = false;
        for (outcome, code) in [
            (Outcome::Exited { code: 3, out_of_memory: oom }, 3),
            (Outcome::Signalled { signal: 9, out_of_memory: oom }, 137),
            (Outcome::NotRun { reason: "no such file".into() }, 127),
            (Outcome::Cancelled, 130),
        ] {
            assert_eq!(outcome.exit_code(), code, "{outcome}");
        }
    }
}

//! What agent and server say to each other on a stream, without the form it has on the wire.

use std::time::Duration;

use jiff::Timestamp;

use super::Frame;
use crate::{attempt::Outcome, id::AttemptKey};

/// How an attempt's command ended, as the agent reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which attempt.
    pub attempt: AttemptKey,
    /// How its command ended.
    pub outcome: Outcome,
    /// Number of its last frame; 0 for an attempt without output.
    pub last_sequence: u64,
    /// When the command started, if it did.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// What an agent says after its Hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromAgent {
    /// It is there.
    Heartbeat,
    /// The command runs.
    Started {
        /// Which attempt's.
        attempt: AttemptKey,
        /// Since when.
        time: Timestamp,
    },
    /// Output, in order.
    Logs {
        /// Which attempt's.
        attempt: AttemptKey,
        /// With contiguous, ascending numbers.
        frames: Vec<Frame>,
    },
    /// The attempt has ended.
    Result(Report),
    /// It takes no new work.
    Draining,
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToAgent {
    /// The answer to Hello, once and first on each stream.
    Welcome {
        /// Last number that is durable of the attempt that Hello named; 0 if none.
        acked_sequence: u64,
        /// What Hello named is no longer this worker's.
        revoked: bool,
    },
    /// Run this.
    Assignment(AttemptKey),
    /// Frames are durable.
    LogAck {
        /// Which attempt's.
        attempt: AttemptKey,
        /// Up to this number.
        sequence: u64,
    },
    /// The result is durable, or refused: it need not be sent again.
    ResultAck {
        /// Which attempt's.
        attempt: AttemptKey,
        /// Whether it was taken.
        accepted: bool,
    },
    /// Stop the command.
    Cancel {
        /// Which attempt's.
        attempt: AttemptKey,
        /// From SIGTERM to SIGKILL.
        grace: Duration,
    },
    /// There is no further work.
    Shutdown,
}

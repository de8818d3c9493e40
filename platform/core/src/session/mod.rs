//! The session protocol as sans-IO machines: what each side remembers and decides, with no clock, no
//! socket and no storage of its own, so that a simulator can drive both through any schedule.
//!
//! - [`FromAgent`] and [`ToAgent`]: what the two sides say.
//! - [`AgentSession`]: the agent's side. The attempt in hand, over all the links of a session.
//! - [`Outbox`]: its output. It gets sequence numbers, is kept until it is acknowledged, and is sent
//!   again from the last acknowledged number after a lost link. What it must drop it says.
//! - [`Spool`]: where output waits that does not fit into memory: a port, for who drives the machine.
//! - [`admission`]: who may register, and what a session goes on with.
//! - [`ruling`]: what the server takes, what it refuses, and what it tells an agent.
//! - [`Inbox`]: output at the server. Frames are taken once and in order; what is durable is acknowledged.

pub mod admission;
mod agent;
mod held;
mod inbox;
mod message;
mod outbox;
pub mod ruling;
mod spool;

pub use agent::{AgentBounds, AgentSession, Departure, Oddity, Order};
pub use inbox::{Accepted, Inbox, SequenceGap};
pub use message::{FromAgent, Report, ToAgent};
pub use outbox::{FRAME_COST, Outbox, OutboxFull};
pub use spool::{Loss, NotSpooled, SPILL_BYTES, Spool, Unreadable};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Largest payload of one frame, in bytes. Small enough for a fair turn on the link, large enough
/// that the cost of a frame does not matter.
pub const MAX_FRAME_BYTES: usize = 64 << 10;

/// Where a piece of output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A numbered piece of output. Not aligned to lines, and any bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// 1, 2, 3 … within one attempt.
    pub sequence: u64,
    /// Which stream.
    pub stream: OutputStream,
    /// The agent's clock when it was read.
    pub time: Timestamp,
    /// The output itself. Empty where output is lost.
    pub data: Bytes,
    /// Output is lost here.
    pub gap: Option<Gap>,
}

/// Stands in a log for output that is lost, in the place where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Bytes lost, of both streams. With [`GapCause::SpoolUnreadable`] about so many.
    pub bytes: u64,
    /// Frames they were read in; 0 if that is not known.
    pub frames: u64,
    /// When the first of them was read. The time of the record's frame is that of the last.
    pub since: Timestamp,
    /// Why.
    pub cause: GapCause,
}

impl Gap {
    /// The record of a loss.
    #[must_use]
    pub fn new(loss: Loss, cause: GapCause) -> Self {
        Self { bytes: loss.bytes, frames: loss.frames, since: loss.since, cause }
    }
}

/// Why output is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapCause {
    /// The agent did not say.
    Unstated,
    /// There was no link for long, and neither memory nor spool had room.
    SpoolFull,
    /// The disk did not give back what was written to it. Each lost frame has its number, which may have
    /// reached the server before, so that each becomes a record of its own.
    SpoolUnreadable,
}

#[cfg(test)]
mod outside_input;
#[cfg(test)]
mod tests;

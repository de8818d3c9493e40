//! Where output waits that does not fit into memory while there is no link: a port, and what can be
//! missing behind it.

use std::fmt;

use jiff::Timestamp;

use super::Frame;

/// Most bytes, costs included, that are moved to a spool at once; a single frame may always be.
pub const SPILL_BYTES: usize = 1 << 20;

/// The oldest part of one attempt's output. What it keeps is never longer than what the frames cost:
/// their payload and [`FRAME_COST`](super::FRAME_COST) each.
///
/// The calls are made in the driver's loop, so that none of them may wait for long.
pub trait Spool: fmt::Debug {
    /// How many bytes it takes at present, as far as it knows.
    fn room(&self) -> usize;

    /// Keeps frames that follow on those before, all or none.
    ///
    /// # Errors
    /// When they could not be kept. It is as before then.
    fn append(&mut self, frames: &[Frame]) -> Result<(), NotSpooled>;

    /// Frames from number `from` on, which was appended and not released: at least one, at most `most`.
    ///
    /// # Errors
    /// When they cannot be read. What lies behind them can be asked for.
    fn read(&mut self, from: u64, most: usize) -> Result<Vec<Frame>, Unreadable>;

    /// Frames up to number `through` are not asked for again.
    fn release(&mut self, through: u64);

    /// An empty one of the same kind, for another attempt.
    #[must_use]
    fn fresh(&self) -> Self
    where
        Self: Sized;
}

/// Frames could not be kept: the disk is full or fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotSpooled;

/// Frames that were kept and cannot be read any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable {
    /// The last of them.
    pub through: u64,
    /// Bytes of output they held, about.
    pub bytes: u64,
    /// When the first of them was read from the command, about.
    pub since: Timestamp,
    /// When the last of them was.
    pub until: Timestamp,
}

/// How much output was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Bytes of output.
    pub bytes: u64,
    /// Frames it was read in.
    pub frames: u64,
    /// When the first of it was read.
    pub since: Timestamp,
    /// When the last of it was read.
    pub until: Timestamp,
}

impl Loss {
    /// One piece of output that was read at `time`.
    #[must_use]
    pub fn of(time: Timestamp, bytes: usize) -> Self {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        Self { bytes, frames: 1, since: time, until: time }
    }

    /// This, and what was lost after it.
    #[must_use]
    pub fn and(self, later: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(later.bytes),
            frames: self.frames.saturating_add(later.frames),
            since: self.since,
            until: later.until,
        }
    }
}

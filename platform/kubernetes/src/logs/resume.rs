//! Which lines of a log that is read in several pieces were told already. A pure machine.
//!
//! The API gives a log from a whole second on, so a piece begins with lines that were told. Times
//! alone can't tell which: several lines may share one, and those of stdout and stderr need not be
//! in the order of their times. But the kubelet's file only grows at its end, and is only shortened
//! at its beginning, by a rotation. So a piece begins with the lines told last, in their order, and
//! what comes after them is new.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
};

use hodei_core::provider::{LogEntry, LogQuery};
use jiff::{SignedDuration, Timestamp};

use super::{parse_log_line, whole_second_before};

/// How many lines are remembered, at 24 bytes each. More than these in a few seconds are told apart
/// from new ones by their times.
const REMEMBERED: usize = 1 << 16;

/// How much earlier the next line's time may be than the last one's: stdout and stderr race, and
/// clocks are set.
const DISORDER: SignedDuration = SignedDuration::from_secs(5);

/// What stands where lines may be missing.
pub(super) const GAP: &str = "hodei: the kubelet rotated the log, or the container was restarted, \
    while it was not being read; lines may be missing here";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    time: Timestamp,
    hash: u64,
}

impl Told {
    fn of(time: Timestamp, line: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        line.hash(&mut hasher);
        Self { time, hash: hasher.finish() }
    }
}

/// What was told of one log.
#[derive(Debug, Default)]
pub(super) struct Resume {
    since: Option<Timestamp>,
    tail: bool,
    told: VecDeque<Told>,
    /// Lines up to this time may have come before the first that is remembered.
    forgotten: Option<Timestamp>,
    /// The line among `told` that this piece should have next; none once it has caught up.
    expected: Option<usize>,
    /// Whether this piece had one of the lines that were told.
    met: bool,
}

impl Resume {
    pub(super) fn new(query: LogQuery) -> Self {
        Self { since: query.since, tail: query.tail.is_some(), ..Self::default() }
    }

    /// Whether a line with a time was told.
    pub(super) fn has_begun(&self) -> bool {
        !self.told.is_empty()
    }

    /// The whole second to ask the API from.
    pub(super) fn ask_since(&self) -> Option<Timestamp> {
        let last = self.told.back().map(|told| told.time);
        let last = last.map(|last| last.checked_sub(DISORDER).unwrap_or(last));
        last.max(self.since).map(whole_second_before)
    }

    /// A new piece begins.
    pub(super) fn piece_began(&mut self) {
        self.met = false;
        self.expected = self.expect_from(0);
    }

    /// Whether this piece ended before all lines that were told had come again.
    pub(super) fn is_behind(&self) -> bool {
        self.expected.is_some()
    }

    /// What a line of the piece adds to what was told.
    pub(super) fn take(&mut self, line: &str, mut tell: impl FnMut(LogEntry)) {
        let entry = parse_log_line(line);
        let Some(time) = entry.time else {
            // At the beginning of a later piece it is the end of a long line that began earlier.
            if self.expected.is_none() {
                tell(entry);
            }
            return;
        };
        if self.since.is_some_and(|since| time < since) {
            return;
        }
        let this = Told::of(time, line);
        if let Some(next) = self.expected {
            if !self.met && self.told[next] != this && Some(time) <= self.forgotten {
                return;
            }
            let found = (next..self.told.len()).find(|index| self.told[*index] == this);
            if let Some(found) = found {
                self.met = true;
                self.expected = self.expect_from(found + 1);
                return;
            }
            self.expected = None;
            tell(LogEntry { time: None, line: GAP.to_owned() });
        }
        self.remember(this);
        tell(entry);
    }

    fn remember(&mut self, told: Told) {
        if self.tail && self.told.is_empty() {
            self.forgotten = Some(told.time);
        }
        if self.told.len() == REMEMBERED {
            let first = self.told.pop_front().map(|first| first.time);
            self.forgotten = self.forgotten.max(first);
        }
        self.told.push_back(told);
    }

    /// The first line from there on that a piece from [`Self::ask_since`] on has.
    fn expect_from(&self, index: usize) -> Option<usize> {
        let since = self.ask_since()?;
        (index..self.told.len()).find(|index| self.told[*index].time >= since)
    }
}

#[cfg(test)]
#[path = "resume_tests.rs"]
mod tests;

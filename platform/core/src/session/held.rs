//! The attempt in hand: what was said of it on the present link and what has to be said yet.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::{
    AgentBounds, FromAgent, Loss, OutboxFull, OutputStream, Report, outbox::Outbox, spool::Spool,
};
use crate::{attempt::Outcome, id::AttemptKey};

/// Most frames in one batch: with the largest frames it stays below the largest message.
const BATCH_FRAMES: usize = 48;

/// One attempt, from its assignment until its result is acknowledged.
#[derive(Debug)]
pub(super) struct Held<S> {
    key: AttemptKey,
    outbox: Outbox<S>,
    stall: Duration,
    /// Since when there was neither room nor, at first, a link.
    stalled_since: Option<Duration>,
    started: Option<Timestamp>,
    started_sent: bool,
    report: Option<Report>,
    report_sent: bool,
    /// It was stopped because the worker leaves, and has no result.
    abandoned: bool,
}

impl<S: Spool> Held<S> {
    /// An attempt whose output is held within these bounds, and in this spool.
    pub(super) fn new(key: AttemptKey, bounds: &AgentBounds, spool: S) -> Self {
        Self {
            key,
            outbox: Outbox::new(bounds.window_bytes, bounds.frame_bytes, spool),
            stall: bounds.stall,
            stalled_since: None,
            started: None,
            started_sent: false,
            report: None,
            report_sent: false,
            abandoned: false,
        }
    }

    pub(super) fn key(&self) -> AttemptKey {
        self.key
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.outbox.acknowledged()
    }

    /// The number of the last frame that was moved to the spool.
    pub(super) fn spooled(&self) -> u64 {
        self.outbox.spooled()
    }

    /// What was dropped and is not said yet.
    pub(super) fn dropped(&self) -> Option<Loss> {
        self.outbox.dropped()
    }

    /// Whether the command's next event can be taken: it is kept, or dropped.
    pub(super) fn has_room(&self, down: bool, now: Duration) -> bool {
        self.outbox.has_room(down) || self.drops_from(down).is_some_and(|from| now >= from)
    }

    /// When output is dropped rather than waited with, while there is no link and no room.
    pub(super) fn drops_from(&self, down: bool) -> Option<Duration> {
        self.stalled_since.filter(|_| down).map(|since| since + self.stall)
    }

    /// Something has changed: looks whether there is room. A link alone ends no stall, or one that comes
    /// and goes would keep the job waiting without end.
    pub(super) fn look(&mut self, down: bool, now: Duration) {
        if self.outbox.has_room(down) {
            self.stalled_since = None;
            self.outbox.seal();
        } else if down {
            self.stalled_since.get_or_insert(now);
        }
    }

    pub(super) fn started(&mut self, time: Timestamp) {
        self.started = Some(time);
    }

    pub(super) fn output(
        &mut self,
        stream: OutputStream,
        time: Timestamp,
        data: Bytes,
        (down, now): (bool, Duration),
    ) -> Result<(), OutboxFull> {
        if !self.outbox.has_room(down) && self.has_room(down, now) {
            self.outbox.drop_piece(time, data.len());
            return Ok(());
        }
        self.outbox.push(stream, time, data, down)?;
        self.look(down, now);
        Ok(())
    }

    pub(super) fn ended(&mut self, outcome: Option<Outcome>, time: Timestamp) {
        self.outbox.seal();
        let Some(outcome) = outcome else {
            self.abandoned = true;
            return;
        };
        self.report = Some(Report {
            attempt: self.key,
            outcome,
            last_sequence: self.outbox.last_sequence(),
            started_at: self.started,
            finished_at: time,
        });
    }

    /// Whether it was given up because the worker leaves, and the server has all of its output.
    pub(super) fn is_given_up(&self) -> bool {
        self.abandoned && self.outbox.is_drained()
    }

    /// A new link begins, and the server has everything up to `sequence`.
    pub(super) fn resume_after(&mut self, sequence: u64) -> bool {
        self.outbox.resume_after(sequence);
        self.started_sent = false;
        self.report_sent = false;
        sequence <= self.outbox.last_sequence()
    }

    /// The server has everything up to `sequence`. `false` if it names a frame that was never made:
    /// all there are count as acknowledged then.
    pub(super) fn acknowledge(&mut self, sequence: u64) -> bool {
        self.outbox.acknowledge(sequence);
        sequence <= self.outbox.last_sequence()
    }

    pub(super) fn has_message(&self) -> bool {
        self.owes_start() || self.outbox.has_unsent() || self.owes_report()
    }

    /// What to send next: the start, then output, then the result.
    pub(super) fn next_message(&mut self) -> Option<FromAgent> {
        if let Some(time) = self.started.filter(|_| self.owes_start()) {
            self.started_sent = true;
            return Some(FromAgent::Started { attempt: self.key, time });
        }
        if self.outbox.has_unsent() {
            let frames = self.outbox.take_unsent(BATCH_FRAMES);
            return Some(FromAgent::Logs { attempt: self.key, frames });
        }
        let report = self.report.as_ref().filter(|_| self.owes_report()).cloned()?;
        self.report_sent = true;
        Some(FromAgent::Result(report))
    }

    fn owes_start(&self) -> bool {
        self.started.is_some() && !self.started_sent
    }

    fn owes_report(&self) -> bool {
        self.report.is_some() && !self.report_sent
    }
}

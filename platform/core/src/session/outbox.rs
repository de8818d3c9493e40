//! The agent's side of a log: numbered frames, kept until they are acknowledged, within bounds. The newest
//! are in memory. The older ones are in the spool if there was no link, and what had to be dropped is said
//! by a record in its place.

use std::collections::VecDeque;

use bytes::Bytes;
use jiff::Timestamp;

use super::{
    Frame, Gap, GapCause, OutputStream,
    spool::{Loss, SPILL_BYTES, Spool, Unreadable},
};

/// What a held frame costs beside its payload, about, in bytes. Without it a command that writes
/// single bytes would fill memory long before it fills the bound.
pub const FRAME_COST: usize = 128;

/// There is no room until something is acknowledged; the data was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the outbox holds {held} bytes that are not acknowledged; its bound is {bound}")]
pub struct OutboxFull {
    /// Bytes held in memory now.
    pub held: usize,
    /// Bytes it may hold there.
    pub bound: usize,
}

/// Output of one attempt on its way to the server.
#[derive(Debug)]
pub struct Outbox<S> {
    /// The newest frames. Those before them that are not acknowledged are in the spool.
    window: VecDeque<Frame>,
    /// What the window costs, in bytes.
    held: usize,
    bound: usize,
    frame_bytes: usize,
    spool: S,
    /// The last frame that was moved to the spool.
    spooled: u64,
    /// The spool failed, and nothing was acknowledged since.
    spool_failed: bool,
    /// Frames of the spool that could not be read, from that number on.
    unreadable: Option<(u64, Unreadable)>,
    /// The records that were moved to the spool: they are not lost with it.
    spooled_gaps: VecDeque<Frame>,
    /// What was dropped and has no number yet.
    dropped: Option<Loss>,
    last_sequence: u64,
    /// The last frame sent on the present link.
    sent: u64,
    acknowledged: u64,
}

fn cost(frame: &Frame) -> usize {
    frame.data.len() + FRAME_COST
}

impl<S: Spool> Outbox<S> {
    /// An empty outbox for frames of at most `frame_bytes`. It holds at most `bound` bytes in memory, costs
    /// included, and a frame more where the spool fails; one frame may always be held.
    #[must_use]
    pub fn new(bound: usize, frame_bytes: usize, spool: S) -> Self {
        Self {
            window: VecDeque::new(),
            held: 0,
            bound,
            frame_bytes,
            spool,
            spooled: 0,
            spool_failed: false,
            unreadable: None,
            spooled_gaps: VecDeque::new(),
            dropped: None,
            last_sequence: 0,
            sent: 0,
            acknowledged: 0,
        }
    }

    /// Whether a further frame would be taken; without a link (`down`) there is the spool, too.
    #[must_use]
    pub fn has_room(&self, down: bool) -> bool {
        self.has_memory() || (down && self.can_spill())
    }

    fn has_memory(&self) -> bool {
        self.window.is_empty() || self.held + self.frame_bytes + FRAME_COST <= self.bound
    }

    fn can_spill(&self) -> bool {
        let first = self.window.front().map_or(0, cost);
        !self.spool_failed && first <= self.spool.room()
    }

    /// Takes a piece of output and numbers it.
    ///
    /// # Errors
    /// When there is no room. Nothing is taken then: the caller does not read the pipe, which slows the
    /// job down and loses nothing.
    pub fn push(
        &mut self,
        stream: OutputStream,
        time: Timestamp,
        data: Bytes,
        down: bool,
    ) -> Result<u64, OutboxFull> {
        if !self.has_room(down) {
            return Err(OutboxFull { held: self.held, bound: self.bound });
        }
        self.seal();
        while down && !self.has_memory() && self.can_spill() {
            self.spill();
        }
        Ok(self.take(stream, time, data, None))
    }

    fn take(
        &mut self,
        stream: OutputStream,
        time: Timestamp,
        data: Bytes,
        gap: Option<Gap>,
    ) -> u64 {
        self.last_sequence += 1;
        let frame = Frame { sequence: self.last_sequence, stream, time, data, gap };
        self.held += cost(&frame);
        self.window.push_back(frame);
        self.last_sequence
    }

    /// Moves the oldest frames in memory to the spool.
    fn spill(&mut self) {
        let most = SPILL_BYTES.min(self.spool.room());
        let mut bytes = 0;
        let fits = self.window.iter().take_while(|frame| {
            bytes += cost(frame);
            bytes <= most
        });
        let count = fits.count().max(1);
        let frames = &self.window.make_contiguous()[..count];
        let (last, freed) = (frames[count - 1].sequence, frames.iter().map(cost).sum::<usize>());
        if self.spool.append(frames).is_err() {
            self.spool_failed = true;
            return;
        }
        self.spooled_gaps.extend(self.window.drain(..count).filter(|frame| frame.gap.is_some()));
        self.held -= freed;
        self.spooled = last;
    }

    /// Drops a piece of output. What is dropped in a row gets one record and one number.
    pub fn drop_piece(&mut self, time: Timestamp, bytes: usize) {
        let lost = Loss::of(time, bytes);
        self.dropped = Some(self.dropped.map_or(lost, |before| before.and(lost)));
    }

    /// What was dropped and has no record yet.
    #[must_use]
    pub fn dropped(&self) -> Option<Loss> {
        self.dropped
    }

    /// Writes the record of what was dropped, if something was: nothing more is added to it.
    pub fn seal(&mut self) {
        if let Some(loss) = self.dropped.take() {
            let gap = Gap::new(loss, GapCause::SpoolFull);
            // It is of both streams; to a reader that knows no gaps it is silent on stderr.
            self.take(OutputStream::Stderr, loss.until, Bytes::new(), Some(gap));
        }
    }

    /// Up to `most` frames that were not sent on the present link. Each is kept for a further link.
    pub fn take_unsent(&mut self, most: usize) -> Vec<Frame> {
        let next = self.sent + 1;
        let batch = if next <= self.spooled {
            self.take_spooled(next, most)
        } else {
            let first = self.window.front().map_or(next, |frame| frame.sequence);
            let skipped = usize::try_from(next - first).unwrap_or(usize::MAX);
            self.window.iter().skip(skipped).take(most).cloned().collect()
        };
        self.sent = batch.last().map_or(self.sent, |frame| frame.sequence);
        batch
    }

    fn take_spooled(&mut self, next: u64, most: usize) -> Vec<Frame> {
        let known = self.unreadable.filter(|(from, lost)| (*from..=lost.through).contains(&next));
        let range = match known {
            Some(range) => range,
            None => match self.spool.read(next, most) {
                Ok(frames) => return frames,
                Err(lost) => *self.unreadable.insert((next, lost)),
            },
        };
        (next..=range.1.through).take(most).map(|sequence| self.stand_in(sequence, range)).collect()
    }

    /// A record for a frame that cannot be read. Every one gets its own: the server may have some of them
    /// from an earlier link, not durable yet, and takes no second one under the same number.
    fn stand_in(&self, sequence: u64, (from, lost): (u64, Unreadable)) -> Frame {
        let gaps = &self.spooled_gaps;
        if let Ok(index) = gaps.binary_search_by_key(&sequence, |frame| frame.sequence) {
            return gaps[index].clone();
        }
        let (count, at) = (lost.through - from + 1, sequence - from);
        let share = lost.bytes / count + u64::from(at < lost.bytes % count);
        let loss = Loss { bytes: share, frames: 1, since: lost.since, until: lost.until };
        Frame {
            sequence,
            stream: OutputStream::Stderr,
            time: lost.until,
            data: Bytes::new(),
            gap: Some(Gap::new(loss, GapCause::SpoolUnreadable)),
        }
    }

    /// Whether something waits to be sent.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.sent < self.last_sequence
    }

    /// Forgets what is durable on the server. An older or repeated acknowledgement changes nothing, and
    /// one of a frame that was never made counts for all there are.
    pub fn acknowledge(&mut self, sequence: u64) {
        let sequence = sequence.min(self.last_sequence);
        if sequence <= self.acknowledged {
            return;
        }
        if self.acknowledged < self.spooled {
            self.spool.release(sequence.min(self.spooled));
            self.spooled_gaps.retain(|frame| frame.sequence > sequence);
        }
        while let Some(frame) = self.window.pop_front_if(|frame| frame.sequence <= sequence) {
            self.held -= cost(&frame);
        }
        self.spool_failed = false;
        self.acknowledged = sequence;
        self.sent = self.sent.max(sequence);
    }

    /// A new link begins: everything after `sequence` is to be sent again.
    pub fn resume_after(&mut self, sequence: u64) {
        self.acknowledge(sequence);
        self.sent = self.acknowledged;
    }

    /// The number of the last frame; 0 without one.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// The number of the last frame acknowledged; 0 without one.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The number of the last frame that was moved to the spool; 0 without one.
    #[must_use]
    pub fn spooled(&self) -> u64 {
        self.spooled
    }

    /// Whether all that was taken is acknowledged, and all that was dropped is said.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.acknowledged == self.last_sequence && self.dropped.is_none()
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
pub(super) mod tests;

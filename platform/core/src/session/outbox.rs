//! The agent's side of a log: numbered frames, kept until they are acknowledged, within a bound.

use std::collections::VecDeque;

use bytes::Bytes;
use jiff::Timestamp;

use super::{Frame, OutputStream};

/// There is no room until something is acknowledged; the data was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the outbox holds {held} bytes that are not acknowledged; its bound is {bound}")]
pub struct OutboxFull {
    /// Bytes held now.
    pub held: usize,
    /// Bytes it may hold.
    pub bound: usize,
}

/// Output of one attempt on its way to the server.
#[derive(Debug)]
pub struct Outbox {
    frames: VecDeque<Frame>,
    /// How many frames from the front were sent on the present link.
    sent: usize,
    last_sequence: u64,
    held: usize,
    bound: usize,
}

impl Outbox {
    /// An empty outbox that holds at most `bound` bytes of payload (one frame may always be held).
    #[must_use]
    pub fn new(bound: usize) -> Self {
        Self { frames: VecDeque::new(), sent: 0, last_sequence: 0, held: 0, bound }
    }

    /// Takes a piece of output and numbers it.
    ///
    /// # Errors
    /// When it would exceed the bound. Nothing is taken then: the caller stops reading the pipe,
    /// which slows the job down and loses nothing.
    pub fn push(
        &mut self,
        stream: OutputStream,
        time: Timestamp,
        data: Bytes,
    ) -> Result<u64, OutboxFull> {
        if !self.has_room(data.len()) {
            return Err(OutboxFull { held: self.held, bound: self.bound });
        }
        self.last_sequence += 1;
        self.held += data.len();
        let sequence = self.last_sequence;
        self.frames.push_back(Frame { sequence, stream, time, data, dropped_bytes: 0 });
        Ok(sequence)
    }

    /// Whether `bytes` more would be taken.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.frames.is_empty() || self.held + bytes <= self.bound
    }

    /// Up to `most` frames that were not sent on the present link. Each is kept for a further link.
    pub fn take_unsent(&mut self, most: usize) -> Vec<Frame> {
        let batch: Vec<_> = self.frames.iter().skip(self.sent).take(most).cloned().collect();
        self.sent += batch.len();
        batch
    }

    /// Whether something waits to be sent.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.sent < self.frames.len()
    }

    /// Forgets what is durable on the server. An older or repeated acknowledgement changes nothing.
    pub fn acknowledge(&mut self, sequence: u64) {
        while self.frames.front().is_some_and(|frame| frame.sequence <= sequence) {
            if let Some(frame) = self.frames.pop_front() {
                self.held -= frame.data.len();
                self.sent = self.sent.saturating_sub(1);
            }
        }
    }

    /// A new link begins: everything after `sequence` is to be sent again.
    pub fn resume_after(&mut self, sequence: u64) {
        self.acknowledge(sequence);
        self.sent = 0;
    }

    /// The number of the last frame taken; 0 if none was.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// Whether all that was taken is acknowledged.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.frames.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(outbox: &mut Outbox, data: &'static str) -> Result<u64, OutboxFull> {
        outbox.push(OutputStream::Stdout, Timestamp::UNIX_EPOCH, Bytes::from(data))
    }

    #[test]
    fn a_full_outbox_takes_nothing_until_something_is_acknowledged() {
        let mut outbox = Outbox::new(4);
        assert_eq!(push(&mut outbox, "abcd"), Ok(1));
        assert_eq!(push(&mut outbox, "e"), Err(OutboxFull { held: 4, bound: 4 }));
        outbox.acknowledge(1);
        assert_eq!(push(&mut outbox, "e"), Ok(2));
    }

    #[test]
    fn one_frame_larger_than_the_bound_is_still_taken() {
        assert_eq!(push(&mut Outbox::new(1), "abcd"), Ok(1));
    }

    #[test]
    fn after_a_lost_link_only_what_is_not_acknowledged_is_sent_again() {
        let mut outbox = Outbox::new(100);
        for data in ["a", "b", "c"] {
            push(&mut outbox, data).unwrap();
        }
        assert_eq!(outbox.take_unsent(10).len(), 3);
        assert!(!outbox.has_unsent());
        outbox.resume_after(1);
        let again: Vec<_> = outbox.take_unsent(10).iter().map(|frame| frame.sequence).collect();
        assert_eq!(again, [2, 3]);
        outbox.acknowledge(3);
        assert!(outbox.is_drained());
        assert_eq!(outbox.last_sequence(), 3);
    }
}

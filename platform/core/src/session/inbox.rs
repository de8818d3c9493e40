//! The server's side of a log: takes each frame once and in order, and knows what is durable.

use super::Frame;

/// Frames are missing before this one: the link does not keep order, or the agent is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected log frame {expected}, got {got}")]
pub struct SequenceGap {
    /// The next number that could be taken.
    pub expected: u64,
    /// The number that came.
    pub got: u64,
}

/// What is new of a batch.
#[derive(Debug)]
pub struct Accepted {
    /// The frames to store, in order.
    pub frames: Vec<Frame>,
    /// How many were there already.
    pub duplicates: usize,
}

/// Output of one attempt as it arrives.
#[derive(Debug, Clone)]
pub struct Inbox {
    received: u64,
    durable: u64,
}

impl Inbox {
    /// An inbox of which everything up to `durable` is stored.
    #[must_use]
    pub fn resume(durable: u64) -> Self {
        Self { received: durable, durable }
    }

    /// Takes a batch, leaving out what was taken before.
    ///
    /// # Errors
    /// When a number is skipped. Nothing of the batch is taken then.
    pub fn accept(&mut self, batch: Vec<Frame>) -> Result<Accepted, SequenceGap> {
        let offered = batch.len();
        let mut next = self.received + 1;
        let mut frames = Vec::with_capacity(offered);
        for frame in batch {
            if frame.sequence > next {
                return Err(SequenceGap { expected: next, got: frame.sequence });
            }
            if frame.sequence == next {
                frames.push(frame);
                next += 1;
            }
        }
        self.received = next - 1;
        Ok(Accepted { duplicates: offered - frames.len(), frames })
    }

    /// Everything up to `sequence` is stored. A number that was never received is not believed.
    pub fn committed(&mut self, sequence: u64) {
        self.durable = self.durable.max(sequence.min(self.received));
    }

    /// What may be acknowledged.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// The last number received.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use jiff::Timestamp;

    use super::*;
    use crate::session::OutputStream;

    fn frames(sequences: &[u64]) -> Vec<Frame> {
        let make = |&sequence| Frame {
            sequence,
            stream: OutputStream::Stdout,
            time: Timestamp::UNIX_EPOCH,
            data: Bytes::new(),
            gap: None,
        };
        sequences.iter().map(make).collect()
    }

    #[test]
    fn duplicates_are_left_out_and_counted() {
        let mut inbox = Inbox::resume(2);
        let accepted = inbox.accept(frames(&[1, 2, 3, 3, 4])).unwrap();
        assert_eq!(accepted.frames, frames(&[3, 4]));
        assert_eq!(accepted.duplicates, 3);
    }

    #[test]
    fn a_gap_refuses_the_whole_batch() {
        let mut inbox = Inbox::resume(0);
        assert_eq!(inbox.accept(frames(&[1, 3])).unwrap_err(), SequenceGap { expected: 2, got: 3 });
        assert_eq!(inbox.received(), 0);
    }

    #[test]
    fn nothing_is_durable_before_it_is_committed() {
        let mut inbox = Inbox::resume(0);
        inbox.accept(frames(&[1, 2])).unwrap();
        assert_eq!(inbox.durable(), 0);
        inbox.committed(1);
        assert_eq!(inbox.durable(), 1);
        inbox.committed(9);
        assert_eq!(inbox.durable(), 2);
    }
}

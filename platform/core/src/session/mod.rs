//! The session protocol as sans-IO machines: what each side remembers and decides, with no clock, no
//! socket and no storage of its own, so that a simulator can drive both through any schedule.
//!
//! - [`Outbox`]: the agent's side. Output gets sequence numbers, is kept until it is acknowledged,
//!   and is sent again from the last acknowledged number after a lost link.
//! - [`Inbox`]: the server's side. Frames are taken once and in order; what is durable is acknowledged.

mod inbox;
mod outbox;

pub use inbox::{Accepted, Inbox, SequenceGap};
pub use outbox::{Outbox, OutboxFull};

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
    /// The output itself.
    pub data: Bytes,
    /// Not 0: stands for this many bytes that had to be dropped.
    pub dropped_bytes: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a schedule does next.
    #[derive(Debug, Clone)]
    enum Step {
        Write(u8),
        Send,
        Deliver,
        LoseLink,
        Commit,
        Ack,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            any::<u8>().prop_map(Step::Write),
            Just(Step::Send),
            Just(Step::Deliver),
            Just(Step::LoseLink),
            Just(Step::Commit),
            Just(Step::Ack),
        ];
        prop::collection::vec(step, 0..200)
    }

    /// Both sides and the link between them.
    struct World {
        outbox: Outbox,
        inbox: Inbox,
        link: Vec<Frame>,
        written: Vec<u8>,
        stored: Vec<u8>,
        uncommitted: Vec<Frame>,
    }

    impl World {
        fn new() -> Self {
            Self {
                outbox: Outbox::new(64),
                inbox: Inbox::resume(0),
                link: Vec::new(),
                written: Vec::new(),
                stored: Vec::new(),
                uncommitted: Vec::new(),
            }
        }

        fn step(&mut self, step: &Step) {
            match step {
                Step::Write(byte) => {
                    let data = Bytes::copy_from_slice(&[*byte]);
                    if self.outbox.push(OutputStream::Stdout, Timestamp::UNIX_EPOCH, data).is_ok() {
                        self.written.push(*byte);
                    }
                }
                Step::Send => self.link.extend(self.outbox.take_unsent(3)),
                Step::Deliver => {
                    let frames = std::mem::take(&mut self.link);
                    let accepted = self.inbox.accept(frames).expect("a link keeps order");
                    self.uncommitted.extend(accepted.frames);
                }
                // The server forgets what was not durable; the agent hears where to go on.
                Step::LoseLink => {
                    self.link.clear();
                    self.uncommitted.clear();
                    let durable = self.inbox.durable();
                    self.inbox = Inbox::resume(durable);
                    self.outbox.resume_after(durable);
                }
                Step::Commit => {
                    for frame in self.uncommitted.drain(..) {
                        self.stored.extend(&frame.data);
                        self.inbox.committed(frame.sequence);
                    }
                }
                Step::Ack => self.outbox.acknowledge(self.inbox.durable()),
            }
        }
    }

    proptest! {
        #[test]
        fn every_byte_is_stored_once_and_in_order(steps in steps()) {
            let mut world = World::new();
            for step in &steps {
                world.step(step);
                prop_assert!(world.written.starts_with(&world.stored));
            }
            // Once the link holds, all of it arrives.
            world.step(&Step::LoseLink);
            while !world.outbox.is_drained() {
                for step in [Step::Send, Step::Deliver, Step::Commit, Step::Ack] {
                    world.step(&step);
                }
            }
            prop_assert_eq!(world.stored, world.written);
        }
    }
}

//! Both sides and the link between them, under any order of events.

use proptest::prelude::*;

use super::{outbox::tests::ListSpool, *};

/// What a schedule does next.
#[derive(Debug, Clone)]
enum Step {
    Write(u8),
    Send,
    Deliver,
    LoseLink,
    Restore,
    Commit,
    Ack,
    BreakDisk,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => any::<u8>().prop_map(Step::Write),
        2 => Just(Step::Send),
        2 => Just(Step::Deliver),
        1 => Just(Step::LoseLink),
        1 => Just(Step::Restore),
        2 => Just(Step::Commit),
        2 => Just(Step::Ack),
        1 => Just(Step::BreakDisk),
    ];
    prop::collection::vec(step, 0..200)
}

struct World {
    outbox: Outbox<ListSpool>,
    inbox: Inbox,
    down: bool,
    link: Vec<Frame>,
    written: Vec<u8>,
    /// What is stored of each byte that was written; `None` where a record says that it is lost.
    stored: Vec<Option<u8>>,
    uncommitted: Vec<Frame>,
}

impl World {
    fn new(spool: usize) -> Self {
        Self {
            outbox: Outbox::new(4 * (FRAME_COST + 1), 1, ListSpool::new(spool * (FRAME_COST + 1))),
            inbox: Inbox::resume(0),
            down: false,
            link: Vec::new(),
            written: Vec::new(),
            stored: Vec::new(),
            uncommitted: Vec::new(),
        }
    }

    fn write(&mut self, byte: u8) {
        let data = Bytes::copy_from_slice(&[byte]);
        let taken = self.outbox.push(OutputStream::Stdout, Timestamp::UNIX_EPOCH, data, self.down);
        // A job that waits has not written; without a link it is tired of waiting at once.
        if taken.is_err() && self.down {
            self.outbox.drop_piece(Timestamp::UNIX_EPOCH, 1);
        }
        if taken.is_ok() || self.down {
            self.written.push(byte);
        }
    }

    fn store(&mut self, frame: &Frame) {
        self.stored.extend(frame.data.iter().copied().map(Some));
        if let Some(gap) = frame.gap {
            self.stored.extend((0..gap.frames).map(|_| None));
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Write(byte) => self.write(*byte),
            Step::Send if self.down => {}
            Step::Send => self.link.extend(self.outbox.take_unsent(3)),
            Step::Deliver => {
                let frames = std::mem::take(&mut self.link);
                let accepted = self.inbox.accept(frames).expect("a link keeps order");
                self.uncommitted.extend(accepted.frames);
            }
            // The server forgets what was not durable.
            Step::LoseLink => {
                (self.down, self.link, self.uncommitted) = (true, Vec::new(), Vec::new());
                self.inbox = Inbox::resume(self.inbox.durable());
            }
            // The agent hears where to go on.
            Step::Restore if self.down => {
                self.down = false;
                self.outbox.resume_after(self.inbox.durable());
            }
            Step::Restore => {}
            Step::Commit => {
                for frame in std::mem::take(&mut self.uncommitted) {
                    self.store(&frame);
                    self.inbox.committed(frame.sequence);
                }
            }
            Step::Ack if self.down => {}
            Step::Ack => self.outbox.acknowledge(self.inbox.durable()),
            Step::BreakDisk => self.outbox.spool_mut().breaks = true,
        }
    }

    fn agrees(&self) -> bool {
        let same =
            |(stored, written): (&Option<u8>, &u8)| stored.is_none_or(|byte| byte == *written);
        self.stored.len() <= self.written.len() && self.stored.iter().zip(&self.written).all(same)
    }
}

proptest! {
    #[test]
    fn every_byte_is_stored_once_and_in_order_or_said_to_be_lost(steps in steps(), spool in 0_usize..8) {
        let mut world = World::new(spool);
        for step in &steps {
            world.step(step);
            prop_assert!(world.agrees(), "{:?} of {:?}", world.stored, world.written);
        }
        // Once the link holds, all of it arrives.
        for step in [Step::LoseLink, Step::Restore] {
            world.step(&step);
        }
        world.outbox.seal();
        while !world.outbox.is_drained() {
            for step in [Step::Send, Step::Deliver, Step::Commit, Step::Ack] {
                world.step(&step);
            }
        }
        prop_assert!(world.agrees(), "{:?} of {:?}", world.stored, world.written);
        prop_assert_eq!(world.stored.len(), world.written.len());
        let breaks = steps.iter().any(|step| matches!(step, Step::BreakDisk));
        let loses = steps.iter().any(|step| matches!(step, Step::LoseLink));
        prop_assert!(breaks || loses || world.stored.iter().all(Option::is_some));
    }
}

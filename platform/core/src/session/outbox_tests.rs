use super::*;
use crate::session::NotSpooled;

/// A spool in memory: each append is a block, which is lost as one.
#[derive(Debug)]
pub(in crate::session) struct ListSpool {
    blocks: VecDeque<Vec<Frame>>,
    bound: usize,
    /// The next append and the next read fail.
    pub(in crate::session) breaks: bool,
}

impl ListSpool {
    pub(in crate::session) fn new(bound: usize) -> Self {
        Self { blocks: VecDeque::new(), bound, breaks: false }
    }
}

impl Spool for ListSpool {
    fn room(&self) -> usize {
        self.bound - self.blocks.iter().flatten().map(cost).sum::<usize>()
    }

    fn append(&mut self, frames: &[Frame]) -> Result<(), NotSpooled> {
        assert!(frames.iter().map(cost).sum::<usize>() <= self.room());
        if std::mem::take(&mut self.breaks) {
            return Err(NotSpooled);
        }
        self.blocks.push_back(frames.to_vec());
        Ok(())
    }

    fn read(&mut self, from: u64, most: usize) -> Result<Vec<Frame>, Unreadable> {
        let holds = |block: &&Vec<Frame>| block.last().is_some_and(|last| last.sequence >= from);
        let block = self.blocks.iter().find(holds).expect("it was appended and not released");
        let frames = block.iter().filter(|frame| frame.sequence >= from);
        if std::mem::take(&mut self.breaks) {
            let bytes = frames.map(|frame| frame.data.len() as u64).sum();
            let through = block.last().unwrap().sequence;
            return Err(Unreadable { through, bytes, since: NOW, until: NOW });
        }
        Ok(frames.take(most).cloned().collect())
    }

    fn release(&mut self, through: u64) {
        self.blocks.retain(|block| block.last().is_some_and(|last| last.sequence > through));
    }

    fn fresh(&self) -> Self {
        Self::new(self.bound)
    }
}

impl<S> Outbox<S> {
    pub(in crate::session) fn spool_mut(&mut self) -> &mut S {
        &mut self.spool
    }
}

const ONE: usize = FRAME_COST + 1;
const NOW: Timestamp = Timestamp::UNIX_EPOCH;

/// Room for that many frames of one byte in memory, and in the spool.
fn outbox(window: usize, spool: usize) -> Outbox<ListSpool> {
    Outbox::new(window * ONE, 1, ListSpool::new(spool * ONE))
}

fn push(outbox: &mut Outbox<ListSpool>, down: bool) -> bool {
    outbox.push(OutputStream::Stdout, NOW, Bytes::from_static(b"x"), down).is_ok()
}

/// What is sent now: each number, with what a record says is lost there.
fn sent(outbox: &mut Outbox<ListSpool>) -> Vec<(u64, Option<u64>)> {
    let mut all = Vec::new();
    while outbox.has_unsent() {
        all.extend(outbox.take_unsent(2));
    }
    all.iter().map(|frame| (frame.sequence, frame.gap.map(|gap| gap.frames))).collect()
}

fn plain(numbers: impl IntoIterator<Item = u64>) -> Vec<(u64, Option<u64>)> {
    numbers.into_iter().map(|number| (number, None)).collect()
}

#[test]
fn with_a_link_a_full_outbox_takes_nothing_and_spools_nothing() {
    let mut outbox = outbox(2, 9);
    assert!(push(&mut outbox, false) && push(&mut outbox, false));
    assert!(!push(&mut outbox, false));
    assert_eq!(outbox.spooled(), 0);
    outbox.acknowledge(1);
    assert!(push(&mut outbox, false));
    assert_eq!(outbox.last_sequence(), 3);
}

#[test]
fn one_frame_larger_than_the_bound_is_still_taken() {
    let mut outbox = Outbox::new(1, 4, ListSpool::new(0));
    assert_eq!(outbox.push(OutputStream::Stdout, NOW, Bytes::from_static(b"abcd"), false), Ok(1));
}

#[test]
fn after_a_lost_link_only_what_is_not_acknowledged_is_sent_again() {
    let mut outbox = outbox(3, 0);
    (0..3).for_each(|_| assert!(push(&mut outbox, false)));
    assert_eq!(sent(&mut outbox), plain(1..=3));
    outbox.resume_after(1);
    assert_eq!(sent(&mut outbox), plain(2..=3));
    outbox.acknowledge(3);
    assert!(outbox.is_drained());
    assert_eq!(outbox.last_sequence(), 3);
}

#[test]
fn without_a_link_the_oldest_frames_go_to_the_spool_and_come_back_in_order() {
    let mut outbox = outbox(2, 4);
    assert_eq!((0..9).filter(|_| push(&mut outbox, true)).count(), 6);
    assert_eq!(outbox.spooled(), 4);
    outbox.resume_after(1);
    assert!(!outbox.has_room(false), "what is older than the window has to go first");
    assert_eq!(sent(&mut outbox), plain(2..=6));
    outbox.acknowledge(5);
    assert!(outbox.has_room(false));
    assert_eq!(outbox.spool_mut().room(), 4 * ONE);
}

#[test]
fn what_is_dropped_in_a_row_is_one_record_with_the_next_number() {
    let mut outbox = outbox(2, 0);
    assert!(push(&mut outbox, true) && push(&mut outbox, true) && !push(&mut outbox, true));
    (0..3).for_each(|_| outbox.drop_piece(NOW, 5));
    outbox.resume_after(0);
    assert_eq!(sent(&mut outbox), plain(1..=2));
    outbox.acknowledge(2);
    assert!(!outbox.is_drained(), "what was dropped is to be said");
    assert!(push(&mut outbox, false));
    assert_eq!(sent(&mut outbox), [(3, Some(3)), (4, None)]);
    outbox.resume_after(2);
    let frames = outbox.take_unsent(1);
    assert_eq!((frames[0].gap.unwrap().bytes, frames[0].data.len()), (15, 0));
}

#[test]
fn a_disk_that_fails_is_a_bound_until_something_is_acknowledged() {
    let mut outbox = outbox(2, 4);
    assert!(push(&mut outbox, true) && push(&mut outbox, true));
    outbox.spool_mut().breaks = true;
    assert!(push(&mut outbox, true), "it was read, so it is kept");
    assert!(!push(&mut outbox, true));
    outbox.acknowledge(1);
    assert!(push(&mut outbox, true));
    assert_eq!((outbox.spooled(), outbox.last_sequence()), (3, 4));
    assert_eq!(sent(&mut outbox), plain(2..=4));
}

#[test]
fn what_cannot_be_read_keeps_its_numbers_and_each_is_said() {
    let mut outbox = outbox(2, 6);
    (0..8).for_each(|_| assert!(push(&mut outbox, true)));
    assert_eq!(outbox.spooled(), 6);
    // Blocks of two: the first is read, the second is lost.
    assert_eq!(outbox.take_unsent(2).len(), 2);
    outbox.spool_mut().breaks = true;
    let lost = [(3, Some(1)), (4, Some(1))];
    assert_eq!(sent(&mut outbox)[..2], lost);
    outbox.resume_after(1);
    assert_eq!(sent(&mut outbox), [&plain(2..=2), &lost[..], &plain(5..=8)].concat());
    outbox.acknowledge(8);
    assert!(outbox.is_drained());
}

#[test]
fn a_record_is_not_lost_with_the_spool() {
    let mut outbox = outbox(3, 9);
    (0..2).for_each(|_| assert!(push(&mut outbox, true)));
    (0..7).for_each(|_| outbox.drop_piece(NOW, 1));
    // The record is the third, and goes to the spool with what came before it.
    (0..4).for_each(|_| assert!(push(&mut outbox, true)));
    assert!(outbox.spooled() >= 3, "{outbox:?}");
    outbox.spool_mut().breaks = true;
    assert_eq!(sent(&mut outbox)[..3], [(1, Some(1)), (2, Some(1)), (3, Some(7))]);
    outbox.acknowledge(3);
    assert!(outbox.spooled_gaps.is_empty());
}

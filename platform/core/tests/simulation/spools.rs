//! The disks of the agents: full at a bound, now and then broken for a write or a read. Frames written at
//! once are read at once or lost at once.

use std::collections::VecDeque;

use hodei_core::session::{FRAME_COST, Frame, NotSpooled, Spool, Unreadable};

use crate::{
    Sabotage,
    commands::{PIECE, TIME},
    rng::Rng,
};

/// What a frame of a command costs.
pub(crate) const COST: usize = FRAME_COST + PIECE;

#[derive(Debug, Clone)]
pub(crate) struct Disk {
    blocks: VecDeque<Vec<Frame>>,
    bound: usize,
    /// How many writes and reads of each attempt succeed, before one does not.
    writes: u32,
    reads: u32,
    plan: (u32, u32),
    /// It loses the first frame of what it has, and does not say so.
    lies: bool,
}

impl Disk {
    pub(crate) fn new(rng: &mut Rng, sabotage: Option<Sabotage>) -> Self {
        let bound = COST * [0, 2, 4, 8, 100][rng.index(5)];
        let mut breaks = || if rng.chance(200) { rng.below(3) as u32 } else { u32::MAX };
        let plan = (breaks(), breaks());
        let lies = sabotage == Some(Sabotage::DiskLies);
        Self { blocks: VecDeque::new(), bound, writes: plan.0, reads: plan.1, plan, lies }
    }
}

/// Counts down; whether it was at its end.
fn is_due(left: &mut u32) -> bool {
    let due = *left == 0;
    *left = if due { u32::MAX } else { left.saturating_sub(1) };
    due
}

impl Spool for Disk {
    fn room(&self) -> usize {
        let frames: usize = self.blocks.iter().map(Vec::len).sum();
        self.bound.saturating_sub(frames * COST)
    }

    fn append(&mut self, frames: &[Frame]) -> Result<(), NotSpooled> {
        if is_due(&mut self.writes) {
            return Err(NotSpooled);
        }
        self.blocks.push_back(frames.to_vec());
        Ok(())
    }

    fn read(&mut self, from: u64, most: usize) -> Result<Vec<Frame>, Unreadable> {
        let last = |block: &Vec<Frame>| block.last().map_or(0, |last| last.sequence);
        let holds = |block: &&Vec<Frame>| last(block) >= from;
        let block = self.blocks.iter().find(holds).expect("it was appended and not released");
        let asked = block.iter().filter(|frame| frame.sequence >= from);
        if is_due(&mut self.reads) {
            let bytes = asked.map(|frame| frame.data.len() as u64).sum();
            return Err(Unreadable { through: last(block), bytes, since: TIME, until: TIME });
        }
        let mut frames: Vec<_> = asked.take(most).cloned().collect();
        if self.lies && frames.len() > 1 {
            frames.rotate_left(1);
            frames.pop();
            (from..).zip(&mut frames).for_each(|(sequence, frame)| frame.sequence = sequence);
        }
        Ok(frames)
    }

    fn release(&mut self, through: u64) {
        self.blocks.retain(|block| block.last().is_some_and(|last| last.sequence > through));
    }

    fn fresh(&self) -> Self {
        let (writes, reads) = self.plan;
        Self { blocks: VecDeque::new(), writes, reads, ..self.clone() }
    }
}

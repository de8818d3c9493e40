//! The commands that agents run: each starts, writes numbered pieces of output at its own pace, waits while
//! nobody reads them, and ends by itself or because it is told to.

use bytes::Bytes;
use hodei_core::{attempt::Outcome, id::AttemptKey, session::OutputStream};
use jiff::Timestamp;

use crate::{
    Millis,
    agents::{Link, STALL},
    situations::Situation,
    world::{Event, World},
};

pub(crate) const TIME: Timestamp = Timestamp::UNIX_EPOCH;
/// Bytes of one piece of output: its number in the schedule.
pub(crate) const PIECE: usize = 2;

/// Every piece of output that a schedule can have, so that none has to be allocated.
static PIECES: [u8; PIECE << 16] = {
    let mut bytes = [0; PIECE << 16];
    let mut number = 0;
    while number < 1 << 16 {
        bytes[PIECE * number] = (number >> 8) as u8;
        bytes[PIECE * number + 1] = number as u8;
        number += 1;
    }
    bytes
};

fn piece(number: u16) -> Bytes {
    let at = PIECE * usize::from(number);
    Bytes::from_static(&PIECES[at..at + PIECE])
}

#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) run: u32,
    key: AttemptKey,
    started: bool,
    left: u32,
    /// How long it is silent between two pieces of output, at most.
    pause: Millis,
    outcome: Outcome,
    /// It was told to stop, and whether because the worker leaves.
    stopped: Option<bool>,
    /// Since when nobody reads its output.
    pub(crate) waits_since: Option<Millis>,
    /// When a piece of its output was last kept.
    kept_at: Millis,
}

impl World {
    pub(crate) fn begin_command(&mut self, process: usize, key: AttemptKey) {
        let hangs = self.rng.chance(60);
        let code = if self.rng.chance(300) { 3 } else { 0 };
        let command = Command {
            run: self.oracle.begun(key, self.processes[process].worker),
            key,
            started: false,
            left: if hangs { u32::MAX } else { self.rng.below(30) as u32 },
            pause: [20, 20, 500, 5_000][self.rng.index(if hangs { 4 } else { 3 })],
            outcome: Outcome::Exited { code, out_of_memory: false },
            stopped: None,
            waits_since: None,
            kept_at: self.now,
        };
        let run = command.run;
        self.processes[process].said = 0;
        self.processes[process].command = Some(command);
        self.after(1, 200, Event::Command { process, run });
    }

    pub(crate) fn stop_command(&mut self, process: usize, key: AttemptKey, grace: Millis) {
        let command = self.processes[process].command.as_mut();
        if let Some(command) = command.filter(|command| command.key == key) {
            command.stopped.get_or_insert(false);
            let run = command.run;
            self.after(0, grace, Event::Command { process, run });
        }
    }

    /// The command does its next thing, if its output is read.
    pub(crate) fn step_command(&mut self, process: usize, run: u32) {
        let now = self.clock();
        let agent = &mut self.processes[process];
        let Some(command) = agent.command.as_mut().filter(|command| command.run == run) else {
            return;
        };
        if !agent.session.has_room(now) {
            command.waits_since.get_or_insert(self.now);
            self.store.reach(Situation::OutboxFull);
            return;
        }
        let last_words = command.stopped.is_none() || self.rng.chance(300);
        if !command.started {
            command.started = true;
            agent.session.started(TIME);
        } else if command.left > 0 && last_words {
            command.left -= 1;
            let number = self.oracle.wrote(command.key);
            let before = agent.session.dropped();
            let taken = agent.session.output(OutputStream::Stdout, TIME, piece(number), now);
            taken.expect("output is read only while there is room");
            if agent.session.spooled() > 0 {
                self.store.reach(Situation::Spooled);
            }
            if agent.session.dropped().is_some_and(|lost| before != Some(lost)) {
                self.store.reach(Situation::Dropped);
                let has_link = matches!(agent.link, Link::Up(_));
                if has_link || self.now < command.kept_at + STALL {
                    self.oracle.dropped_without_need(command.key);
                }
            } else {
                command.kept_at = self.now;
            }
        } else {
            let outcome = match command.stopped {
                None => Some(command.outcome.clone()),
                Some(false) => Some(Outcome::Cancelled),
                Some(true) => None,
            };
            self.oracle.ended(command.key, outcome.clone(), self.now);
            agent.session.ended(outcome, TIME);
            agent.command = None;
            return self.turn(process);
        }
        let pause = command.pause;
        self.after(0, pause, Event::Command { process, run });
        self.turn(process);
    }

    /// The worker leaves, and nobody cancelled the job.
    pub(crate) fn abandon_command(&mut self, process: usize) {
        if let Some(command) = &mut self.processes[process].command {
            command.stopped = Some(true);
            let run = command.run;
            self.after(0, 5_000, Event::Command { process, run });
        }
    }
}

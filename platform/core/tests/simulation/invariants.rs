//! What must always hold, by name, and what really happened, to compare with.

use std::fmt;

use hodei_core::{
    attempt::{AttemptState, Outcome},
    id::{AttemptKey, Epoch},
    job::JobState,
    session::{Frame, Gap, GapCause, Oddity},
};

use crate::{
    Millis,
    agents::{HEARTBEAT, Link, Phase, Process, STALL},
    commands::PIECE,
    store::{job_id, job_index},
    world::World,
};

/// Longer than a message is ever on its way, and than a lost stream goes unnoticed.
const LONG: Millis = 50_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Invariant {
    /// A final state of a job is left only by a client's Retry, that of an attempt never, and a final
    /// job has no open attempt.
    OneResult,
    /// The stored log of an attempt is a prefix of what its command wrote, or a record of the right
    /// length stands where something is missing.
    ExactlyOnceInOrder,
    /// Output is dropped only without a link, and once the command has waited.
    DroppedInNeed,
    /// Without a link a command waits no longer than it should.
    NoSilentStall,
    /// An agent forgets nothing that the store does not have.
    DurableBeforeAcknowledged,
    /// What is stored of an attempt was said by the agent it was given to, of that attempt.
    Fenced,
    /// A worker's session is given to one process, ever.
    NoLeaseHeldByTwo,
    /// A job has at most one open attempt, and so has a worker.
    OneOpenAttempt,
    /// A command is begun once under one epoch.
    RunOnce,
    /// An attempt that finished has all of its output.
    CompleteOutput,
    /// An attempt whose command has ended is not lost while its agent has had a link for long.
    ResultHeard,
    /// When faults stop, every job gets its final state in bounded time.
    EveryJobEnds,
    /// No agent is told what it has no use for: an attempt while it holds another one, or that a frame
    /// is durable that it never made.
    OrderlyServer,
    /// No closed machine is asked for a transition it does not allow.
    ClosedMachines,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) invariant: Invariant,
    pub(crate) how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.how)
    }
}

fn broken(invariant: Invariant, how: impl FnOnce() -> String) -> Option<Broken> {
    Some(Broken { invariant, how: how() })
}

/// What really happened under one epoch.
#[derive(Default)]
struct Run {
    begun: u32,
    worker: usize,
    /// The numbers of the pieces its command wrote.
    written: Vec<u16>,
    outcome: Option<Outcome>,
    ended_at: Millis,
    /// How many stored frames were compared, and how many of the written pieces they stand for.
    compared: usize,
    accounted: usize,
    /// The final state that was seen.
    end: Option<AttemptState>,
}

/// What really happened, seen from outside.
#[derive(Default)]
pub(crate) struct Oracle {
    runs: Vec<Vec<Run>>,
    /// Each job's final state, and after which retry.
    finals: Vec<Option<(u32, JobState)>>,
    /// The process that each worker's session was given to.
    admitted: Vec<Option<usize>>,
    pieces: u16,
    begun: u32,
    broken: Option<Broken>,
}

/// The entry at an index of a list that grows as needed.
fn entry<T: Default>(list: &mut Vec<T>, index: usize) -> &mut T {
    while list.len() <= index {
        list.push(T::default());
    }
    &mut list[index]
}

impl Oracle {
    fn run(&mut self, key: AttemptKey) -> &mut Run {
        entry(entry(&mut self.runs, job_index(key)), key.epoch.0 as usize)
    }

    /// A server gave a worker's session to a process.
    pub(crate) fn admitted(&mut self, worker: usize, process: usize) {
        let first = *entry(&mut self.admitted, worker).get_or_insert(process);
        if first != process {
            self.broken = broken(Invariant::NoLeaseHeldByTwo, || {
                format!("worker {worker} is process {first}, and process {process} was admitted")
            });
        }
    }

    /// An agent began a command; the number of that beginning.
    pub(crate) fn begun(&mut self, key: AttemptKey, worker: usize) -> u32 {
        self.begun += 1;
        let run = self.run(key);
        run.begun += 1;
        run.worker = worker;
        if run.begun > 1 {
            self.broken = broken(Invariant::RunOnce, || format!("{key} was begun again"));
        }
        self.begun
    }

    /// A command writes a piece of output; its number.
    pub(crate) fn wrote(&mut self, key: AttemptKey) -> u16 {
        self.pieces = self.pieces.checked_add(1).expect("a schedule is short");
        let number = self.pieces;
        self.run(key).written.push(number);
        number
    }

    /// An agent was told what a correct server does not say.
    pub(crate) fn odd(&mut self, oddity: Oddity) {
        self.broken = broken(Invariant::OrderlyServer, || oddity.to_string());
    }

    /// A piece of output was dropped that could have been kept or waited with.
    pub(crate) fn dropped_without_need(&mut self, key: AttemptKey) {
        self.broken = broken(Invariant::DroppedInNeed, || format!("output of {key} was dropped"));
    }

    pub(crate) fn ended(&mut self, key: AttemptKey, outcome: Option<Outcome>, now: Millis) {
        let run = self.run(key);
        (run.outcome, run.ended_at) = (outcome, now);
    }
}

impl Run {
    /// What is wrong with the next stored frame.
    fn compare(&mut self, key: AttemptKey, frame: &Frame) -> Option<Broken> {
        if let Some(gap) = &frame.gap {
            return self.compare_gap(key, frame, gap);
        }
        let Some(number) = frame.data.first_chunk().map(|bytes| u16::from_be_bytes(*bytes)) else {
            let sequence = frame.sequence;
            return broken(Invariant::ExactlyOnceInOrder, || {
                format!("{sequence} of {key} is empty")
            });
        };
        let at = self.accounted;
        self.accounted += 1;
        if self.written.get(at) == Some(&number) {
            return None;
        }
        let own = self.written.contains(&number);
        let invariant = if own { Invariant::ExactlyOnceInOrder } else { Invariant::Fenced };
        broken(invariant, || {
            format!("frame {} of {key} is piece {number}: {:?}", frame.sequence, self.written)
        })
    }

    fn compare_gap(&mut self, key: AttemptKey, frame: &Frame, gap: &Gap) -> Option<Broken> {
        self.accounted += gap.frames as usize;
        let counted = match gap.cause {
            // Of unreadable frames each has its own record, and the bytes are an estimate.
            GapCause::SpoolUnreadable => gap.frames == 1,
            _ => gap.bytes == gap.frames * PIECE as u64,
        };
        if counted && frame.data.is_empty() && self.accounted <= self.written.len() {
            return None;
        }
        broken(Invariant::ExactlyOnceInOrder, || format!("{key}: {frame:?} of {:?}", self.written))
    }
}

impl World {
    /// The first invariant that does not hold now.
    pub(crate) fn check(&mut self) -> Option<Broken> {
        if let Some(broken) = self.oracle.broken.take() {
            return Some(broken);
        }
        if let Some(agent) = self.check_acknowledged() {
            return Some(agent);
        }
        if self.store.touched.is_empty() {
            return None;
        }
        let touched = std::mem::take(&mut self.store.touched);
        let attempts = touched.into_iter().find_map(|key| self.check_attempt(key));
        attempts.or_else(|| self.check_open_attempts()).or_else(|| self.check_results()).or_else(
            || {
                let refused = self.store.refused_transition.take()?;
                broken(Invariant::ClosedMachines, || refused)
            },
        )
    }

    fn check_acknowledged(&self) -> Option<Broken> {
        let live = self.processes.iter().filter(|process| process.phase == Phase::Live);
        for process in live {
            let Some(key) = process.session.held() else { continue };
            let (said, stored) =
                (process.session.acknowledged(), self.store.attempt(key).log.len());
            if let Some(since) = process.command.as_ref().and_then(|command| command.waits_since) {
                let since = since.max(process.down_since);
                let down = !matches!(process.link, Link::Up(_));
                if down && self.now > since + STALL + 2 * HEARTBEAT {
                    return broken(Invariant::NoSilentStall, || format!("{key} since {since}"));
                }
            }
            if said > stored as u64 {
                return broken(Invariant::DurableBeforeAcknowledged, || {
                    format!("{said} frames of {key} are acknowledged and {stored} are stored")
                });
            }
        }
        None
    }

    fn check_attempt(&mut self, key: AttemptKey) -> Option<Broken> {
        let attempt = self.store.attempt(key);
        let run = self.oracle.run(key);
        for frame in &attempt.log[run.compared..] {
            if let Some(broken) = run.compare(key, frame) {
                return Some(broken);
            }
        }
        run.compared = attempt.log.len();
        if let Some(end) = run.end.filter(|end| *end != attempt.state) {
            return broken(Invariant::OneResult, || {
                format!("{key} was {end}, is {}", attempt.state)
            });
        }
        if attempt.state.is_final() && run.end.is_none() {
            run.end = Some(attempt.state);
            let long_ago = self.now.saturating_sub(LONG);
            let said = run.outcome.is_some() && run.ended_at < long_ago;
            let heard = |process: &Process| {
                process.session.held() == Some(key) && process.has_link_since(long_ago)
            };
            if attempt.state == AttemptState::Lost && said && self.processes.iter().any(heard) {
                return broken(Invariant::ResultHeard, || format!("{key} is lost"));
            }
            if attempt.state == AttemptState::Finished {
                if attempt.outcome != run.outcome || attempt.worker != run.worker {
                    return broken(Invariant::Fenced, || {
                        format!("{key} ended with {:?}, not {:?}", run.outcome, attempt.outcome)
                    });
                }
                let (stored, written) = (run.accounted, run.written.len());
                if stored != written {
                    return broken(Invariant::CompleteOutput, || {
                        format!("{key} finished with {stored} of {written} pieces")
                    });
                }
            }
        }
        None
    }

    fn check_open_attempts(&self) -> Option<Broken> {
        let mut holders: Vec<usize> = Vec::new();
        for (index, job) in self.store.jobs.iter().enumerate() {
            let open = job.attempts.iter().filter(|attempt| !attempt.state.is_final());
            let before = holders.len();
            holders.extend(open.map(|attempt| attempt.worker));
            if holders.len() > before + 1 {
                return broken(Invariant::OneOpenAttempt, || format!("job {index} has two"));
            }
        }
        holders.sort_unstable();
        let twice = holders.windows(2).find(|pair| pair[0] == pair[1])?;
        broken(Invariant::OneOpenAttempt, || format!("worker {} has two", twice[0]))
    }

    fn check_results(&mut self) -> Option<Broken> {
        for (index, job) in self.store.jobs.iter().enumerate() {
            let last = entry(&mut self.oracle.finals, index);
            if let Some((_, state)) =
                last.filter(|(retries, state)| *retries == job.retries && *state != job.state)
            {
                return broken(Invariant::OneResult, || {
                    format!("job {index} was {state} and is {}", job.state)
                });
            }
            if !job.state.is_final() {
                continue;
            }
            *last = Some((job.retries, job.state));
            if job.attempts.iter().any(|attempt| !attempt.state.is_final()) {
                return broken(Invariant::OneResult, || {
                    format!("job {index} is {} and has an open attempt", job.state)
                });
            }
        }
        None
    }

    /// What must hold when the schedule is over.
    pub(crate) fn check_end(&mut self) -> Option<Broken> {
        for (index, job) in self.store.jobs.iter().enumerate() {
            if !job.state.is_final() {
                return broken(Invariant::EveryJobEnds, || {
                    format!("job {index} is {} after {} s", job.state, self.now / 1000)
                });
            }
        }
        let keys: Vec<_> = (0..self.store.jobs.len())
            .flat_map(|job| {
                let epochs = 1..=self.store.jobs[job].attempts.len() as u32;
                epochs.map(move |epoch| AttemptKey { job: job_id(job), epoch: Epoch(epoch) })
            })
            .collect();
        keys.into_iter().find_map(|key| self.check_attempt(key))
    }
}

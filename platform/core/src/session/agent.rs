//! The agent's side of a session, from its registration to its end: the attempt in hand, what has to be
//! said on the link, and when to leave.
//!
//! Who drives it has the link, the command, the clock and SIGTERM. Moments are durations on a clock of
//! the driver's that never goes back.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::{FromAgent, Loss, OutboxFull, OutputStream, Spool, ToAgent, held::Held};
use crate::{attempt::Outcome, id::AttemptKey};

/// From a job's end by SIGTERM to giving up on the acknowledgement of its result.
const REPORT_GRACE: Duration = Duration::from_secs(5);
/// How long an agent that is told to leave has to say so when it holds nothing.
const FAREWELL: Duration = Duration::from_secs(1);

/// Bounds of an agent's session.
#[derive(Debug, Clone, Copy)]
pub struct AgentBounds {
    /// Bytes of output, costs included, that may wait in memory for their acknowledgement.
    pub window_bytes: usize,
    /// Largest payload of a frame, in bytes.
    pub frame_bytes: usize,
    /// How long the command waits when there is neither a link nor room, until its output is dropped.
    pub stall: Duration,
    /// How long the agent goes on without a link.
    pub give_up: Duration,
    /// How long it waits for work; `None`: as long as it has a link.
    pub idle: Option<Duration>,
    /// How long a command has to end by itself once the agent was told to leave.
    pub drain_grace: Duration,
}

/// What follows from a message for the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Start the command of this attempt; it is held from now on.
    Begin(AttemptKey),
    /// Stop the command; its end is still to be told.
    Stop {
        /// Whose command.
        attempt: AttemptKey,
        /// From SIGTERM to SIGKILL.
        grace: Duration,
    },
    /// The attempt is not this worker's any more: kill what runs of it. It is no longer held.
    Drop(AttemptKey),
    /// The server has the attempt's result, or will not have it. It is no longer held.
    Reported {
        /// Which attempt.
        attempt: AttemptKey,
        /// Whether the server took it.
        accepted: bool,
    },
    /// There is no further work: leave, whatever is held.
    Leave,
}

/// A message that a correct server does not send. Nothing but what is said here was done on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Oddity {
    /// An attempt is given while another one is held.
    #[error("attempt {offered} is given while {held} is held")]
    Busy {
        /// What was given.
        offered: AttemptKey,
        /// What is held.
        held: AttemptKey,
    },
    /// An attempt is given to an agent that leaves.
    #[error("attempt {0} is not taken: this worker is leaving")]
    Leaving(AttemptKey),
    /// A frame is acknowledged that was never made. All there are count as acknowledged.
    #[error("frame {sequence} of attempt {attempt} is acknowledged and was never made")]
    NeverMade {
        /// Which attempt.
        attempt: AttemptKey,
        /// The number acknowledged.
        sequence: u64,
    },
    /// A stream is welcomed twice.
    #[error("a second Welcome on one stream is ignored")]
    SecondWelcome,
}

/// Why an agent leaves by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// It was told to leave and holds nothing.
    Drained,
    /// It was told to leave, and what it holds gets no result.
    Unreported(AttemptKey),
    /// There was no link for too long.
    LinkLost {
        /// For how long.
        down: Duration,
    },
    /// It has nothing to do, and no word comes.
    Idle,
}

/// An agent's session, over all the links it is made of.
#[derive(Debug)]
pub struct AgentSession<S> {
    bounds: AgentBounds,
    /// Never written to: each attempt gets one of its own like this.
    spool: S,
    held: Option<Held<S>>,
    owes_heartbeat: bool,
    owes_farewell: bool,
    /// Since when there is no link; `None` while there is one.
    down_since: Option<Duration>,
    /// Since when there is nothing to do.
    idle_since: Duration,
    /// When to leave at the latest, once told to.
    leave_at: Option<Duration>,
    finished: u64,
}

impl<S: Spool> AgentSession<S> {
    /// A session without a link that holds nothing. Each attempt gets a fresh spool like this one.
    #[must_use]
    pub fn new(bounds: AgentBounds, spool: S, now: Duration) -> Self {
        Self {
            bounds,
            spool,
            held: None,
            owes_heartbeat: false,
            owes_farewell: false,
            down_since: Some(now),
            idle_since: now,
            leave_at: None,
            finished: 0,
        }
    }

    /// The attempt that is held: what Hello names.
    #[must_use]
    pub fn held(&self) -> Option<AttemptKey> {
        self.held.as_ref().map(Held::key)
    }

    /// The last number of the attempt in hand that the server acknowledged; 0 without one.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.held.as_ref().map_or(0, Held::acknowledged)
    }

    /// The number of the last frame of the attempt in hand that went to the spool; 0 without one.
    #[must_use]
    pub fn spooled(&self) -> u64 {
        self.held.as_ref().map_or(0, Held::spooled)
    }

    /// What was dropped of the attempt in hand and has no record yet.
    #[must_use]
    pub fn dropped(&self) -> Option<Loss> {
        self.held.as_ref().and_then(Held::dropped)
    }

    /// Whether the link is lost.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.down_since.is_some()
    }

    /// Whether it was told to leave.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leave_at.is_some()
    }

    /// Whether work was done and none is held: the server may forget such a worker.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.held.is_none() && self.finished > 0
    }

    /// Takes what the server says on the present link.
    ///
    /// # Errors
    /// What a correct server does not say.
    pub fn on_message(
        &mut self,
        message: &ToAgent,
        now: Duration,
    ) -> Result<Option<Order>, Oddity> {
        match *message {
            ToAgent::Welcome { acked_sequence, revoked } => {
                self.on_welcome(acked_sequence, revoked, now)
            }
            ToAgent::Assignment(key) => self.on_assignment(key),
            ToAgent::LogAck { attempt, sequence } => {
                let known = self.holds(attempt).is_none_or(|held| held.acknowledge(sequence));
                self.look(now);
                if known { Ok(None) } else { Err(Oddity::NeverMade { attempt, sequence }) }
            }
            ToAgent::ResultAck { attempt, accepted } => {
                let reported = self.held.take_if(|held| held.key() == attempt).is_some();
                if reported {
                    self.finished += 1;
                    self.idle_since = now;
                }
                Ok(reported.then_some(Order::Reported { attempt, accepted }))
            }
            ToAgent::Cancel { attempt, grace } => {
                Ok(self.holds(attempt).map(|_| Order::Stop { attempt, grace }))
            }
            ToAgent::Shutdown => Ok(Some(Order::Leave)),
        }
    }

    fn on_welcome(
        &mut self,
        acked_sequence: u64,
        revoked: bool,
        now: Duration,
    ) -> Result<Option<Order>, Oddity> {
        if self.down_since.take().is_none() {
            return Err(Oddity::SecondWelcome);
        }
        if revoked {
            let dropped = self.held.take().map(|held| Order::Drop(held.key()));
            if dropped.is_some() {
                self.idle_since = now;
            }
            return Ok(dropped);
        }
        let Some(held) = &mut self.held else { return Ok(None) };
        let known = held.resume_after(acked_sequence);
        held.look(false, now);
        let never = Oddity::NeverMade { attempt: held.key(), sequence: acked_sequence };
        if known { Ok(None) } else { Err(never) }
    }

    fn on_assignment(&mut self, offered: AttemptKey) -> Result<Option<Order>, Oddity> {
        match self.held() {
            // The same one again means that the server did not see it taken.
            Some(held) if held == offered => Ok(None),
            Some(held) => Err(Oddity::Busy { offered, held }),
            None if self.is_leaving() => Err(Oddity::Leaving(offered)),
            None => {
                self.held = Some(Held::new(offered, &self.bounds, self.spool.fresh()));
                Ok(Some(Order::Begin(offered)))
            }
        }
    }

    fn holds(&mut self, attempt: AttemptKey) -> Option<&mut Held<S>> {
        self.held.as_mut().filter(|held| held.key() == attempt)
    }

    fn look(&mut self, now: Duration) {
        let down = self.is_down();
        if let Some(held) = &mut self.held {
            held.look(down, now);
        }
    }

    /// Whether the command's next event can be taken. While not, its output is not read: that slows it
    /// down and loses nothing. When that has lasted too long without a link, output is taken and dropped.
    #[must_use]
    pub fn has_room(&self, now: Duration) -> bool {
        self.held.as_ref().is_some_and(|held| held.has_room(self.is_down(), now))
    }

    /// The command runs.
    pub fn started(&mut self, time: Timestamp) {
        if let Some(held) = &mut self.held {
            held.started(time);
        }
    }

    /// The command wrote something. It is kept, or dropped and counted.
    ///
    /// # Errors
    /// When there is no room; nothing is taken then. See [`has_room`](Self::has_room).
    pub fn output(
        &mut self,
        stream: OutputStream,
        time: Timestamp,
        data: Bytes,
        now: Duration,
    ) -> Result<(), OutboxFull> {
        let down = self.is_down();
        self.held.as_mut().map_or(Ok(()), |held| held.output(stream, time, data, (down, now)))
    }

    /// The command ended, or could not be run. Without an outcome it was stopped because the worker
    /// leaves: such an attempt has no result.
    pub fn ended(&mut self, outcome: Option<Outcome>, time: Timestamp) {
        if let Some(held) = &mut self.held {
            held.ended(outcome, time);
        }
    }

    /// It is time for a heartbeat. Without a link, or with one still to be sent, there is none.
    pub fn beat(&mut self) {
        self.owes_heartbeat |= !self.is_down();
    }

    /// The link is lost, or could not be opened. Whether there was one.
    pub fn link_lost(&mut self, now: Duration) -> bool {
        let had_link = self.down_since.is_none();
        self.down_since.get_or_insert(now);
        self.owes_heartbeat = false;
        self.look(now);
        had_link
    }

    /// The worker has to leave: no new work is taken. What is held is to be stopped by the driver.
    pub fn leave(&mut self, now: Duration) {
        let stay =
            if self.held.is_some() { self.bounds.drain_grace + REPORT_GRACE } else { FAREWELL };
        self.leave_at = Some(now + stay);
        self.owes_farewell = true;
    }

    /// Whether something waits to be sent on the present link.
    #[must_use]
    pub fn has_message(&self) -> bool {
        let control = self.owes_heartbeat || self.owes_farewell;
        control || self.held.as_ref().is_some_and(Held::has_message)
    }

    /// What to send next. One that could not be sent counts as lost with its link.
    pub fn next_message(&mut self) -> Option<FromAgent> {
        if std::mem::take(&mut self.owes_heartbeat) {
            return Some(FromAgent::Heartbeat);
        }
        if std::mem::take(&mut self.owes_farewell) {
            return Some(FromAgent::Draining);
        }
        self.held.as_mut().and_then(Held::next_message)
    }

    /// The next moment, after `now`, at which something changes by itself; `None` while nothing presses.
    #[must_use]
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        let drops_from = self.held.as_ref().and_then(|held| held.drops_from(self.is_down()));
        [drops_from.filter(|from| *from > now), self.leaves_at()].into_iter().flatten().min()
    }

    /// When to leave at the latest.
    fn leaves_at(&self) -> Option<Duration> {
        let link = self.down_since.map(|since| since + self.bounds.give_up);
        let waits = self.bounds.idle.filter(|_| self.held.is_none());
        let idle = waits.map(|idle| self.idle_since + idle);
        [self.leave_at, link, idle].into_iter().flatten().min()
    }

    /// Whether to leave now, and why.
    #[must_use]
    pub fn departure(&self, now: Duration) -> Option<Departure> {
        let held = self.held();
        if self.is_leaving() && held.is_none() && !self.has_message() {
            return Some(Departure::Drained);
        }
        if let Some(held) = self.held.as_ref().filter(|held| held.is_given_up()) {
            return Some(Departure::Unreported(held.key()));
        }
        if self.leaves_at().is_none_or(|deadline| now < deadline) {
            return None;
        }
        Some(match (held.filter(|_| self.is_leaving()), self.down_since) {
            (Some(held), _) => Departure::Unreported(held),
            (None, Some(since)) if held.is_some() || (!self.is_leaving() && self.finished == 0) => {
                Departure::LinkLost { down: now.saturating_sub(since) }
            }
            _ => Departure::Idle,
        })
    }
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;

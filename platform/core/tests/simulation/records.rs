//! What a server takes of what an agent says, and what it writes down of it: output as it comes, in one
//! transaction after another; a result once all before it is durable.

use hodei_core::{
    id::AttemptKey,
    session::{
        Frame, FromAgent, ToAgent,
        ruling::{Ending, LogStanding, Settlement, settle},
    },
    worker::WorkerState,
};

use crate::{
    Sabotage,
    situations::Situation,
    store::End,
    world::{Event, World},
};

/// A session has to end: what was sent cannot be, or the store does not answer.
struct Over;

impl World {
    fn is(&self, sabotage: Sabotage) -> bool {
        self.store.is(sabotage)
    }

    pub(crate) fn server_hears(&mut self, stream: usize, message: FromAgent) {
        let replica = self.streams[stream].replica;
        if !self.reaches_server(stream) {
            return;
        }
        let Some(index) = self.replicas[replica].find(stream) else { return };
        if !self.is_present(stream) {
            self.store.reach(Situation::LateMessage);
        }
        self.replicas[replica].sessions[index].heard = true;
        if self.take(replica, index, message).is_err() {
            self.end_session(replica, stream);
        }
    }

    fn take(&mut self, replica: usize, index: usize, message: FromAgent) -> Result<(), Over> {
        let session = &self.replicas[replica].sessions[index];
        let (stream, worker) = (session.stream, session.worker);
        let unfenced = session.own.filter(|_| self.is(Sabotage::NoEpochFence));
        let named = |key| unfenced.unwrap_or(key);
        let is_own = |key| session.own == Some(key);
        match message {
            FromAgent::Heartbeat => {}
            FromAgent::Logs { attempt, frames } => {
                if let Some(log) = session.log.filter(|_| is_own(named(attempt))) {
                    return self.take_frames(replica, log, stream, frames);
                }
            }
            FromAgent::Result(report) => {
                let key = named(report.attempt);
                if is_own(key) {
                    let session = &mut self.replicas[replica].sessions[index];
                    session.pending = Some((report.outcome, report.last_sequence));
                    return self.settle(replica, index);
                }
                self.answer_result(replica, index, key, false);
            }
            _ if !self.store_answers() => return Err(Over),
            FromAgent::Started { attempt, .. } => {
                let key = named(attempt);
                if is_own(key) {
                    self.store.started(key, worker, self.now);
                }
            }
            FromAgent::Draining => self.store.advance(worker, WorkerState::Draining),
        }
        Ok(())
    }

    fn take_frames(
        &mut self,
        replica: usize,
        index: usize,
        stream: usize,
        mut frames: Vec<Frame>,
    ) -> Result<(), Over> {
        let (doubles, early) = (self.is(Sabotage::DoubleFrames), self.is(Sabotage::AckTooEarly));
        let log = &mut self.replicas[replica].logs[index];
        if log.closed {
            return Err(Over);
        }
        if doubles && frames.first().is_some_and(|first| first.sequence <= log.inbox.received()) {
            for (frame, sequence) in frames.iter_mut().zip(log.inbox.received() + 1..) {
                frame.sequence = sequence;
            }
        }
        let accepted = log.inbox.accept(frames).map_err(|_| Over)?;
        if accepted.duplicates > 0 {
            self.store.reach(Situation::FramesRepeated);
        }
        log.unsaved.extend(accepted.frames);
        let (attempt, sequence) = (log.key, log.inbox.received());
        self.flush_soon(replica, index);
        if early {
            self.say_to_agent(stream, ToAgent::LogAck { attempt, sequence });
        }
        Ok(())
    }

    fn flush_soon(&mut self, replica: usize, log: usize) {
        let incarnation = self.replicas[replica].incarnation;
        let state = &mut self.replicas[replica].logs[log];
        if !state.unsaved.is_empty() && !std::mem::replace(&mut state.flushing, true) {
            let slow = self.has_faults() && self.rng.chance(30);
            let most = if slow { 10_000 } else { 40 };
            self.after(1, most, Event::Flush { replica, incarnation, log });
        }
    }

    /// Stores what a log has, in one transaction.
    pub(crate) fn flush(&mut self, replica: usize, incarnation: u32, index: usize) {
        let server = &mut self.replicas[replica];
        if !server.up || server.incarnation != incarnation {
            return;
        }
        if self.store_down_until > self.now {
            return self.push(self.now + 500, Event::Flush { replica, incarnation, log: index });
        }
        let log = &mut server.logs[index];
        log.flushing = false;
        if log.closed {
            return;
        }
        let frames = std::mem::take(&mut log.unsaved);
        match frames.last() {
            Some(last) if self.store.append(log.key, log.worker, &frames) => {
                log.inbox.committed(last.sequence);
            }
            // It goes on elsewhere, or has ended.
            _ => {
                if !self.store.attempt(log.key).state.is_final() {
                    self.store.reach(Situation::LogWentOnElsewhere);
                }
                log.closed = true;
            }
        }
        let (attempt, sequence, closed) = (log.key, log.inbox.durable(), log.closed);
        self.each_session_of(replica, index, |world, stream| {
            if !closed {
                world.say_to_agent(stream, ToAgent::LogAck { attempt, sequence });
            }
        });
    }

    /// Says something on each session of a log, and settles what that makes possible.
    pub(crate) fn each_session_of(
        &mut self,
        replica: usize,
        log: usize,
        say: impl Fn(&mut Self, usize),
    ) {
        let sessions = self.replicas[replica].sessions.iter();
        let streams: Vec<_> =
            sessions.filter(|s| s.log == Some(log)).map(|session| session.stream).collect();
        for stream in streams {
            say(self, stream);
            let Some(index) = self.replicas[replica].find(stream) else { continue };
            if self.settle(replica, index).is_err() {
                self.end_session(replica, stream);
            }
        }
    }

    /// Takes the result once every frame before it is durable, or once no more frames can be.
    fn settle(&mut self, replica: usize, index: usize) -> Result<(), Over> {
        let session = &self.replicas[replica].sessions[index];
        let worker = session.worker;
        let (Some((_, last)), Some(own)) = (session.pending.as_ref(), session.own) else {
            return Ok(());
        };
        let standing = match session.log.map(|log| &self.replicas[replica].logs[log]) {
            None => LogStanding::None,
            Some(log) if log.closed => {
                LogStanding::Closed { attempt_open: !self.store.attempt(own).state.is_final() }
            }
            Some(log) => LogStanding::Open { durable: log.inbox.durable() },
        };
        let hasty = self.is(Sabotage::ResultBeforeFrames);
        let accepted = match settle(*last, standing) {
            Settlement::Wait if !hasty => {
                self.store.reach(Situation::ResultWaited);
                return Ok(());
            }
            Settlement::Moved => {
                self.store.reach(Situation::ResultMoved);
                return Err(Over);
            }
            Settlement::Refuse => false,
            Settlement::Give | Settlement::Wait => {
                if !self.store_answers() {
                    return Err(Over);
                }
                let pending = self.replicas[replica].sessions[index].pending.take();
                let (outcome, _) = pending.expect("it was looked at above");
                let ending = self.store.end(own, worker, End::Finished(outcome), self.now);
                if ending == Ending::Repeated {
                    self.store.reach(Situation::ResultRepeated);
                }
                !matches!(ending, Ending::Refused(_))
            }
        };
        self.replicas[replica].sessions[index].pending = None;
        self.answer_result(replica, index, own, accepted);
        Ok(())
    }

    fn answer_result(&mut self, replica: usize, index: usize, attempt: AttemptKey, accepted: bool) {
        let session = &mut self.replicas[replica].sessions[index];
        if !accepted {
            self.store.reach(Situation::ResultRefused);
        }
        session.told.given.take_if(|given| *given == attempt);
        let stream = session.stream;
        self.say_to_agent(stream, ToAgent::ResultAck { attempt, accepted });
        self.push_what_follows(replica, stream);
    }
}

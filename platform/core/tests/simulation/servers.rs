//! The servers and their sessions, as platform/server has them, by the rules of `hodei_core::session`.
//! What is in memory here is gone with a crash; the store stays.

use hodei_core::{
    attempt::Outcome,
    id::AttemptKey,
    session::{Frame, Inbox, ToAgent, admission::Opening},
};

use crate::{
    Millis, Sabotage,
    duty::{Push, Told, next_push},
    situations::Situation,
    store::{End, STOP_GRACE},
    world::World,
};

/// The output of one attempt on its way to the store.
pub(crate) struct Log {
    pub(crate) key: AttemptKey,
    pub(crate) worker: usize,
    pub(crate) inbox: Inbox,
    pub(crate) unsaved: Vec<Frame>,
    pub(crate) closed: bool,
    pub(crate) flushing: bool,
}

pub(crate) struct Session {
    pub(crate) stream: usize,
    pub(crate) worker: usize,
    pub(crate) own: Option<AttemptKey>,
    pub(crate) log: Option<usize>,
    pub(crate) pending: Option<(Outcome, u64)>,
    pub(crate) told: Told,
    pub(crate) heard: bool,
}

pub(crate) struct Replica {
    pub(crate) up: bool,
    pub(crate) incarnation: u32,
    pub(crate) notified: bool,
    pub(crate) last_good: Option<Millis>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) logs: Vec<Log>,
}

impl Default for Replica {
    fn default() -> Self {
        Self {
            up: true,
            incarnation: 0,
            notified: false,
            last_good: None,
            sessions: Vec::new(),
            logs: Vec::new(),
        }
    }
}

impl Replica {
    /// Forgets all that is not in the store.
    pub(crate) fn crash(&mut self) {
        *self = Self {
            up: false,
            incarnation: self.incarnation + 1,
            notified: self.notified,
            ..Self::default()
        };
    }

    pub(crate) fn find(&self, stream: usize) -> Option<usize> {
        self.sessions.iter().position(|session| session.stream == stream)
    }

    /// The log of an attempt. One that is there goes on, unless another server has stored more.
    fn open_log(&mut self, key: AttemptKey, worker: usize, durable: u64) -> usize {
        for (index, log) in self.logs.iter_mut().enumerate() {
            if log.key == key && log.worker == worker && !log.closed {
                if log.inbox.durable() >= durable {
                    return index;
                }
                log.closed = true;
            }
        }
        let inbox = Inbox::resume(durable);
        self.logs.push(Log {
            key,
            worker,
            inbox,
            unsaved: Vec::new(),
            closed: false,
            flushing: false,
        });
        self.logs.len() - 1
    }
}

impl World {
    pub(crate) fn open_session(&mut self, stream: usize, held: Option<AttemptKey>) {
        if !self.reaches_server(stream) {
            return;
        }
        if !self.store_answers() {
            return self.close_from_server(stream, false);
        }
        let (process, replica) = (self.streams[stream].process, self.streams[stream].replica);
        let (worker, uid) = (self.processes[process].worker, self.processes[process].uid);
        let token = self.processes[process].token.unwrap_or_default();
        if self.store.authenticate(worker, token, uid).is_err() {
            self.store.reach(Situation::ForeignPod);
            return self.close_from_server(stream, true);
        }
        self.oracle.admitted(worker, process);
        let before = self.replicas[replica].sessions.iter().find(|other| other.worker == worker);
        if let Some(before) = before.map(|session| session.stream) {
            self.store.reach(Situation::StreamFenced);
            self.end_session(replica, before);
        }
        let (opening, own, acked_sequence) = self.store.open_session(worker, held, self.now);
        if let (Opening::Forgotten, Some(key)) = (opening, own) {
            self.store.end(key, worker, End::Lost, self.now);
        }
        let goes_on = matches!(opening, Opening::Assign | Opening::Resume);
        let given = own.filter(|_| goes_on);
        let told = Told { given, ..Told::default() };
        let mut session =
            Session { stream, worker, own, log: None, pending: None, told, heard: true };
        session.log = given.map(|key| {
            let durable = self.store.attempt(key).log.len() as u64;
            self.replicas[replica].open_log(key, worker, durable)
        });
        let session_log = session.log;
        self.replicas[replica].sessions.push(session);
        let received = session_log.filter(|_| self.store.is(Sabotage::WelcomeTooFar));
        let acked_sequence = received
            .map_or(acked_sequence, |log| self.replicas[replica].logs[log].inbox.received());
        let revoked = opening == Opening::Revoke && !self.store.is(Sabotage::RevokeUnsaid);
        self.say_to_agent(stream, ToAgent::Welcome { acked_sequence, revoked });
        if let (Opening::Assign, Some(key)) = (opening, own) {
            self.say_to_agent(stream, ToAgent::Assignment(key));
        }
        self.push_what_follows(replica, stream);
    }

    /// The stream is gone; what it led to is forgotten.
    pub(crate) fn forget_session(&mut self, stream: usize) {
        let replica = &mut self.replicas[self.streams[stream].replica];
        if replica.incarnation == self.streams[stream].incarnation {
            replica.sessions.retain(|session| session.stream != stream);
        }
    }

    pub(crate) fn end_session(&mut self, replica: usize, stream: usize) {
        self.replicas[replica].sessions.retain(|session| session.stream != stream);
        self.close_from_server(stream, false);
    }

    /// Tells an agent what follows from the present state and was not told before.
    pub(crate) fn push_what_follows(&mut self, replica: usize, stream: usize) {
        while let Some(index) = self.replicas[replica].find(stream) {
            let session = &mut self.replicas[replica].sessions[index];
            let (worker, told) = (session.worker, &mut session.told);
            let message = match next_push(Some(self.store.duty(worker)), *told) {
                None => return,
                Some(Push::Shutdown) => {
                    told.shutdown = true;
                    ToAgent::Shutdown
                }
                Some(Push::Cancel(attempt)) => {
                    told.cancelled = Some(attempt);
                    let grace = std::time::Duration::from_millis(STOP_GRACE);
                    ToAgent::Cancel { attempt, grace }
                }
                Some(Push::Assign(key)) => {
                    told.given = Some(key);
                    (session.own, session.pending) = (Some(key), None);
                    self.store.assign(key);
                    let durable = self.store.attempt(key).log.len() as u64;
                    let log = self.replicas[replica].open_log(key, worker, durable);
                    self.replicas[replica].sessions[index].log = Some(log);
                    ToAgent::Assignment(key)
                }
            };
            self.say_to_agent(stream, message);
        }
    }

    /// The present state may have changed: looks at it for every session.
    pub(crate) fn look(&mut self, replica: usize) {
        let sessions = self.replicas[replica].sessions.iter();
        let streams: Vec<_> = sessions.map(|session| session.stream).collect();
        if !self.store_answers() {
            return streams.into_iter().for_each(|stream| self.end_session(replica, stream));
        }
        for index in 0..self.replicas[replica].logs.len() {
            let log = &mut self.replicas[replica].logs[index];
            if !log.closed && self.store.attempt(log.key).state.is_final() {
                log.closed = true;
                self.each_session_of(replica, index, |_, _| ());
            }
        }
        streams.into_iter().for_each(|stream| self.push_what_follows(replica, stream));
    }

    /// Renews the leases of the agents that were heard since the last time.
    pub(crate) fn renew_leases(&mut self, replica: usize) {
        for session in &mut self.replicas[replica].sessions {
            if std::mem::take(&mut session.heard) {
                self.store.renew_lease(session.worker, self.now);
            }
        }
    }
}

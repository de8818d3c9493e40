//! What a server takes of what an agent says, and what it refuses: pure rules over what the store knows,
//! each a table in the tests. They hold inside the transaction that acts on them, with the attempt locked.

use crate::{attempt::AttemptState, id::WorkerId};

/// An attempt as the store has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Whose it is.
    pub worker: WorkerId,
    /// Where it stands.
    pub state: AttemptState,
    /// Number of the last frame stored.
    pub stored: u64,
}

/// What becomes of a result or a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It ends the attempt.
    Take,
    /// This very worker had ended the attempt with a result before: it is repeated.
    Repeated,
    /// It is late or foreign.
    Refused(&'static str),
}

impl Standing {
    /// Whether the word of `worker` that its command runs is taken. Repeated or late, it changes nothing.
    #[must_use]
    pub fn starts(self, worker: WorkerId) -> bool {
        self.worker == worker && self.state.can_become(AttemptState::Running)
    }

    /// Whether frames from number `first` on are stored for `worker`. Two servers that both believe they
    /// have the agent exclude each other here: only one of them follows on what is stored.
    #[must_use]
    pub fn appends(self, worker: WorkerId, first: u64) -> bool {
        self.worker == worker && !self.state.is_final() && self.stored.checked_add(1) == Some(first)
    }

    /// What becomes of the word that the attempt is `end`, as `worker` or somebody for it says.
    #[must_use]
    pub fn ends(self, worker: WorkerId, end: AttemptState) -> Ending {
        if self.worker != worker {
            return Ending::Refused("the attempt is another worker's");
        }
        match (self.state, end) {
            (state, end) if end.is_final() && state.can_become(end) => Ending::Take,
            (AttemptState::Finished, AttemptState::Finished) => Ending::Repeated,
            _ => Ending::Refused("the attempt has ended already"),
        }
    }
}

/// The log of a session's attempt on the server that has the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStanding {
    /// It takes frames; up to this number they are durable.
    Open {
        /// The last durable number.
        durable: u64,
    },
    /// It takes nothing more.
    Closed {
        /// Whether the attempt has not ended: another server goes on with it then.
        attempt_open: bool,
    },
    /// The session was opened on an attempt that was not the agent's any more.
    None,
}

/// What is done with a result that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Frames before it are not durable yet.
    Wait,
    /// It is given to the store, which decides.
    Give,
    /// The session goes on elsewhere.
    Moved,
    /// It is not this session's.
    Refuse,
}

/// What is done with a result whose last frame is `last`: it waits until that is durable, so that an
/// attempt that finished has all of its output.
#[must_use]
pub fn settle(last: u64, log: LogStanding) -> Settlement {
    match log {
        LogStanding::Open { durable } if last <= durable => Settlement::Give,
        LogStanding::Open { .. } => Settlement::Wait,
        LogStanding::Closed { attempt_open: true } => Settlement::Moved,
        LogStanding::Closed { attempt_open: false } => Settlement::Give,
        LogStanding::None => Settlement::Refuse,
    }
}

#[cfg(test)]
mod tests {
    use AttemptState as S;

    use super::*;

    #[test]
    fn the_table_of_endings() {
        let (own, other) = (WorkerId::new(), WorkerId::new());
        let late = Ending::Refused("the attempt has ended already");
        for (state, end, expect) in [
            (S::Provisioning, S::Lost, Ending::Take),
            (S::Assigned, S::Finished, Ending::Take),
            (S::Running, S::Finished, Ending::Take),
            (S::Running, S::Lost, Ending::Take),
            (S::Finished, S::Finished, Ending::Repeated),
            (S::Finished, S::Lost, late),
            (S::Lost, S::Finished, late),
            (S::Lost, S::Lost, late),
            (S::Assigned, S::Running, late),
        ] {
            let standing = Standing { worker: own, state, stored: 0 };
            assert_eq!(standing.ends(own, end), expect, "{state} {end}");
            let foreign = Ending::Refused("the attempt is another worker's");
            assert_eq!(standing.ends(other, end), foreign, "{state} {end}");
        }
    }

    #[test]
    fn frames_follow_on_what_is_stored_while_the_attempt_is_open() {
        let (own, other) = (WorkerId::new(), WorkerId::new());
        for (worker, state, first, expect) in [
            (own, S::Running, 8, true),
            (own, S::Assigned, 8, true),
            (own, S::Running, 7, false),
            (own, S::Running, 9, false),
            (other, S::Running, 8, false),
            (own, S::Finished, 8, false),
            (own, S::Lost, 8, false),
        ] {
            let standing = Standing { worker: own, state, stored: 7 };
            assert_eq!(standing.appends(worker, first), expect, "{state} {first}");
        }
    }

    #[test]
    fn an_attempt_starts_once_by_the_word_of_its_worker() {
        let (own, other) = (WorkerId::new(), WorkerId::new());
        for state in S::ALL {
            let standing = Standing { worker: own, state, stored: 0 };
            let starts = matches!(state, S::Provisioning | S::Assigned);
            assert_eq!((standing.starts(own), standing.starts(other)), (starts, false), "{state}");
        }
    }

    #[test]
    fn a_result_waits_for_the_frames_before_it() {
        for (last, log, expect) in [
            (0, LogStanding::Open { durable: 0 }, Settlement::Give),
            (3, LogStanding::Open { durable: 2 }, Settlement::Wait),
            (3, LogStanding::Open { durable: 3 }, Settlement::Give),
            (3, LogStanding::Closed { attempt_open: true }, Settlement::Moved),
            (3, LogStanding::Closed { attempt_open: false }, Settlement::Give),
            (0, LogStanding::None, Settlement::Refuse),
        ] {
            assert_eq!(settle(last, log), expect, "{last} {log:?}");
        }
    }
}

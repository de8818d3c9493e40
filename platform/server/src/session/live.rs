//! The sessions that this server holds: at most one for each worker. A second stream of the same worker
//! ends the first, which is then a stale one.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use hodei_core::id::WorkerId;
use tokio_util::sync::CancellationToken;

/// The sessions held now.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    held: Mutex<HashMap<WorkerId, (u64, CancellationToken)>>,
    next: AtomicU64,
}

/// The right to be a worker's session, until `fenced` is cancelled.
#[derive(Debug)]
pub(crate) struct Ticket {
    number: u64,
    pub(crate) worker: WorkerId,
    pub(crate) fenced: CancellationToken,
}

impl Sessions {
    /// Makes this the worker's session and fences the one before. `stop` fences it, too.
    pub(crate) fn enter(&self, worker: WorkerId, stop: &CancellationToken) -> Ticket {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let fenced = stop.child_token();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, before)) = held.insert(worker, (number, fenced.clone())) {
            before.cancel();
        }
        metrics::gauge!("hodei_sessions").set(held.len() as f64);
        Ticket { number, worker, fenced }
    }

    /// The session is over.
    pub(crate) fn leave(&self, ticket: &Ticket) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.get(&ticket.worker).is_some_and(|(number, _)| *number == ticket.number) {
            held.remove(&ticket.worker);
        }
        metrics::gauge!("hodei_sessions").set(held.len() as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_stream_fences_the_first() {
        let (sessions, stop) = (Sessions::default(), CancellationToken::new());
        let worker = WorkerId::new();
        let first = sessions.enter(worker, &stop);
        let second = sessions.enter(worker, &stop);
        assert!(first.fenced.is_cancelled());
        // The first one's end does not take the second one's place away.
        sessions.leave(&first);
        let third = sessions.enter(worker, &stop);
        assert!(second.fenced.is_cancelled());
        stop.cancel();
        assert!(third.fenced.is_cancelled());
    }
}

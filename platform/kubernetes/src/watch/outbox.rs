//! The order in which subscribers are told. While the events behind a failure are asked for, what
//! happens to that worker waits; what happens to others does not.

use std::collections::HashMap;

use hodei_core::{
    id::WorkerId,
    provider::{ObservedWorker, ProviderEvent, WorkerPhase},
};

use crate::events::with_words;

/// What can't be told yet: for each worker its failure, and what came after it.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    held: HashMap<WorkerId, (ObservedWorker, Vec<ProviderEvent>)>,
}

impl Outbox {
    /// Lets the worker's events wait, beginning with this failure.
    pub(super) fn hold(&mut self, failed: ObservedWorker) {
        self.held.insert(failed.handle.worker, (failed, Vec::new()));
    }

    /// The event, if it need not wait.
    pub(super) fn pass(&mut self, event: ProviderEvent) -> Option<ProviderEvent> {
        if let ProviderEvent::Changed(seen) = &event
            && let Some((_, later)) = self.held.get_mut(&seen.handle.worker)
        {
            later.push(event);
            return None;
        }
        Some(event)
    }

    /// Ends the wait: the failure, with these words if there are some, and what came after it.
    pub(super) fn release(&mut self, worker: WorkerId, words: Option<&str>) -> Vec<ProviderEvent> {
        let Some((mut failed, later)) = self.held.remove(&worker) else { return Vec::new() };
        if let (WorkerPhase::Failed(failure), Some(words)) = (&mut failed.phase, words) {
            with_words(failure, words);
        }
        std::iter::once(ProviderEvent::Changed(failed)).chain(later).collect()
    }
}

#[cfg(test)]
mod tests {
    use hodei_core::{
        failure::{Failure, FailureCause},
        provider::WorkerHandle,
    };

    use super::*;

    fn seen(worker: WorkerId, phase: WorkerPhase) -> ObservedWorker {
        let handle = WorkerHandle { worker, resource: "w".into(), uid: "u".into() };
        ObservedWorker { phase, ..ObservedWorker::gone(handle) }
    }

    #[test]
    fn one_workers_events_wait_and_keep_their_order() {
        let (one, two) = (WorkerId::new(), WorkerId::new());
        let failure = Failure { cause: FailureCause::ImagePull, message: "no".into() };
        let mut outbox = Outbox::default();
        outbox.hold(seen(one, WorkerPhase::Failed(failure)));
        let gone = ProviderEvent::Changed(seen(one, WorkerPhase::Gone));
        let other = ProviderEvent::Changed(seen(two, WorkerPhase::Running));
        assert_eq!(outbox.pass(gone.clone()), None);
        assert_eq!(outbox.pass(other.clone()), Some(other));
        assert_eq!(outbox.pass(ProviderEvent::Resynced), Some(ProviderEvent::Resynced));
        let told = outbox.release(one, Some("Failed: x"));
        let ProviderEvent::Changed(first) = &told[0] else { panic!("{told:?}") };
        let WorkerPhase::Failed(failure) = &first.phase else { panic!("{first:?}") };
        assert_eq!(failure.message, "no; events: Failed: x");
        assert_eq!(told[1..], [gone]);
        assert_eq!(outbox.release(one, None), [], "told once");
    }
}

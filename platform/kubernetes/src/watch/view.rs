//! The state behind the shared watch: which workers there are and what each was last seen as.
//!
//! A pure machine. It is fed with what the watch reports and with the pods that were created, and
//! answers with the events that subscribers must see. Whatever is lost, doubled or relisted on the
//! way, its final state is that of the last list or change it was given.

use std::collections::{HashMap, HashSet, VecDeque};

use hodei_core::{
    id::{ProviderId, WorkerId},
    provider::{ObservedWorker, ProviderEvent, WorkerHandle, WorkerPhase},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::progress::{Progress, Step, Took};
use crate::{
    events::{may_explain, with_words},
    names,
    phase::{LogState, Sighting, sight},
};

/// How many UIDs of removed pods are remembered, against a late answer to a create.
const BURIED: usize = 1024;

#[derive(Debug)]
struct Entry {
    sighting: Sighting,
    /// What subscribers were told last.
    told: ObservedWorker,
    progress: Progress,
    /// Whether the events behind its failure were asked for.
    asked: bool,
    /// What they say.
    words: Option<String>,
}

impl Entry {
    fn at(&self, now: Timestamp) -> ObservedWorker {
        let mut seen = self.sighting.at(now);
        if let (WorkerPhase::Failed(failure), Some(words)) = (&mut seen.phase, &self.words) {
            with_words(failure, words);
        }
        seen
    }
}

/// Where a worker stands in the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Presence {
    /// This very resource is there.
    Here(ObservedWorker),
    /// There is nothing of this worker, or only another resource of the same name.
    Gone,
}

/// All workers of one provider as last seen.
#[derive(Debug)]
pub(crate) struct View {
    provider: ProviderId,
    patience: SignedDuration,
    entries: HashMap<WorkerId, Entry>,
    /// Workers known when the current list began and not met in it yet.
    missing: Option<HashSet<WorkerId>>,
    /// Grows when a list begins and when it ends.
    lists: u64,
    synced: bool,
    /// UIDs of removed pods, and where their logs stood.
    buried: VecDeque<(String, LogState)>,
    /// What is to be measured.
    took: Vec<Took>,
    /// Whether something changed that is no event.
    silent_change: bool,
}

/// Where a worker's log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogView {
    /// Nothing is known of this resource.
    Unknown,
    /// It is there.
    Here(LogState),
    /// It is gone; the last that was seen of its log, if anything was.
    Gone(Option<LogState>),
    /// The provider was closed.
    Closed,
}

impl View {
    pub(crate) fn new(provider: ProviderId, patience: SignedDuration) -> Self {
        Self {
            provider,
            patience,
            entries: HashMap::new(),
            missing: None,
            lists: 0,
            synced: false,
            buried: VecDeque::new(),
            took: Vec::new(),
            silent_change: false,
        }
    }

    /// Whether a whole list has been seen.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced
    }

    /// Changes whenever a list begins or ends.
    pub(crate) fn lists(&self) -> u64 {
        self.lists
    }

    /// A list begins.
    pub(crate) fn list_began(&mut self) {
        self.lists += 1;
        self.missing = Some(self.entries.keys().copied().collect());
    }

    /// The list is complete: what it did not contain is gone.
    pub(crate) fn list_ended(&mut self) -> Vec<ProviderEvent> {
        let missing = self.missing.take().unwrap_or_default();
        let mut events: Vec<_> = missing.iter().filter_map(|worker| self.bury(*worker)).collect();
        self.synced = true;
        self.lists += 1;
        events.push(ProviderEvent::Resynced);
        events
    }

    /// A pod was listed, added or changed.
    pub(crate) fn saw(&mut self, pod: &Pod, now: Timestamp) -> Vec<ProviderEvent> {
        let Some(worker) = names::owned_worker(&pod.metadata, &self.provider) else {
            return Vec::new();
        };
        let sighting = sight(pod, worker, self.patience);
        let uid = &sighting.observed.handle.uid;
        // A list is the truth; a change that comes after the removal is an old one.
        if self.missing.is_none() && self.is_buried(uid) {
            return Vec::new();
        }
        if let Some(missing) = &mut self.missing {
            missing.remove(&worker);
        }
        let replaced = self.entries.get(&worker).is_some_and(|old| old.told.handle.uid != *uid);
        let mut events = Vec::new();
        if replaced {
            events.extend(self.bury(worker));
            // It was not removed for certain: an answer may have run ahead of the watch.
            self.buried.pop_back();
        }
        // What a list shows may have happened long ago.
        let at = self.missing.is_none().then_some(now);
        let step = Step::of(pod);
        let entry = match self.entries.remove(&worker) {
            Some(mut entry) => {
                self.took.extend(entry.progress.reach(step, at));
                self.silent_change |= entry.sighting.log != sighting.log;
                entry.sighting = sighting;
                let current = entry.at(now);
                if is_news(&entry.told, &current) {
                    events.push(ProviderEvent::Changed(current.clone()));
                }
                entry.told = current;
                entry
            }
            None => {
                let told = sighting.at(now);
                events.push(ProviderEvent::Changed(told.clone()));
                let progress = Progress::begun(step, at);
                Entry { sighting, told, progress, asked: false, words: None }
            }
        };
        self.entries.insert(worker, entry);
        events
    }

    /// A pod was removed.
    pub(crate) fn removed(&mut self, pod: &Pod) -> Vec<ProviderEvent> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        match names::owned_worker(&pod.metadata, &self.provider) {
            Some(worker) => self.forget(worker, uid),
            None => Vec::new(),
        }
    }

    /// It was learnt in another way that this resource is gone.
    pub(crate) fn forget(&mut self, worker: WorkerId, uid: &str) -> Vec<ProviderEvent> {
        let same = self.entries.get(&worker).is_some_and(|entry| entry.told.handle.uid == uid);
        if same { self.bury(worker).into_iter().collect() } else { Vec::new() }
    }

    /// A pod was answered by the API: it is there although the watch may not have told yet. What
    /// the watch knows already is newer than the answer.
    ///
    /// `lists` is what [`Self::lists`] said before the request was sent. With a list in between,
    /// the pod may have been removed unseen and would stay here for ever: then the answer is `None`,
    /// and the question has to be asked again.
    pub(crate) fn answered(
        &mut self,
        pod: &Pod,
        lists: u64,
        now: Timestamp,
    ) -> Option<Vec<ProviderEvent>> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let worker = names::owned_worker(&pod.metadata, &self.provider)?;
        let known = self.entries.contains_key(&worker);
        if known || self.is_buried(uid) {
            return Some(Vec::new());
        }
        let certain = self.missing.is_none() && self.lists == lists;
        certain.then(|| self.saw(pod, now))
    }

    /// Time has passed: states that lasted too long become failures.
    pub(crate) fn passed(&mut self, now: Timestamp) -> Vec<ProviderEvent> {
        let mut events = Vec::new();
        for entry in self.entries.values_mut().filter(|entry| entry.sighting.overdue.is_some()) {
            let current = entry.at(now);
            if is_news(&entry.told, &current) {
                entry.told = current.clone();
                events.push(ProviderEvent::Changed(current));
            }
        }
        events
    }

    /// What is known of one resource.
    pub(crate) fn find(&self, handle: &WorkerHandle, now: Timestamp) -> Presence {
        match self.entries.get(&handle.worker) {
            Some(entry) if entry.told.handle.uid == handle.uid => Presence::Here(entry.at(now)),
            _ => Presence::Gone,
        }
    }

    /// The resource that stands under a worker's id.
    pub(crate) fn handle_of(&self, worker: WorkerId) -> Option<WorkerHandle> {
        self.entries.get(&worker).map(|entry| entry.told.handle.clone())
    }

    /// Every worker.
    pub(crate) fn list(&self, now: Timestamp) -> Vec<ObservedWorker> {
        self.entries.values().map(|entry| entry.at(now)).collect()
    }

    /// How many workers there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Where the log of one resource stands.
    pub(crate) fn log_of(&self, handle: &WorkerHandle) -> LogView {
        let buried = self.buried.iter().find(|(uid, _)| *uid == handle.uid);
        match (self.entries.get(&handle.worker), buried) {
            (Some(entry), _) if entry.told.handle.uid == handle.uid => {
                LogView::Here(entry.sighting.log)
            }
            (_, Some((_, log))) => LogView::Gone(Some(*log)),
            // The API knows a log by the pod's name only, and the name is another one's.
            (Some(_), None) => LogView::Gone(None),
            (None, None) => LogView::Unknown,
        }
    }

    /// The finalizers on one resource.
    pub(crate) fn finalizers_of(&self, handle: &WorkerHandle) -> Vec<String> {
        let entry = self.entries.get(&handle.worker);
        let entry = entry.filter(|entry| entry.told.handle.uid == handle.uid);
        entry.map(|entry| entry.sighting.finalizers.clone()).unwrap_or_default()
    }

    /// Whether the events behind this failure are to be asked for: once for each resource.
    pub(crate) fn shall_explain(&mut self, seen: &ObservedWorker) -> bool {
        let WorkerPhase::Failed(failure) = &seen.phase else { return false };
        let entry = self.entries.get_mut(&seen.handle.worker);
        let entry = entry.filter(|entry| entry.told.handle.uid == seen.handle.uid);
        let Some(entry) = entry.filter(|entry| !entry.asked && may_explain(failure)) else {
            return false;
        };
        entry.asked = true;
        true
    }

    /// What the events say about a resource that failed.
    pub(crate) fn explained(&mut self, handle: &WorkerHandle, words: &str) {
        let entry = self.entries.get_mut(&handle.worker);
        if let Some(entry) = entry.filter(|entry| entry.told.handle.uid == handle.uid) {
            entry.words = Some(words.to_owned());
        }
    }

    /// What is to be measured since the last call.
    pub(crate) fn take_measures(&mut self) -> Vec<Took> {
        std::mem::take(&mut self.took)
    }

    /// Whether something changed since the last call that no event tells.
    pub(crate) fn take_silent_change(&mut self) -> bool {
        std::mem::take(&mut self.silent_change)
    }

    fn is_buried(&self, uid: &str) -> bool {
        self.buried.iter().any(|(buried, _)| buried == uid)
    }

    fn bury(&mut self, worker: WorkerId) -> Option<ProviderEvent> {
        let Entry { told, sighting, .. } = self.entries.remove(&worker)?;
        if self.buried.len() == BURIED {
            self.buried.pop_front();
        }
        self.buried.push_back((told.handle.uid.clone(), sighting.log));
        Some(ProviderEvent::Changed(ObservedWorker { phase: WorkerPhase::Gone, ..told }))
    }
}

/// Whether subscribers care. A failure that stays the same in other words (the kubelet alternates
/// between `ErrImagePull` and `ImagePullBackOff`) is none.
fn is_news(old: &ObservedWorker, new: &ObservedWorker) -> bool {
    match (&old.phase, &new.phase) {
        (WorkerPhase::Failed(before), WorkerPhase::Failed(after)) => before.cause != after.cause,
        _ => old != new,
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;

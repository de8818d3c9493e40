//! The view against every interleaving that a model of a cluster and its watch makes up: pods come,
//! change and go; the watch delivers late, breaks off and lists again; answers to creates arrive in
//! between. In the end the view, and what a subscriber made of the events, is the truth.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodStatus;
use proptest::prelude::*;
use uuid_like::worker;

use super::*;
use crate::testing::provider_id;

/// Fixed worker ids for small numbers.
mod uuid_like {
    use hodei_core::id::WorkerId;

    pub(super) fn worker(index: usize) -> WorkerId {
        format!("0190b3a2-0000-7000-8000-{index:012}").parse().unwrap()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Create(usize),
    Change(usize, &'static str),
    Delete(usize),
    Deliver,
    BreakOff,
    ListPage,
    Answer,
}

fn step() -> impl Strategy<Value = Step> {
    let phase = prop::sample::select(vec!["Pending", "Running", "Succeeded", "Failed"]);
    prop_oneof![
        3 => (0..4_usize).prop_map(Step::Create),
        3 => (0..4_usize, phase).prop_map(|(index, phase)| Step::Change(index, phase)),
        2 => (0..4_usize).prop_map(Step::Delete),
        6 => Just(Step::Deliver),
        1 => Just(Step::BreakOff),
        4 => Just(Step::ListPage),
        2 => Just(Step::Answer),
    ]
}

fn make_pod(index: usize, uid: usize, phase: &str) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.uid = Some(format!("uid-{uid}"));
    pod.metadata.labels = Some(names::owner_labels(&provider_id(), worker(index)));
    pod.status = Some(PodStatus { phase: Some(phase.to_owned()), ..PodStatus::default() });
    pod
}

/// A cluster, a watch on it, and the view that is fed by it.
struct Model {
    truth: BTreeMap<usize, Pod>,
    uids: usize,
    /// Changes not delivered yet: the pod, and whether it is still there.
    stream: VecDeque<(Pod, bool)>,
    /// Whether a list is under way.
    listing: bool,
    /// Its pods that were not told yet, once it was read.
    page: Option<VecDeque<Pod>>,
    answers: VecDeque<(Pod, u64)>,
    view: View,
    subscriber: BTreeMap<WorkerId, ObservedWorker>,
}

impl Model {
    fn new() -> Self {
        let view = View::new(provider_id(), SignedDuration::from_secs(60));
        Self {
            truth: BTreeMap::new(),
            uids: 0,
            stream: VecDeque::new(),
            listing: false,
            page: None,
            answers: VecDeque::new(),
            view,
            subscriber: BTreeMap::new(),
        }
    }

    fn tell(&mut self, events: Vec<ProviderEvent>) {
        for event in events {
            let ProviderEvent::Changed(observed) = event else { continue };
            if observed.phase == WorkerPhase::Gone {
                let id = observed.handle.worker;
                let known = self.subscriber.remove(&id).expect("only a known worker can go");
                assert_eq!(known.handle, observed.handle, "the wrong resource was told gone");
            } else {
                self.subscriber.insert(observed.handle.worker, observed);
            }
        }
    }

    fn change(&mut self, step: &Step) {
        match *step {
            Step::Create(index) if !self.truth.contains_key(&index) => {
                self.uids += 1;
                let pod = make_pod(index, self.uids, "Pending");
                self.answers.push_back((pod.clone(), self.view.lists()));
                self.stream.push_back((pod.clone(), true));
                self.truth.insert(index, pod);
            }
            Step::Change(index, phase) => {
                if let Some(pod) = self.truth.get_mut(&index) {
                    pod.status.as_mut().unwrap().phase = Some(phase.to_owned());
                    self.stream.push_back((pod.clone(), true));
                }
            }
            Step::Delete(index) => {
                if let Some(pod) = self.truth.remove(&index) {
                    self.stream.push_back((pod, false));
                }
            }
            Step::Deliver => self.deliver(),
            Step::BreakOff => {
                self.listing = true;
                self.page = None;
                self.view.list_began();
            }
            Step::ListPage => self.list_page(),
            Step::Answer => self.answer(),
            Step::Create(_) => {}
        }
    }

    fn deliver(&mut self) {
        if self.listing || !self.view.is_synced() {
            return;
        }
        if let Some((pod, present)) = self.stream.pop_front() {
            let now = Timestamp::UNIX_EPOCH;
            let events = if present { self.view.saw(&pod, now) } else { self.view.removed(&pod) };
            self.tell(events);
        }
    }

    fn list_page(&mut self) {
        if !self.listing {
            return;
        }
        // The list is the truth when it is read, which is some time after it began.
        let page = self.page.get_or_insert_with(|| {
            self.stream.clear();
            self.truth.values().cloned().collect()
        });
        let events = match page.pop_front() {
            Some(pod) => self.view.saw(&pod, Timestamp::UNIX_EPOCH),
            None => {
                self.listing = false;
                self.page = None;
                self.view.list_ended()
            }
        };
        self.tell(events);
    }

    fn answer(&mut self) {
        let Some((pod, lists)) = self.answers.pop_front() else { return };
        let now = Timestamp::UNIX_EPOCH;
        if let Some(events) = self.view.answered(&pod, lists, now) {
            self.tell(events);
        }
    }

    fn settle(&mut self) {
        if !self.view.is_synced() && !self.listing {
            self.change(&Step::BreakOff);
        }
        while self.listing {
            self.list_page();
        }
        while !self.stream.is_empty() {
            self.deliver();
        }
        while !self.answers.is_empty() {
            self.answer();
        }
    }
}

proptest! {
    #[test]
    fn the_final_state_is_the_last_truth(steps in prop::collection::vec(step(), 1..120)) {
        let mut model = Model::new();
        for step in &steps {
            model.change(step);
        }
        model.settle();
        let patience = SignedDuration::from_secs(60);
        let truth: BTreeMap<_, _> = model
            .truth
            .iter()
            .map(|(index, pod)| (worker(*index), sight(pod, worker(*index), patience).observed))
            .collect();
        let now = Timestamp::UNIX_EPOCH;
        let seen: BTreeMap<_, _> =
            model.view.list(now).into_iter().map(|seen| (seen.handle.worker, seen)).collect();
        prop_assert_eq!(&seen, &truth);
        prop_assert_eq!(&model.subscriber, &truth);
    }
}

#[test]
fn a_worker_deleted_from_outside_is_told_gone_once() {
    let mut view = View::new(provider_id(), SignedDuration::from_secs(60));
    let pod = make_pod(1, 1, "Running");
    view.list_began();
    view.saw(&pod, Timestamp::UNIX_EPOCH);
    view.list_ended();
    let events = view.removed(&pod);
    assert!(
        matches!(&events[..], [ProviderEvent::Changed(seen)] if seen.phase == WorkerPhase::Gone)
    );
    assert!(view.removed(&pod).is_empty());
    let late = view.answered(&pod, view.lists(), Timestamp::UNIX_EPOCH);
    assert_eq!(late, Some(Vec::new()), "a late answer must not bring it back");
    assert_eq!(view.len(), 0);
}

#[test]
fn another_providers_worker_is_not_seen() {
    let mut view = View::new("other".parse().unwrap(), SignedDuration::from_secs(60));
    assert!(view.saw(&make_pod(1, 1, "Running"), Timestamp::UNIX_EPOCH).is_empty());
}

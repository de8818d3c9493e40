//! When a watch first saw what of a pod. The times are the watcher's, to the microsecond: those that
//! the API server writes are whole seconds.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, Event, Pod};
use kube::ResourceExt;

/// The label by which a pod is known to be a worker's.
const WORKER_LABEL: &str = "hodei.io/worker-id";

/// One pod as a watch saw it change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodTimes {
    /// Of which worker, by its label; empty for any other pod.
    pub worker: String,
    /// The node it is on.
    pub node: String,
    /// First seen. `None` if it was in a list: then it had been there before, unseen.
    pub created: Option<Timestamp>,
    /// First seen on a node.
    pub scheduled: Option<Timestamp>,
    /// First event that an image is there.
    pub image: Option<Timestamp>,
    /// First seen with a container that runs or has run, or first event that one was started: a kubelet
    /// tells of the latter sooner.
    pub running: Option<Timestamp>,
    /// Seen deleted.
    pub gone: Option<Timestamp>,
}

/// All pods of a namespace, by UID.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sightings {
    pods: BTreeMap<String, PodTimes>,
}

impl Sightings {
    /// A pod as it was at `at`; `listed` if it came with a list and not as a change.
    pub fn saw(&mut self, at: Timestamp, pod: &Pod, listed: bool) {
        let Some(uid) = pod.uid() else { return };
        let is_new = !self.pods.contains_key(&uid);
        let times = self.pods.entry(uid).or_default();
        // An event may have told of it before.
        if is_new || times.worker.is_empty() {
            times.worker = pod.labels().get(WORKER_LABEL).cloned().unwrap_or_default();
            times.created = (!listed).then_some(at);
        }
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        if let Some(node) = node.filter(|node| !node.is_empty()) {
            times.node.clone_from(node);
            times.scheduled.get_or_insert(at);
        }
        if has_run(pod) {
            times.running.get_or_insert(at);
        }
    }

    /// A pod that was deleted, as it was last.
    pub fn saw_gone(&mut self, at: Timestamp, pod: &Pod) {
        self.saw(at, pod, true);
        let times = pod.uid().and_then(|uid| self.pods.get_mut(&uid));
        if let Some(times) = times {
            times.gone.get_or_insert(at);
        }
    }

    /// An event that came at `at`; `listed` ones are of an unknown time before.
    pub fn saw_event(&mut self, at: Timestamp, event: &Event, listed: bool) {
        let on = &event.involved_object;
        let Some(uid) = on.uid.as_ref().filter(|_| on.kind.as_deref() == Some("Pod") && !listed)
        else {
            return;
        };
        let first = match event.reason.as_deref() {
            Some("Pulled") => &mut self.pods.entry(uid.clone()).or_default().image,
            Some("Started") => &mut self.pods.entry(uid.clone()).or_default().running,
            _ => return,
        };
        first.get_or_insert(at);
    }

    /// The pod of this UID, or the first of the worker's.
    #[must_use]
    pub fn of(&self, uid: Option<&str>, worker: &str) -> Option<&PodTimes> {
        let by_label = || self.pods.values().find(|pod| pod.worker == worker);
        uid.and_then(|uid| self.pods.get(uid)).or_else(by_label)
    }
}

fn has_run(pod: &Pod) -> bool {
    let ran = |state: &ContainerState| {
        let ended = state.terminated.as_ref();
        state.running.is_some() || ended.is_some_and(|ended| ended.started_at.is_some())
    };
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let mut states = statuses.into_iter().flatten().filter_map(|status| status.state.as_ref());
    states.any(ran)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_767_268_800 + second).unwrap()
    }

    fn pod(node: Option<&str>, state: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"uid": "u1", "name": "hodei-worker-w1", "labels": {WORKER_LABEL: "w1"}},
            "spec": {"containers": [], "nodeName": node},
            "status": {"containerStatuses": [{"name": "worker", "image": "i", "imageID": "", "ready": true,
                                              "restartCount": 0, "state": state}]},
        }))
        .unwrap()
    }

    fn event(reason: &str, uid: &str) -> Event {
        serde_json::from_value(json!({
            "metadata": {}, "reason": reason, "involvedObject": {"kind": "Pod", "uid": uid}}))
        .unwrap()
    }

    #[test]
    fn the_first_sight_of_each_counts() {
        let mut seen = Sightings::default();
        let waiting = json!({"waiting": {}});
        seen.saw_event(at(0), &event("Pulled", "u1"), false);
        seen.saw(at(1), &pod(None, waiting.clone()), false);
        seen.saw(at(2), &pod(Some("n1"), waiting), false);
        seen.saw(at(3), &pod(Some("n1"), json!({"running": {}})), false);
        seen.saw(at(4), &pod(Some("n1"), json!({"running": {}})), false);
        seen.saw_event(at(5), &event("Pulled", "u1"), false);
        seen.saw_gone(at(6), &pod(Some("n1"), json!({"terminated": {"exitCode": 0}})));
        let expected = PodTimes {
            worker: "w1".into(),
            node: "n1".into(),
            created: Some(at(1)),
            scheduled: Some(at(2)),
            image: Some(at(0)),
            running: Some(at(3)),
            gone: Some(at(6)),
        };
        assert_eq!(seen.of(Some("u1"), ""), Some(&expected));
        assert_eq!(seen.of(Some("u2"), "w1"), Some(&expected));
        let mut sooner = Sightings::default();
        sooner.saw_event(at(2), &event("Started", "u1"), false);
        sooner.saw(at(3), &pod(Some("n1"), json!({"running": {}})), false);
        assert_eq!(sooner.of(None, "w1").unwrap().running, Some(at(2)));
        assert_eq!(seen.of(None, "w2"), None);
    }

    #[test]
    fn what_a_list_told_has_no_beginning_and_what_never_ran_did_not_run() {
        let mut seen = Sightings::default();
        seen.saw_event(at(0), &event("Pulled", "u1"), true);
        seen.saw_event(at(0), &event("Created", "u1"), false);
        seen.saw(at(1), &pod(None, json!({"terminated": {"exitCode": 137}})), true);
        let times = seen.of(Some("u1"), "").unwrap();
        assert_eq!(
            (times.created, times.image, times.running, times.gone),
            (None, None, None, None)
        );
    }
}

//! What the status of a probe's pod, and the exit code of its script, say.

use k8s_openapi::api::core::v1::Pod;

use crate::host_route::{NO_GRPC, NO_NAME, NO_TCP};

/// A pod of the kubelet's that waits so will not start by itself, or not soon.
const STUCK: [&str; 6] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
];

/// How a probe ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// Its script ran, with this exit code.
    Exited(i32),
    /// It did not start, and this is why: a reason of Kubernetes and its words.
    Stuck(String, String),
}

/// How a probe ended, if it did.
pub(super) fn ended(pod: &Pod) -> Option<Ended> {
    let status = pod.status.as_ref()?;
    let container = status.container_statuses.as_ref().and_then(|all| all.first());
    let state = container.and_then(|container| container.state.as_ref());
    if let Some(terminated) = state.and_then(|state| state.terminated.as_ref()) {
        // The runtime found no such program.
        let did_not_start = ["StartError", "ContainerCannotRun"];
        let reason = terminated.reason.clone().unwrap_or_default();
        if did_not_start.contains(&reason.as_str()) {
            return Some(Ended::Stuck(reason, terminated.message.clone().unwrap_or_default()));
        }
        return Some(Ended::Exited(terminated.exit_code));
    }
    if let Some(waiting) = state.and_then(|state| state.waiting.as_ref()) {
        let reason = waiting.reason.clone().unwrap_or_default();
        if STUCK.contains(&reason.as_str()) {
            return Some(Ended::Stuck(reason, waiting.message.clone().unwrap_or_default()));
        }
    }
    // The kubelet did not take it: no room, another node's pod, no volume.
    (status.phase.as_deref() == Some("Failed")).then(|| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Ended::Stuck(text(&status.reason), text(&status.message))
    })
}

/// How it stands, for a person who waits for its end.
pub(super) fn describe(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let mut words = status.phase.unwrap_or_default();
    let waiting =
        status.container_statuses.into_iter().flatten().find_map(|one| one.state?.waiting);
    words.extend(waiting.and_then(|waiting| waiting.reason).map(|reason| format!(", {reason}")));
    let conditions = status.conditions.into_iter().flatten();
    let mut placed = conditions.filter(|one| one.type_ == "PodScheduled" && one.status == "False");
    words.extend(placed.next().and_then(|one| one.message).map(|message| format!(", {message}")));
    words
}

/// What mends it that a pod did not start.
pub(super) fn fix_of(reason: &str) -> &'static str {
    match reason {
        "ErrImagePull" | "ImagePullBackOff" => {
            "see that the name is right, that nodes reach its registry, and that \
             HODEI_K8S_IMAGE_PULL_SECRET names a Secret that may pull it"
        }
        "ErrImageNeverPull" => "load the image into the node, or let it be pulled",
        "InvalidImageName" => "write the name as registry/repository:tag",
        "StartError" | "ContainerCannotRun" => {
            "the image has to have bash and coreutils, as jobs do"
        }
        _ => "kubectl describe node says what it has left",
    }
}

/// The hop that an exit code of the script names, and what mends it.
pub(super) fn hop_of(code: i32) -> (&'static str, &'static str) {
    match code {
        NO_NAME => (
            "DNS",
            "see that the name is right, that CoreDNS answers, and that a network policy lets pods \
             ask it (deploy/kubernetes/network-policy.yaml)",
        ),
        NO_TCP => (
            "TCP",
            "see that the server listens there, and that a network policy lets workers reach the port",
        ),
        NO_GRPC => ("gRPC", "something else answers there: a proxy, or the REST port"),
        _ => ("the probe", "the image has to have bash and coreutils, as jobs do"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn each_way_a_probe_can_end_is_told_apart() {
        let pod =
            |status: Value| -> Pod { serde_json::from_value(json!({"status": status})).unwrap() };
        let state = |state: Value| {
            pod(json!({"phase": "Pending", "containerStatuses": [{"name": "agent", "image": "i",
                "imageID": "", "ready": false, "restartCount": 0, "state": state}]}))
        };
        let stuck = |reason: &str, words: &str| Some(Ended::Stuck(reason.into(), words.into()));
        for (pod, expect) in [
            (pod(json!({"phase": "Pending"})), None),
            (state(json!({"waiting": {"reason": "ContainerCreating"}})), None),
            (state(json!({"running": {}})), None),
            (state(json!({"terminated": {"exitCode": 12}})), Some(Ended::Exited(12))),
            (
                state(json!({"waiting": {"reason": "ErrImagePull", "message": "no such host"}})),
                stuck("ErrImagePull", "no such host"),
            ),
            (
                state(
                    json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": "bash: not found"}}),
                ),
                stuck("StartError", "bash: not found"),
            ),
            (
                pod(json!({"phase": "Failed", "reason": "OutOfpods", "message": "too many"})),
                stuck("OutOfpods", "too many"),
            ),
        ] {
            assert_eq!(ended(&pod), expect, "{pod:?}");
        }
        let waits = pod(json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]}));
        assert_eq!(describe(&waits), "Pending, 0/1 nodes are available");
    }
}

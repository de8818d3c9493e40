//! The table of statuses: what Kubernetes writes, and what a worker is by it.

use serde_json::{Value, json};

use super::*;

const PATIENCE: SignedDuration = SignedDuration::from_secs(300);

fn make_pod(change: &Value) -> Pod {
    let mut pod = json!({
        "metadata": {
            "name": "hodei-worker-x",
            "uid": "u1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {
                "hodei.io/job-id": "0190b3a2-0000-7000-8000-00000000000a",
                "hodei.io/attempt": "2",
            },
        },
        "spec": {"containers": [], "restartPolicy": "Never"},
        "status": {"phase": "Pending"},
    });
    merge(&mut pod, change);
    serde_json::from_value(pod).unwrap()
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn status(phase: &str, state: &Value) -> Value {
    json!({"status": {"phase": phase, "containerStatuses": [{
        "name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 1,
        "state": state,
    }]}})
}

fn waiting(reason: &str) -> Value {
    status("Pending", &json!({"waiting": {"reason": reason, "message": "words"}}))
}

fn ended(phase: &str, code: i32, reason: &str) -> Value {
    status(phase, &json!({"terminated": {"exitCode": code, "reason": reason}}))
}

fn reason(reason: &str) -> Value {
    json!({"status": {"phase": "Failed", "reason": reason, "message": "words"}})
}

fn disrupted(reason: &str) -> Value {
    json!({
        "metadata": {"deletionTimestamp": "2026-01-01T00:01:00Z"},
        "status": {"phase": "Running", "conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": reason},
        ]},
    })
}

fn word(change: &Value) -> String {
    let sighting = sight(&make_pod(change), WorkerId::new(), PATIENCE);
    match sighting.observed.phase {
        WorkerPhase::Failed(failure) => failure.cause.to_string(),
        other => format!("{other:?}"),
    }
}

#[test]
fn phases_that_are_no_failure() {
    let running = status("Running", &json!({"running": {}}));
    let mut restarting = ended("Running", 1, "Error");
    merge(&mut restarting, &json!({"spec": {"restartPolicy": "OnFailure"}}));
    for (change, expected) in [
        (json!({}), "Pending"),
        (json!({"spec": {"nodeName": "n1"}}), "Starting"),
        (waiting("ContainerCreating"), "Starting"),
        (waiting("SomethingNew"), "Starting"),
        (running, "Running"),
        (restarting, "Starting"),
        (ended("Running", 0, "Completed"), "Succeeded"),
        (ended("Succeeded", 0, "Completed"), "Succeeded"),
        (json!({"metadata": {"deletionTimestamp": "2026-01-01T00:01:00Z"}}), "Terminating"),
    ] {
        assert_eq!(word(&change), expected, "{change}");
    }
}

#[test]
fn failures_by_what_the_kubelet_says() {
    for (change, expected) in [
        (waiting("ErrImagePull"), "image_pull"),
        (waiting("ImagePullBackOff"), "image_pull"),
        (waiting("ErrImageNeverPull"), "image_pull"),
        (waiting("InvalidImageName"), "invalid_image"),
        (waiting("CreateContainerConfigError"), "container_config"),
        (waiting("RunContainerError"), "container_config"),
        (waiting("CrashLoopBackOff"), "crash_loop"),
        (ended("Failed", 1, "Error"), "agent_exited"),
        (ended("Running", 1, "Error"), "agent_exited"),
        (ended("Failed", 137, "OOMKilled"), "out_of_memory"),
        (ended("Failed", 137, "Error"), "agent_exited"),
        (ended("Failed", 128, "StartError"), "container_config"),
        (ended("Failed", 137, "ContainerStatusUnknown"), "node_lost"),
        (json!({"status": {"phase": "Failed"}}), "unknown"),
        (json!({"status": {"phase": "Unknown"}}), "node_lost"),
    ] {
        assert_eq!(word(&change), expected, "{change}");
    }
}

#[test]
fn failures_by_what_the_control_plane_says() {
    for (change, expected) in [
        (reason("Evicted"), "evicted"),
        (reason("OutOfcpu"), "evicted"),
        (reason("Preempting"), "preempted"),
        (reason("NodeLost"), "node_lost"),
        (reason("Terminated"), "node_lost"),
        (reason("DeadlineExceeded"), "deadline"),
        (disrupted("PreemptionByScheduler"), "preempted"),
        (disrupted("DeletionByTaintManager"), "node_lost"),
        (disrupted("EvictionByEvictionAPI"), "evicted"),
        (disrupted("TerminationByKubelet"), "evicted"),
    ] {
        assert_eq!(word(&change), expected, "{change}");
    }
}

#[test]
fn a_crash_loop_tells_the_last_end() {
    let mut change = waiting("CrashLoopBackOff");
    change["status"]["containerStatuses"][0]["lastState"] =
        json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
    assert_eq!(word(&change), "out_of_memory");
}

#[test]
fn a_state_that_can_heal_is_a_failure_when_it_lasts() {
    let unschedulable = json!({"status": {"conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/1 nodes are available", "lastTransitionTime": "2026-01-01T00:00:10Z",
    }]}});
    let no_secret = status(
        "Pending",
        &json!({"waiting": {
            "reason": "CreateContainerConfigError", "message": "secret \"x-otp\" not found",
        }}),
    );
    let mut creating = waiting("ContainerCreating");
    creating["status"]["containerStatuses"][0]["restartCount"] = json!(0);
    let mut late_on_node = json!({"spec": {"nodeName": "n1"}, "status": {"conditions": [{
        "type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:04:00Z",
    }]}});
    merge(&mut late_on_node, &json!({"status": {"phase": "Pending"}}));
    let timeout = FailureCause::StartupTimeout;
    for (change, early, cause, due) in [
        (creating, WorkerPhase::Starting, timeout, "00:05:00Z"),
        (late_on_node, WorkerPhase::Starting, timeout, "00:09:00Z"),
        (unschedulable, WorkerPhase::Pending, FailureCause::Unschedulable, "00:05:10Z"),
        (no_secret, WorkerPhase::Starting, FailureCause::ContainerConfig, "00:05:00Z"),
    ] {
        let sighting = sight(&make_pod(&change), WorkerId::new(), PATIENCE);
        let due: Timestamp = format!("2026-01-01T{due}").parse().unwrap();
        let before = due - SignedDuration::from_nanos(1);
        assert_eq!(sighting.at(before).phase, early);
        let WorkerPhase::Failed(failure) = sighting.at(due).phase else { panic!("{change}") };
        assert_eq!(failure.cause, cause);
        // The cluster's words are told while it waits; ours only when it has waited too long.
        let told = Some(failure.message).filter(|_| cause != timeout);
        assert_eq!(sighting.at(before).waiting_for, told);
    }
}

#[test]
fn the_worker_is_read_back_from_its_pod() {
    let mut change = status("Running", &json!({"running": {}}));
    merge(&mut change, &json!({"spec": {"nodeName": "n1"}}));
    let observed = sight(&make_pod(&change), WorkerId::new(), PATIENCE).observed;
    assert_eq!(observed.restarts, 1);
    assert_eq!(observed.node.as_deref(), Some("n1"));
    assert_eq!(observed.handle.uid, "u1");
    assert_eq!(observed.attempt.unwrap().epoch.0, 2);
}

#[test]
fn a_sidecar_says_nothing_about_the_worker() {
    let mut change = status("Running", &json!({"running": {}}));
    let mut sidecar = change["status"]["containerStatuses"][0].clone();
    sidecar["name"] = json!("istio-proxy");
    sidecar["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    change["status"]["containerStatuses"].as_array_mut().unwrap().insert(0, sidecar);
    assert_eq!(word(&change), "Running");
}

#[test]
fn the_log_begins_and_ends_with_the_container() {
    use LogState as L;
    let restarting = |mut change: Value| {
        merge(&mut change, &json!({"spec": {"restartPolicy": "OnFailure"}}));
        change
    };
    let mut created = waiting("ContainerCreating");
    created["status"]["containerStatuses"][0]["restartCount"] = json!(0);
    for (change, expected) in [
        (json!({}), L::NotStarted),
        (created, L::NotStarted),
        (status("Running", &json!({"running": {}})), L::Running),
        (disrupted("EvictionByEvictionAPI"), L::NotStarted),
        (waiting("CrashLoopBackOff"), L::Running),
        (restarting(ended("Running", 1, "Error")), L::Running),
        (restarting(ended("Running", 0, "Completed")), L::Ended),
        (ended("Running", 1, "Error"), L::Ended),
        (reason("Evicted"), L::Ended),
    ] {
        assert_eq!(sight(&make_pod(&change), WorkerId::new(), PATIENCE).log, expected, "{change}");
    }
}

mod outside_input {
    use proptest::{option, prelude::*, sample::select};

    use super::*;

    fn word(known: &'static [&'static str]) -> impl Strategy<Value = Option<String>> {
        let known = select(known).prop_map(str::to_owned);
        option::weighted(0.8, prop_oneof![3 => known, 1 => any::<String>()])
    }

    fn moment() -> impl Strategy<Value = Option<String>> {
        let known = ["2026-01-01T00:00:00Z", "9999-12-30T22:00:00Z", "-009999-01-02T01:59:59Z"];
        option::of(select(known.to_vec()).prop_map(str::to_owned))
    }

    fn state() -> impl Strategy<Value = Value> {
        let waiting = (
            word(&["ErrImagePull", "CrashLoopBackOff", "CreateContainerConfigError"]),
            word(&["not found"]),
        );
        let ended = (any::<i32>(), word(&["OOMKilled", "StartError"]), word(&[" a "]));
        prop_oneof![
            Just(json!({})),
            Just(json!({"running": {}})),
            waiting.prop_map(
                |(reason, message)| json!({"waiting": {"reason": reason, "message": message}})
            ),
            ended.prop_map(|(code, reason, message)| {
                json!({"terminated": {"exitCode": code, "reason": reason, "message": message}})
            }),
        ]
    }

    fn pod() -> impl Strategy<Value = Value> {
        let meta = (moment(), moment(), word(&["2"]), word(&["n1"]));
        let status = (
            word(&["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
            word(&["Evicted", "Preempted", "NodeLost"]),
            word(&["words"]),
        );
        let conditions = (
            word(&["PodScheduled", "DisruptionTarget"]),
            word(&["True", "False"]),
            word(&["Unschedulable", "PreemptionByScheduler"]),
            moment(),
        );
        let container = (word(&["worker"]), any::<i32>(), state(), state());
        (meta, status, conditions, container).prop_map(|(meta, status, condition, container)| {
            let (created, deleted, attempt, node) = meta;
            let (kind, holds, why, at) = condition;
            let (name, restarts, now, last) = container;
            json!({
                "metadata": {"creationTimestamp": created, "deletionTimestamp": deleted,
                    "labels": {"hodei.io/attempt": attempt.unwrap_or_default()}},
                "spec": {"containers": [], "nodeName": node},
                "status": {
                    "phase": status.0, "reason": status.1, "message": status.2,
                    "conditions": [{"type": kind.unwrap_or_default(), "status": holds.unwrap_or_default(),
                        "reason": why, "lastTransitionTime": at}],
                    "containerStatuses": [{"name": name.unwrap_or_default(), "image": "", "imageID": "",
                        "ready": false, "restartCount": restarts, "state": now, "lastState": last}],
                },
            })
        })
    }

    proptest! {
        #[test]
        fn any_pod_is_seen_in_one_phase_and_a_failure_has_words(
            pod in pod(), patience in prop_oneof![0..400_i64, Just(i64::MAX)],
        ) {
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let patience = SignedDuration::from_secs(patience);
            let worker = "0190b3a2-0000-7000-8000-00000000000b".parse().unwrap();
            let seen = sight(&pod, worker, patience);
            prop_assert_eq!(seen.observed.handle.worker, worker);
            if let WorkerPhase::Failed(failure) = &seen.observed.phase {
                prop_assert!(seen.overdue.is_none(), "{failure:?}");
            }
            prop_assert_eq!(sight(&pod, worker, patience).observed, seen.observed);
        }
    }
}

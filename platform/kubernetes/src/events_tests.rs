//! Which events are quoted, and that they reach the failure in order and in time.

use futures::StreamExt;
use hodei_core::{
    id::WorkerId,
    provider::{ObservedWorker, ProviderEvent, WorkerPhase, WorkerProvider, WorkerSpec},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    KubernetesConfig, KubernetesProvider,
    testing::{FakeCluster, Fault, make_spec},
};

fn make_event(reason: &str, message: &str, second: u8, count: u32) -> Value {
    json!({
        "metadata": {"name": format!("{reason}.{second}.{count}")}, "involvedObject": {},
        "type": "Warning", "reason": reason, "message": message, "count": count,
        "lastTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
    })
}

fn words(events: &[Value], known: &str) -> Option<String> {
    let events = events.iter().map(|event| serde_json::from_value(event.clone()).unwrap());
    words_of(events.collect(), known)
}

#[test]
fn the_latest_that_say_more_are_quoted() {
    let events = [
        make_event("BackOff", "Back-off pulling image", 59, 90),
        make_event("FailedMount", "no volume", 1, 7),
        make_event("Failed", "known already", 58, 1),
        make_event("FailedCreatePodSandBox", "no network", 5, 1),
        make_event("FailedMount", "no volume", 3, 1),
    ];
    let expected = "FailedCreatePodSandBox: no network; FailedMount: no volume; \
        BackOff (90 times): Back-off pulling image";
    assert_eq!(words(&events, "it is known already").as_deref(), Some(expected));
    assert_eq!(words(&[], "x"), None);
    assert_eq!(words(&events[2..3], "known already"), None);
}

mod outside_input {
    use super::*;

    proptest! {
        #[test]
        fn the_words_are_bounded(
            events in prop::collection::vec(("[A-Z]{1,20}", "\\PC{0,3000}", 0..60_u8, 0..9_u32), 0..9),
        ) {
            let events: Vec<_> = events.iter().map(|(r, m, s, c)| make_event(r, m, *s, *c)).collect();
            let length = words(&events, "").map_or(0, |words| words.chars().count());
            prop_assert!(length <= QUOTED * (LONGEST + 60), "{}", length);
        }
    }
}

fn fail_pod(cluster: &FakeCluster, name: &str) {
    cluster.change("pods", name, |pod| {
        pod["status"] = json!({"phase": "Pending", "containerStatuses": [{
            "name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}},
        }]});
        true
    });
}

/// A provider with a worker whose image can't be pulled, and the next two phases that are told.
async fn see_failure(cluster: &FakeCluster) -> (KubernetesProvider, Vec<WorkerPhase>) {
    let provider = cluster.provider(KubernetesConfig::default());
    provider.list_workers().await.unwrap();
    let handle = provider.create_worker(&make_spec()).await.unwrap();
    let events = provider.subscribe();
    fail_pod(cluster, &handle.resource);
    let phases = events.filter_map(|event| async move {
        match event {
            ProviderEvent::Changed(ObservedWorker { phase, .. }) => Some(phase),
            ProviderEvent::Resynced => None,
        }
    });
    let mut phases = std::pin::pin!(phases);
    // The pod goes while its events are asked for.
    let reader = async {
        let mut changes = provider.watch.changes();
        loop {
            let seen = provider.list_workers().await.unwrap();
            if seen.iter().any(|seen| matches!(seen.phase, WorkerPhase::Failed(_))) {
                break;
            }
            changes.changed().await.unwrap();
        }
        cluster.change("pods", &handle.resource, |_| false);
    };
    reader.await;
    let told = tokio::time::timeout(PATIENCE * 3, phases.by_ref().take(2).collect()).await;
    let told = told.expect("the failure must be told in time");
    (provider, told)
}

fn message_of(phase: &WorkerPhase) -> &str {
    let WorkerPhase::Failed(failure) = phase else { panic!("{phase:?}") };
    &failure.message
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_with_its_events_and_before_what_comes_after() {
    let cluster = FakeCluster::new();
    cluster.put("events", make_event("Failed", "manifest unknown", 1, 2));
    let (_provider, told) = see_failure(&cluster).await;
    let expected = "ErrImagePull: not found; events: Failed (2 times): manifest unknown";
    assert_eq!(message_of(&told[0]), expected);
    assert_eq!(told[1], WorkerPhase::Gone);
    assert_eq!(cluster.count("LIST events"), 1);
}

#[tokio::test(start_paused = true)]
async fn events_that_cannot_be_read_do_not_hide_the_failure() {
    let forbidden = "cannot list resource \"events\"";
    for fault in [
        Fault::status(403, "Forbidden", forbidden),
        Fault::status(500, "InternalError", ""),
        Fault::Broken,
        Fault::Silent,
        Fault::Answer { code: 200, body: "{".into(), retry_after: None },
    ] {
        let cluster = FakeCluster::new();
        cluster.fail_always("LIST events", Some(fault));
        let (_provider, told) = see_failure(&cluster).await;
        assert_eq!(message_of(&told[0]), "ErrImagePull: not found");
        assert_eq!(told[1], WorkerPhase::Gone);
    }
}

#[tokio::test(start_paused = true)]
async fn the_status_has_the_events_too_and_they_are_asked_for_once() {
    let cluster = FakeCluster::new();
    cluster.put("events", make_event("Failed", "manifest unknown", 1, 1));
    let provider = cluster.provider(KubernetesConfig::default());
    let handle = provider.create_worker(&make_spec()).await.unwrap();
    let mut events = provider.subscribe();
    for _ in 0..3 {
        fail_pod(&cluster, &handle.resource);
    }
    while !matches!(events.next().await, Some(ProviderEvent::Changed(seen))
        if matches!(seen.phase, WorkerPhase::Failed(_)))
    {}
    let status = provider.worker_status(&handle).await.unwrap();
    assert!(message_of(&status.observed.phase).ends_with("manifest unknown"));
    assert_eq!(cluster.count("LIST events"), 1);
}

#[tokio::test(start_paused = true)]
async fn many_failures_at_once_are_all_told_in_time() {
    const MANY: usize = 300;
    let cluster = FakeCluster::new();
    cluster.fail_always("LIST events", Some(Fault::Silent));
    let provider = cluster.provider(KubernetesConfig::default());
    provider.list_workers().await.unwrap();
    let events = provider.subscribe();
    for _ in 0..MANY {
        let spec = WorkerSpec { worker: WorkerId::new(), ..make_spec() };
        let mut pod =
            serde_json::to_value(crate::make_pod(&provider.id, &provider.config, &spec)).unwrap();
        pod["status"] = json!({"phase": "Pending", "containerStatuses": [{
            "name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ErrImagePull"}},
        }]});
        cluster.put("pods", pod);
    }
    let failed = events.filter(|event| {
        let failed = matches!(event, ProviderEvent::Changed(seen)
            if matches!(seen.phase, WorkerPhase::Failed(_)));
        async move { failed }
    });
    let told = tokio::time::timeout(PATIENCE * 2, failed.take(MANY).count()).await;
    assert_eq!(told, Ok(MANY));
    assert!(cluster.count("LIST events") < MANY / 2, "a few at a time");
}

//! The shared watch against the fake API server.

use hodei_core::provider::WorkerProvider;
use serde_json::json;

use super::*;
use crate::{
    KubernetesConfig,
    testing::{End, FakeCluster, Fault, Streamed, make_spec},
};

const DEADLINE: Duration = Duration::from_secs(20);

/// The next `count` resyncs; what else is told is passed over.
async fn await_resyncs(events: &mut BoxStream<'static, ProviderEvent>, count: usize) {
    let resyncs = events.filter(|event| {
        let wanted = *event == ProviderEvent::Resynced;
        async move { wanted }
    });
    let seen = tokio::time::timeout(DEADLINE, resyncs.take(count).count()).await;
    assert_eq!(seen.expect("the watch must list in time"), count);
}

#[tokio::test]
async fn a_watch_that_is_too_old_lists_again() {
    let cluster = FakeCluster::new();
    let gone = json!({"type": "ERROR", "object": {"kind": "Status", "code": 410,
        "reason": "Expired", "message": "too old resource version"}});
    cluster.fail_next(
        "WATCH pods",
        Fault::Answer { code: 200, body: format!("{gone}\n"), retry_after: None },
    );
    let provider = cluster.provider(KubernetesConfig::default());
    let mut events = provider.subscribe();
    await_resyncs(&mut events, 2).await;
    provider.create_worker(&make_spec()).await.unwrap();
    assert_eq!(provider.list_workers().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_list_that_fails_is_tried_again_and_told() {
    let cluster = FakeCluster::new();
    let forbidden = "cannot list resource \"pods\"";
    cluster.fail_next("LIST pods", Fault::status(403, "Forbidden", forbidden));
    let provider = cluster.provider(KubernetesConfig::default());
    assert_eq!(provider.watch.list(), None, "nothing is known before the first list");
    let mut events = provider.subscribe();
    await_resyncs(&mut events, 1).await;
    assert!(provider.watch.is_fresh());
    assert_eq!(provider.watch.trouble(), None, "trouble is over");
}

#[tokio::test]
async fn a_restarted_provider_finds_its_workers_and_no_others() {
    let cluster = FakeCluster::new();
    let spec = make_spec();
    let handle = cluster.provider(KubernetesConfig::default()).create_worker(&spec).await.unwrap();
    cluster.put(
        "pods",
        json!({"metadata": {"name": "x", "labels": {
        "hodei.io/managed": "true", "hodei.io/provider-id": "other",
        "hodei.io/worker-id": spec.worker.to_string()}}}),
    );
    let restarted = cluster.provider(KubernetesConfig::default());
    let found = restarted.list_workers().await.unwrap();
    assert_eq!(found.into_iter().map(|seen| seen.handle).collect::<Vec<_>>(), [handle]);
}

#[tokio::test]
async fn a_slow_subscriber_is_told_to_compare() {
    let cluster = FakeCluster::new();
    let provider = cluster.provider(KubernetesConfig::default());
    provider.list_workers().await.unwrap();
    let mut events = provider.subscribe();
    for _ in 0..=EVENTS {
        provider.watch.shared.update(|_| vec![ProviderEvent::Resynced]);
    }
    assert_eq!(events.next().await, Some(ProviderEvent::Resynced));
}

fn make_pod_event(kind: &str, phase: &str, version: u32) -> String {
    let mut pod = serde_json::to_value(crate::make_pod(
        &crate::testing::provider_id(),
        &KubernetesConfig::default(),
        &make_spec(),
    ))
    .unwrap();
    pod["metadata"]["uid"] = json!("u1");
    pod["metadata"]["resourceVersion"] = json!(version.to_string());
    pod["status"] = json!({"phase": phase});
    format!("{}\n", json!({"type": kind, "object": pod}))
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_never_says_a_word_is_noticed_in_time() {
    let cluster = FakeCluster::new();
    cluster.fail_next("WATCH pods", Fault::Streamed(Streamed::new("", End::Never)));
    let provider = cluster.provider(KubernetesConfig::default());
    provider.list_workers().await.unwrap();
    let mut events = provider.subscribe();
    let start = Instant::now();
    let other = cluster.provider(KubernetesConfig::default());
    let handle = other.create_worker(&make_spec()).await.unwrap();
    // The first watch is deaf: only one that was asked for later can tell of the pod.
    let told = tokio::time::timeout(STALE, events.next()).await.expect("in time");
    assert!(matches!(told, Some(ProviderEvent::Changed(seen)) if seen.handle == handle));
    assert!(start.elapsed() >= Duration::from_secs(WATCH_SECONDS.into()), "the fault was there");
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_cut_off_is_told_by_the_next_watch() {
    for end in [End::Whole, End::Broken] {
        let cluster = FakeCluster::new();
        let line = make_pod_event("ADDED", "Pending", 2);
        let part = &line[..line.len() / 2];
        cluster.fail_next("WATCH pods", Fault::Streamed(Streamed::new(part, end)));
        let provider = cluster.provider(KubernetesConfig::default());
        provider.list_workers().await.unwrap();
        let mut events = provider.subscribe();
        let other = cluster.provider(KubernetesConfig::default());
        let handle = other.create_worker(&make_spec()).await.unwrap();
        let told = tokio::time::timeout(DEADLINE, events.next()).await.expect("in time");
        assert!(matches!(told, Some(ProviderEvent::Changed(seen)) if seen.handle == handle));
    }
}

#[tokio::test(start_paused = true)]
async fn events_that_come_twice_or_late_change_nothing() {
    let cluster = FakeCluster::new();
    let lines = [
        make_pod_event("ADDED", "Pending", 2),
        make_pod_event("ADDED", "Pending", 2),
        make_pod_event("MODIFIED", "Succeeded", 3),
        make_pod_event("MODIFIED", "Succeeded", 3),
        make_pod_event("DELETED", "Succeeded", 4),
        make_pod_event("MODIFIED", "Pending", 2),
        make_pod_event("DELETED", "Succeeded", 4),
    ];
    let body = Streamed::new(lines.concat(), End::Never);
    cluster.fail_next("WATCH pods", Fault::Streamed(body));
    let provider = cluster.provider(KubernetesConfig::default());
    let events = provider.subscribe().take_until(tokio::time::sleep(DEADLINE));
    let phases: Vec<_> = events
        .filter_map(|event| async move {
            match event {
                ProviderEvent::Changed(seen) => Some(seen.phase),
                ProviderEvent::Resynced => None,
            }
        })
        .collect()
        .await;
    assert_eq!(phases, [WorkerPhase::Pending, WorkerPhase::Succeeded, WorkerPhase::Gone]);
    assert_eq!(provider.list_workers().await.unwrap(), []);
}

//! Destroying against the fake API server.

use hodei_core::provider::WorkerProvider;

use super::*;
use crate::{
    KubernetesConfig,
    testing::{FakeCluster, Fault, make_spec},
};

fn quick() -> KubernetesConfig {
    KubernetesConfig { grace_period_seconds: 0, ..KubernetesConfig::default() }
}

#[tokio::test]
async fn a_whole_life_takes_four_requests() {
    let cluster = FakeCluster::new();
    let provider = cluster.provider(quick());
    provider.list_workers().await.unwrap();
    let spec = make_spec();
    let handle = provider.create_worker(&spec).await.unwrap();
    provider.discard_otp(spec.worker).await.unwrap();
    provider.destroy_worker(&handle).await.unwrap();
    assert_eq!(cluster.requests(), ["POST secrets", "POST pods", "DELETE secrets", "DELETE pods"]);
    assert!(cluster.names("pods").is_empty() && cluster.names("secrets").is_empty());
    let status = provider.worker_status(&handle).await.unwrap();
    assert_eq!(status.observed.phase, WorkerPhase::Gone);
}

#[tokio::test]
async fn destroying_twice_is_a_success() {
    let cluster = FakeCluster::new();
    let provider = cluster.provider(quick());
    let handle = provider.create_worker(&make_spec()).await.unwrap();
    for _ in 0..2 {
        provider.destroy_worker(&handle).await.unwrap();
    }
    provider.destroy_unknown(handle.worker).await.unwrap();
}

#[tokio::test]
async fn a_namesake_is_not_touched() {
    let cluster = FakeCluster::new();
    let provider = cluster.provider(quick());
    let mut handle = provider.create_worker(&make_spec()).await.unwrap();
    handle.uid = "another".into();
    provider.destroy_worker(&handle).await.unwrap();
    assert_eq!(cluster.names("pods").len(), 1);
}

#[tokio::test]
async fn destroying_waits_for_the_confirmation() {
    let cluster = FakeCluster::new();
    let provider = cluster.provider(KubernetesConfig::default());
    provider.list_workers().await.unwrap();
    let handle = provider.create_worker(&make_spec()).await.unwrap();
    cluster.keep_deleted_pods();
    let mut changes = provider.watch.changes();
    let destroyed = provider.destroy_worker(&handle);
    let mut destroyed = std::pin::pin!(destroyed);
    // Until the view says that the pod is being deleted, and a little work more.
    loop {
        tokio::select! {
            outcome = &mut destroyed => panic!("no one removed the pod: {outcome:?}"),
            changed = changes.changed() => changed.unwrap(),
        }
        let status = provider.worker_status(&handle).await.unwrap();
        if status.observed.phase == WorkerPhase::Terminating {
            break;
        }
    }
    cluster.change("pods", &handle.resource, |_| false);
    destroyed.await.unwrap();
}

#[tokio::test]
async fn a_worker_that_stays_is_reported_with_its_last_state() {
    let cluster = FakeCluster::new();
    let provider = cluster.provider(quick());
    provider.list_workers().await.unwrap();
    let handle = provider.create_worker(&make_spec()).await.unwrap();
    cluster.keep_deleted_pods();
    cluster.change("pods", &handle.resource, |pod| {
        pod["metadata"]["finalizers"] = serde_json::json!(["example.com/keep"]);
        true
    });
    assert!(!provider.delete_pod("destroy worker", &handle, 30).await.unwrap());
    assert!(!provider.await_gone(&handle, true, Duration::from_millis(50)).await);
    let error = provider.unconfirmed("destroy worker", &handle, Duration::from_secs(60));
    assert!(error.to_string().contains("Terminating on node none"), "{error}");
    assert!(error.to_string().contains("held by the finalizers example.com/keep"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_nodes_pod_is_forced_when_configured_and_after_its_grace() {
    for (grace, force) in [(0, 0), (30, 10), (5, 600)] {
        let cluster = FakeCluster::new();
        let provider = cluster.provider(KubernetesConfig {
            grace_period_seconds: grace,
            force_delete_after_seconds: Some(force),
            ..KubernetesConfig::default()
        });
        provider.list_workers().await.unwrap();
        let handle = provider.create_worker(&make_spec()).await.unwrap();
        cluster.keep_deleted_pods();
        let start = Instant::now();
        provider.destroy_worker(&handle).await.unwrap();
        assert!(cluster.names("pods").is_empty());
        let expected = u64::from(grace + force);
        assert_eq!(start.elapsed().as_secs(), expected, "grace {grace}, force {force}");
    }
}

#[tokio::test]
async fn what_a_dead_control_plane_left_is_removed() {
    for leaves_pod in [false, true] {
        let cluster = FakeCluster::new();
        let spec = make_spec();
        cluster.provider(quick()).create_worker(&spec).await.unwrap();
        if !leaves_pod {
            cluster.change("pods", &pod_name(spec.worker), |_| false);
        }
        cluster.provider(quick()).destroy_unknown(spec.worker).await.unwrap();
        assert!(cluster.names("pods").is_empty() && cluster.names("secrets").is_empty());
    }
}

#[tokio::test]
async fn every_refusal_of_the_removal_has_its_cause() {
    use FailureCause as C;
    for kind in ["DELETE pods", "DELETE secrets"] {
        for (fault, cause) in [
            (Fault::status(403, "Forbidden", "cannot delete resource \"pods\""), C::Forbidden),
            (Fault::status(401, "Unauthorized", "Unauthorized"), C::Forbidden),
            (
                Fault::Answer { code: 503, body: String::new(), retry_after: Some(60) },
                C::ApiUnavailable,
            ),
        ] {
            let cluster = FakeCluster::new();
            let provider = cluster.provider(quick());
            let handle = provider.create_worker(&make_spec()).await.unwrap();
            cluster.fail_next(kind, fault);
            let error = provider.destroy_worker(&handle).await.unwrap_err();
            assert_eq!(error.cause(), cause, "{kind}: {error}");
            provider.destroy_worker(&handle).await.unwrap();
            assert!(cluster.names("secrets").is_empty(), "the second try finishes the work");
        }
    }
}

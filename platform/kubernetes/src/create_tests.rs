//! Creating against the fake API server.

use futures::StreamExt;
use hodei_core::provider::{ProviderEvent, WorkerPhase, WorkerProvider};
use serde_json::json;
use tracing_test::traced_test;

use super::*;
use crate::{
    KubernetesConfig,
    testing::{FakeCluster, Fault, make_spec},
};

#[tokio::test]
async fn a_worker_is_a_secret_and_a_pod() {
    let cluster = FakeCluster::new();
    let provider = cluster.provider(KubernetesConfig::default());
    provider.list_workers().await.unwrap();
    let spec = make_spec();
    let handle = provider.create_worker(&spec).await.unwrap();
    assert_eq!(handle.resource, pod_name(spec.worker));
    assert_eq!(cluster.requests(), ["POST secrets", "POST pods"]);
    let status = provider.worker_status(&handle).await.unwrap();
    assert_eq!(status.observed.phase, WorkerPhase::Pending, "it is known at once");
}

#[tokio::test]
async fn creating_again_adopts_the_pod_and_replaces_the_secret() {
    let cluster = FakeCluster::new();
    let config = KubernetesConfig::default;
    let spec = make_spec();
    let first = cluster.provider(config()).create_worker(&spec).await.unwrap();
    // The control plane died and has a new password, for it only stored the hash of the old one.
    let mut again = spec.clone();
    again.otp = hodei_core::secret::Secret::generate();
    let adopted = cluster.provider(config()).create_worker(&again).await.unwrap();
    assert_eq!(adopted, first);
    cluster.change("secrets", &secret_name(spec.worker), |secret| {
        assert_eq!(secret["stringData"]["otp"], again.otp.expose());
        true
    });
}

#[tokio::test]
async fn a_foreign_pod_is_refused_and_not_touched() {
    let cluster = FakeCluster::new();
    let spec = make_spec();
    cluster.put(
        "pods",
        json!({"metadata": {"name": pod_name(spec.worker)}, "spec": {"containers": []}}),
    );
    let provider = cluster.provider(KubernetesConfig::default());
    let error = provider.create_worker(&spec).await.unwrap_err();
    assert_eq!(error.cause(), FailureCause::Conflict);
    assert_eq!(cluster.names("pods").len(), 1);
    assert!(cluster.names("secrets").is_empty(), "our Secret is removed again");
    provider.destroy_unknown(spec.worker).await.unwrap();
    assert_eq!(cluster.names("pods").len(), 1, "not even by the clean-up");
}

#[tokio::test]
async fn a_pod_that_is_being_removed_is_not_adopted() {
    let cluster = FakeCluster::new();
    let provider = cluster.provider(KubernetesConfig::default());
    let handle = provider.create_worker(&make_spec()).await.unwrap();
    cluster.change("pods", &handle.resource, |pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:01:00Z");
        true
    });
    let error = provider.create_worker(&make_spec()).await.unwrap_err();
    assert!(error.to_string().contains("still being removed"), "{error}");
}

#[tokio::test]
async fn a_lost_answer_makes_no_second_worker() {
    for lost in ["POST secrets", "POST pods"] {
        let cluster = FakeCluster::new();
        let provider = cluster.provider(KubernetesConfig::default());
        cluster.fail_next(lost, Fault::AnswerLost);
        provider.create_worker(&make_spec()).await.unwrap();
        assert_eq!(cluster.names("pods").len(), 1, "{lost}");
        assert_eq!(cluster.names("secrets").len(), 1, "{lost}");
        assert!(!cluster.requests().contains(&"DELETE secrets".to_owned()), "{lost}");
    }
}

#[tokio::test]
async fn what_heals_by_itself_is_tried_again() {
    let quota_race = "Operation cannot be fulfilled on resourcequotas \"q\"";
    for fault in [
        Fault::Broken,
        Fault::status(429, "TooManyRequests", "later"),
        Fault::status(500, "InternalError", "failed calling webhook"),
        Fault::status(503, "ServiceUnavailable", "starting"),
        Fault::status(409, "Conflict", quota_race),
        Fault::Answer { code: 429, body: "busy".into(), retry_after: Some(1) },
    ] {
        for kind in ["POST secrets", "POST pods"] {
            let cluster = FakeCluster::new();
            cluster.fail_next(kind, fault.clone());
            let provider = cluster.provider(KubernetesConfig::default());
            provider.create_worker(&make_spec()).await.unwrap();
            assert_eq!(cluster.requests().len(), 3, "{kind}");
        }
    }
}

#[tokio::test]
async fn every_refusal_of_the_pod_removes_the_secret_again() {
    use FailureCause as C;
    for (fault, cause) in [
        (Fault::status(403, "Forbidden", "exceeded quota: q"), C::Quota),
        (Fault::status(403, "Forbidden", "violates PodSecurity \"restricted\""), C::Admission),
        (Fault::status(403, "Forbidden", "cannot create resource \"pods\""), C::Forbidden),
        (
            Fault::status(422, "Invalid", "spec.containers[0].image: Required value"),
            C::InvalidImage,
        ),
        (Fault::status(404, "NotFound", "namespaces \"x\" not found"), C::Admission),
        (
            Fault::Answer { code: 429, body: String::new(), retry_after: Some(600) },
            C::ApiUnavailable,
        ),
    ] {
        let cluster = FakeCluster::new();
        cluster.fail_next("POST pods", fault);
        let provider = cluster.provider(KubernetesConfig::default());
        let error = provider.create_worker(&make_spec()).await.unwrap_err();
        assert_eq!(error.cause(), cause, "{error}");
        assert!(cluster.names("secrets").is_empty(), "{error}");
    }
}

#[tokio::test]
async fn subscribers_see_the_life_of_a_worker() {
    let cluster = FakeCluster::new();
    let provider = cluster.provider(KubernetesConfig::default());
    provider.list_workers().await.unwrap();
    let events = provider.subscribe();
    let spec = make_spec();
    provider.create_worker(&spec).await.unwrap();
    cluster.change("pods", &pod_name(spec.worker), |pod| {
        pod["status"] = json!({"phase": "Running", "containerStatuses": [{
            "name": "worker", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {}},
        }]});
        true
    });
    let phases = events.filter_map(|event| async move {
        match event {
            ProviderEvent::Changed(seen) => Some(seen.phase),
            ProviderEvent::Resynced => None,
        }
    });
    let mut phases = std::pin::pin!(phases);
    assert_eq!(phases.next().await, Some(WorkerPhase::Pending));
    assert_eq!(phases.next().await, Some(WorkerPhase::Running));
    cluster.change("pods", &pod_name(spec.worker), |_| false);
    assert_eq!(phases.next().await, Some(WorkerPhase::Gone), "deleted from outside");
}

#[tokio::test]
#[traced_test]
async fn the_password_is_never_said() {
    let spec = make_spec();
    let otp = spec.otp.expose().to_owned();
    let encoded = spellings(&spec).pop().unwrap();
    let echo = format!("Invalid value: \"{otp}\" ({encoded})");
    let mut said = String::new();
    for kind in ["POST secrets", "POST pods"] {
        for fault in [
            Fault::status(422, "Invalid", &echo),
            Fault::status(400, &otp, "bad"),
            Fault::Answer { code: 502, body: echo.clone(), retry_after: Some(600) },
            Fault::Answer { code: 201, body: format!("{{\"data\": \"{echo}"), retry_after: None },
            Fault::AnswerLost,
        ] {
            let cluster = FakeCluster::new();
            cluster.fail_next(kind, fault);
            let provider = cluster.provider(KubernetesConfig::default());
            let outcome = provider.create_worker(&spec).await;
            said += &format!("{outcome:?} {provider:?} {spec:?}");
            if let Err(error) = outcome {
                said += &error.to_string();
            }
        }
    }
    for secret in [&otp, &encoded] {
        assert!(!said.contains(secret), "in an error");
        assert!(!logs_contain(secret), "in a log");
    }
    assert!(logs_contain("worker not created"), "the test must see the logs");
}

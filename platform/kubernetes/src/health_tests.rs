//! Each broken stage is told apart.

use std::time::Duration;

use hodei_core::provider::WorkerProvider;
use serde_json::json;

use super::*;
use crate::{
    KubernetesConfig,
    testing::{FakeCluster, Fault, provider_id},
};

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";

fn make_cluster(verbs: &[&str]) -> FakeCluster {
    let cluster = FakeCluster::new();
    let resources = ["pods", "pods/log", "secrets", "limitranges", "resourcequotas"];
    cluster.answer(
        REVIEWS,
        json!({"spec": {}, "status": {"incomplete": false, "nonResourceRules": [],
            "resourceRules": [{"apiGroups": [""], "resources": resources, "verbs": verbs}]}}),
    );
    cluster
}

const ALL: &[&str] = &["create", "delete", "get", "list", "watch"];

#[tokio::test]
async fn a_good_cluster_is_healthy_and_a_full_one_too() {
    let cluster = make_cluster(ALL);
    let provider = cluster.provider(KubernetesConfig::default());
    provider.health_check().await.unwrap();
    assert!(cluster.names("pods").is_empty(), "a dry run makes nothing");
    let full = Fault::status(403, "Forbidden", "exceeded quota: q");
    cluster.fail_next("POST pods (dry run)", full);
    provider.health_check().await.unwrap();
}

#[tokio::test]
async fn what_is_not_allowed_is_listed() {
    let cluster = make_cluster(&["create", "get", "list", "watch"]);
    let provider = cluster.provider(KubernetesConfig::default());
    let unhealthy = provider.health_check().await.unwrap_err();
    assert_eq!(unhealthy.stage, HealthStage::Authorization);
    assert!(unhealthy.message.contains("delete pods, delete secrets"), "{unhealthy}");
}

#[tokio::test]
async fn refusals_are_told_apart() {
    const REVIEW: &str = "POST selfsubjectrulesreviews";
    const DRY_RUN: &str = "POST pods (dry run)";
    for (kind, fault, stage) in [
        (REVIEW, Fault::status(401, "Unauthorized", "no"), HealthStage::Authentication),
        (DRY_RUN, Fault::status(404, "NotFound", "namespaces \"x\" not found"), HealthStage::Api),
        (DRY_RUN, Fault::status(403, "Forbidden", "violates PodSecurity"), HealthStage::Api),
        (
            DRY_RUN,
            Fault::status(403, "Forbidden", "cannot create resource \"pods\""),
            HealthStage::Authorization,
        ),
    ] {
        let cluster = make_cluster(ALL);
        cluster.fail_next(kind, fault);
        let provider = cluster.provider(KubernetesConfig::default());
        assert_eq!(provider.health_check().await.unwrap_err().stage, stage);
    }
}

/// A provider for an address, that gives up at once.
async fn health_of(server: &str) -> Unhealthy {
    let mut cluster = kube::Config::new(server.parse().unwrap());
    cluster.connect_timeout = Some(Duration::from_secs(5));
    cluster.default_retry = false;
    _ = rustls::crypto::ring::default_provider().install_default();
    let url = cluster.cluster_url.clone();
    let endpoint = Endpoint {
        host: url.host().unwrap().to_owned(),
        port: url.port_u16().unwrap_or(443),
        proxied: false,
    };
    let client = kube::Client::try_from(cluster).unwrap();
    let retry =
        crate::api::RetryPolicy { first: Duration::ZERO, longest: Duration::ZERO, tries: 0 };
    let config = KubernetesConfig::default();
    let provider =
        KubernetesProvider::assemble(provider_id(), config, client, Some(endpoint), retry);
    provider.health_check().await.unwrap_err()
}

#[tokio::test]
async fn a_broken_way_is_told_by_its_first_broken_stage() {
    let no_name = health_of("https://api.invalid:6443").await;
    assert_eq!(no_name.stage, HealthStage::Dns, "{no_name}");

    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let refused = health_of(&format!("https://127.0.0.1:{port}")).await;
    assert_eq!(refused.stage, HealthStage::Tcp, "{refused}");

    // A server that speaks no TLS.
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = plain.local_addr().unwrap().port();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        while let Ok((mut stream, _)) = plain.accept().await {
            _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let no_tls = health_of(&format!("https://127.0.0.1:{port}")).await;
    assert_eq!(no_tls.stage, HealthStage::Tls, "{no_tls}");
}

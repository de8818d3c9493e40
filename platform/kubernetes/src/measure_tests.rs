//! What moves each metric, and what the documentation says about them.

use futures::StreamExt;
use hodei_core::{
    id::WorkerId,
    provider::{ProviderEvent, WorkerProvider, WorkerSpec},
};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::json;

use super::*;
use crate::{
    KubernetesConfig,
    testing::{FakeCluster, Fault, make_spec},
};

#[test]
fn no_name_gets_into_a_label() {
    for (path, resource) in [
        ("/api/v1/namespaces/a/pods", "pods"),
        ("/api/v1/namespaces/a/pods/x", "pods"),
        ("/api/v1/namespaces/a/pods/x/log", "pods/log"),
        ("/api/v1/nodes", "nodes"),
        ("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", "selfsubjectrulesreviews"),
        ("/version", "none"),
    ] {
        assert_eq!(resource_of(path), resource, "{path}");
    }
}

/// The table of `deploy/kubernetes/README.md`.
fn make_table() -> String {
    let mut table = "| metric | kind | labels | what it tells |\n|---|---|---|---|\n".to_owned();
    for Metric { name, kind, labels, help } in METRICS {
        let labels: Vec<_> =
            ["provider"].iter().chain(*labels).map(|label| format!("`{label}`")).collect();
        let kind = format!("{kind:?}").to_lowercase();
        table += &format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", "));
    }
    table
}

#[test]
fn the_readme_has_the_table_of_metrics() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/kubernetes/README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let table = make_table();
    assert!(readme.contains(&table), "put this into deploy/kubernetes/README.md:\n{table}");
}

fn set_status(cluster: &FakeCluster, name: &str, status: serde_json::Value) {
    cluster.change("pods", name, |pod| {
        pod["spec"]["nodeName"] = json!("n1");
        pod["status"] = status;
        true
    });
}

/// The value of a metric whose line has all these parts.
fn value(rendered: &str, parts: &[&str]) -> Option<f64> {
    let mut lines = rendered.lines().filter(|line| !line.starts_with('#'));
    let line = lines.find(|line| parts.iter().all(|part| line.contains(part)))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// A worker that runs, one whose image fails, and an API that is slow to let us in.
async fn live_through(cluster: &FakeCluster) -> crate::KubernetesProvider {
    let config = KubernetesConfig { api_burst: 1, grace_period_seconds: 0, ..Default::default() };
    let gone = json!({"type": "ERROR", "object": {"kind": "Status", "code": 410,
        "reason": "Expired", "message": "too old resource version"}});
    let body = format!("{gone}\n");
    cluster.fail_next("WATCH pods", Fault::Answer { code: 200, body, retry_after: None });
    let provider = cluster.provider(config);
    let mut events = provider.subscribe();
    for _ in 0..2 {
        while events.next().await != Some(ProviderEvent::Resynced) {}
    }
    let handle = provider.create_worker(&make_spec()).await.unwrap();
    let ready = json!([{"type": "PodReadyToStartContainers", "status": "True"}]);
    let container = |state: serde_json::Value| {
        json!([{"name": "worker", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "state": state}])
    };
    let failed = json!({"waiting": {"reason": "ErrImagePull"}});
    for status in [
        json!({"phase": "Pending"}),
        json!({"phase": "Pending", "conditions": ready}),
        json!({"phase": "Running", "containerStatuses": container(json!({"running": {}}))}),
        json!({"phase": "Running", "containerStatuses": container(failed)}),
    ] {
        set_status(cluster, &handle.resource, status);
        // The watch takes each of them by itself.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    provider.destroy_worker(&handle).await.unwrap();
    provider.create_worker(&WorkerSpec { worker: WorkerId::new(), ..make_spec() }).await.unwrap();
    provider
}

#[tokio::test(start_paused = true)]
async fn every_metric_moves() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let cluster = FakeCluster::new();
    let _provider = live_through(&cluster).await;
    let rendered = recorder.handle().render();
    for Metric { name, kind, labels, help } in METRICS {
        let counted = match kind {
            MetricKind::Histogram => format!("{name}_count{{"),
            MetricKind::Counter | MetricKind::Gauge => format!("{name}{{"),
        };
        let line = rendered.lines().find(|line| line.starts_with(&counted));
        let line = line.unwrap_or_else(|| panic!("{name} did not move:\n{rendered}"));
        for label in ["provider"].iter().chain(*labels) {
            assert!(line.contains(&format!("{label}=\"")), "{label}: {line}");
        }
        let zero = line.ends_with(" 0") && *kind != MetricKind::Gauge;
        assert!(!zero, "{line}");
        assert!(rendered.contains(&format!("# HELP {name} {help}")), "{name} is not described");
    }
    for (parts, expected) in [
        (&["stage_seconds_count", "schedule"][..], 1.0),
        (&["stage_seconds_count", "sandbox"], 1.0),
        (&["stage_seconds_count", "pull"], 1.0),
        (&["ready_seconds_count"], 1.0),
        (&["failures_total", "image_pull"], 1.0),
        (&["watch_restarts_total"], 1.0),
        (&["live_workers{"], 1.0),
        (&["request_duration_seconds_count", "create", "\"pods\"", "201"], 2.0),
        (&["request_duration_seconds_count", "list", "\"events\"", "200"], 1.0),
    ] {
        assert_eq!(value(&rendered, parts), Some(expected), "{parts:?}:\n{rendered}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_age_of_the_view_grows_while_the_watch_is_dead() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let cluster = FakeCluster::new();
    let age = || value(&recorder.handle().render(), &["view_age_seconds{"]).unwrap();
    for kind in ["LIST pods", "WATCH pods"] {
        cluster.fail_always(kind, Some(Fault::Broken));
    }
    let _provider = cluster.provider(KubernetesConfig::default());
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!((98.0..=100.0).contains(&age()), "it never heard anything: {}", age());
    for kind in ["LIST pods", "WATCH pods"] {
        cluster.fail_always(kind, None);
    }
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(age() <= 31.0, "a quiet watch gives a sign every 30 s: {}", age());
    cluster.fail_always("WATCH pods", Some(Fault::Silent));
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert!(age() >= 165.0, "{}", age());
}

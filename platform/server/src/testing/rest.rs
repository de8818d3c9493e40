//! The REST face, as a client meets it.

use hodei_core::{
    provider::{HealthStage, Unhealthy},
    spec::JobSpec,
};
use serde_json::{Value, json};

use super::running::{Running, http};

async fn get(server: &Running, path: &str) -> (u16, Value) {
    let response = http().get(server.url(path)).send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

#[tokio::test(flavor = "multi_thread")]
async fn providers_are_registered_once_and_removed() {
    let server = Running::start(&[]).await;
    let same = json!({"type": "fake", "name": "fake", "config": {}});
    assert_eq!(server.post("/api/providers", &same).await.0, 200);
    let other = json!({"type": "fake", "name": "fake", "config": {"a": 1}});
    assert_eq!(server.post("/api/providers", &other).await.0, 409);
    let (status, listed) = get(&server, "/api/providers").await;
    assert_eq!((status, &listed["providers"][0]["healthy"]), (200, &json!(true)));
    let (status, shown) = get(&server, "/api/providers/fake").await;
    assert_eq!((status, &shown["healthy"]), (200, &json!(true)), "{shown}");
    for age in ["health_age_seconds", "capabilities_age_seconds"] {
        assert!(shown[age].as_i64().is_some_and(|age| (0..30).contains(&age)), "{age}: {shown}");
    }
    assert!(shown["capabilities"].is_object() && shown["capabilities_problem"].is_null());
    assert_eq!(get(&server, "/api/providers/none").await.0, 404);
    let delete = |path: String| async move { http().delete(path).send().await.unwrap().status() };
    assert_eq!(delete(server.url("/api/providers/fake")).await, 204);
    assert_eq!(delete(server.url("/api/providers/fake")).await, 404);
    assert_eq!(get(&server, "/api/providers").await.1["providers"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_with_workers_stays() {
    let mut server = Running::start(&[]).await;
    server.submit(&JobSpec::command(["true"])).await;
    server.next_worker().await;
    let response = http().delete(server.url("/api/providers/fake")).send().await.unwrap();
    assert_eq!(response.status(), 409);
    assert_eq!(response.json::<Value>().await.unwrap()["workers"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_registration_says_what_is_wrong_and_stores_nothing() {
    let server = Running::start(&[]).await;
    let message = "the token has expired".to_owned();
    let unhealthy = Unhealthy { stage: HealthStage::Authentication, message };
    for (body, status, part) in [
        (json!({"type": "docker", "name": "d"}), 422, "docker"),
        (json!({"type": "fake", "name": "Not A Label"}), 422, "DNS-1123"),
        (json!({"type": "fake", "name": "d", "config": 1}), 422, "config"),
        (json!({"type": "fake", "name": "d", "konfig": {}}), 422, "konfig"),
        (json!({"type": "fake", "name": "d", "config": {"x": "y".repeat(300_000)}}), 413, "limit"),
    ] {
        let (answered, problem) = server.post("/api/providers", &body).await;
        assert_eq!(answered, status, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(part), "{problem}");
    }
    *server.world.unhealthy.lock().unwrap() = Some(unhealthy);
    let body = json!({"type": "fake", "name": "sick"});
    let (status, problem) = server.post("/api/providers", &body).await;
    assert_eq!((status, &problem["stage"]), (502, &json!("authentication")), "{problem}");
    let (_, listed) = get(&server, "/api/providers").await;
    assert_eq!(listed["providers"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_workers_health_and_metrics_can_be_looked_at() {
    let mut server = Running::start(&[]).await;
    let mut spec = JobSpec::command(["true"]);
    spec.env.insert("TOKEN".into(), "s3cret".into());
    let id = server.submit(&spec).await;
    let worker = server.next_worker().await;
    let (status, job) = get(&server, &format!("/api/jobs/{id}")).await;
    assert_eq!((status, &job["spec"]["env"]), (200, &json!(["TOKEN"])));
    assert!(!job.to_string().contains("s3cret"));
    let (_, jobs) = get(&server, "/api/jobs?state=queued,starting&page_size=1").await;
    assert_eq!(jobs["jobs"][0]["id"], json!(id));
    assert_eq!(get(&server, "/api/jobs?state=nonsense").await.0, 400);
    assert_eq!(get(&server, "/api/jobs/nonsense").await.0, 422);
    let (_, workers) = get(&server, "/api/workers").await;
    assert_eq!(workers["workers"][0]["id"], json!(worker.worker));
    assert_eq!(workers["next_page_token"], json!(null));
    let (_, workers) = get(&server, &format!("/api/workers?page_token={}", worker.worker)).await;
    assert_eq!(workers["workers"], json!([]));
    assert_eq!(get(&server, "/healthz").await, (200, json!("ok\n")));
    let (status, ready) = get(&server, "/readyz").await;
    assert_eq!((status, &ready["providers"]["fake"]["healthy"]), (200, &json!(true)));
    let (_, metrics) = get(&server, "/metrics").await;
    let metrics = metrics.as_str().unwrap();
    for name in ["hodei_jobs_submitted_total", "hodei_workers{state=", "hodei_stage_seconds"] {
        assert!(metrics.contains(name), "{name} is missing in {metrics}");
    }
    assert_eq!(get(&server, "/nothing").await.0, 404);
    let (status, problem) = server.post("/api/jobs", &json!({})).await;
    assert_eq!((status, &problem["status"]), (405, &json!(405)), "{problem}");
}

//! Providers and workers, over REST.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    extract::Path,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::{delete, get, post, put},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::peer::{Ended, command, run};

async fn remove(Path(name): Path<String>) -> impl IntoResponse {
    if name == "k8s-local" {
        return StatusCode::NO_CONTENT.into_response();
    }
    let problem = json!({
        "type": "about:blank", "title": "No such provider", "status": 404,
        "detail": format!("there is no provider {name:?}"),
    });
    let kind = [(CONTENT_TYPE, "application/problem+json")];
    (StatusCode::NOT_FOUND, kind, problem.to_string()).into_response()
}

async fn show(Path(name): Path<String>, headers: HeaderMap) -> impl IntoResponse {
    let let_in = headers.get("authorization").is_some_and(|header| header == "Bearer s3cret");
    if name == "locked" && !let_in {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let healthy = name == "well";
    Json(json!({"name": name, "type": "kubernetes", "healthy": healthy, "health_age_seconds": 3}))
        .into_response()
}

fn problem(status: StatusCode, title: &str, detail: &str) -> axum::response::Response {
    let body = json!({"title": title, "status": status.as_u16(), "detail": detail});
    (status, [(CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

/// As the server: what is not given has its default.
async fn set_pool(Path(name): Path<String>, Json(given): Json<Value>) -> impl IntoResponse {
    if name == "env" {
        let detail = "the pool of env is set by HODEI_K8S_POOL_* of the server";
        return problem(StatusCode::CONFLICT, "Provider of environment", detail);
    }
    if given["minimum"].as_u64() > given["maximum"].as_u64() {
        let detail = "pool.minimum: must not be above pool.maximum, which is 1";
        return problem(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", detail);
    }
    let mut pool = json!({"minimum": 0, "idle_seconds": 300, "maximum_age_seconds": 86400});
    for (field, value) in given.as_object().unwrap() {
        pool[field] = value.clone();
    }
    Json(pool).into_response()
}

async fn clear_pool(Path(name): Path<String>) -> impl IntoResponse {
    match name.as_str() {
        "k8s" => StatusCode::NO_CONTENT.into_response(),
        _ => problem(StatusCode::NOT_FOUND, "No such provider", "there is no provider \"other\""),
    }
}

async fn drain(Path(id): Path<String>) -> impl IntoResponse {
    Json(json!({"id": id, "state": "draining"}))
}

/// A server; what was posted is kept.
async fn start() -> (String, Arc<Mutex<Vec<Value>>>) {
    let posted = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&posted);
    let add = async move |Json(body): Json<Value>| {
        kept.lock().unwrap().push(body.clone());
        (StatusCode::CREATED, Json(body))
    };
    let list = async || {
        let provider =
            json!({"name": "k8s-local", "type": "kubernetes", "healthy": true, "problem": null});
        Json(json!({ "providers": [provider] }))
    };
    let workers = async || Json(json!({"workers": [{"id": "w", "state": "busy", "new": []}]}));
    let router = Router::new()
        .route("/api/providers", get(list).post(add))
        .route("/api/providers/{name}", delete(remove).get(show))
        .route("/api/providers/{name}/pool", put(set_pool).delete(clear_pool))
        .route("/api/workers/{id}/drain", post(drain))
        .route("/api/workers", get(workers));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, router).await });
    (address, posted)
}

async fn hodei(address: &str, arguments: &[&str]) -> Ended {
    let mut command = command(arguments);
    command.env("HODEI_REST_ADDRESS", address).env("http_proxy", "http://127.0.0.1:1");
    run(command).await
}

#[tokio::test]
async fn providers_are_added_listed_and_removed() {
    let (address, posted) = start().await;
    let add = ["provider", "add", "k8s-local", "--type", "kubernetes", "--set", "namespace=jobs"];
    let added = hodei(&address, &add).await;
    assert_eq!((added.code, added.text()), (Some(0), "provider k8s-local was added\n"));
    let expected =
        json!({"type": "kubernetes", "name": "k8s-local", "config": {"namespace": "jobs"}});
    assert_eq!(*posted.lock().unwrap(), [expected]);
    let listed = hodei(&address, &["provider", "list"]).await;
    insta::assert_snapshot!("providers", listed.text());
    let removed = hodei(&address, &["provider", "remove", "k8s-local"]).await;
    assert_eq!((removed.code, removed.text()), (Some(0), "provider k8s-local was removed\n"));
    let workers = hodei(&address, &["worker", "list"]).await;
    insta::assert_snapshot!("workers", workers.text());
}

#[tokio::test]
async fn a_provider_is_added_with_a_pool() {
    let (address, posted) = start().await;
    let add = ["provider", "add", "warm", "--pool-maximum", "4", "--pool-idle", "5m"];
    assert_eq!(hodei(&address, &add).await.code, Some(0));
    let more = ["--pool-minimum", "2", "--pool-maximum-age", "2h"];
    assert_eq!(hodei(&address, &[&add[..], &more].concat()).await.code, Some(0));
    let pools: Vec<_> = posted.lock().unwrap().iter().map(|body| body["pool"].clone()).collect();
    let all = json!({"minimum": 2, "maximum": 4, "idle_seconds": 300, "maximum_age_seconds": 7200});
    assert_eq!(pools, [json!({"maximum": 4, "idle_seconds": 300}), all]);
    let alone = hodei(&address, &["provider", "add", "warm", "--pool-minimum", "2"]).await;
    assert!(alone.code == Some(2) && alone.stderr.contains("--pool-maximum"), "{}", alone.stderr);
}

#[tokio::test]
async fn a_pool_is_set_and_cleared() {
    let (address, _) = start().await;
    let set = ["provider", "pool", "set", "k8s", "--maximum", "8"];
    let all = ["--minimum", "2", "--idle", "90s", "--maximum-age", "48h"];
    let shown = hodei(&address, &set).await;
    let defaults =
        "provider k8s has a pool: 0 to 8 workers, idle for 5m, replaced at the age of 24h\n";
    assert_eq!((shown.code, shown.text()), (Some(0), defaults), "{}", shown.stderr);
    let shown = hodei(&address, &[&set[..], &all, &["--output", "json"]].concat()).await;
    let bounds =
        json!({"minimum": 2, "maximum": 8, "idle_seconds": 90, "maximum_age_seconds": 172_800});
    let json: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(json, json!({"name": "k8s", "pool": bounds}));
    let clear = ["provider", "pool", "clear", "k8s"];
    assert_eq!(hodei(&address, &clear).await.text(), "provider k8s has no pool\n");
    let shown = hodei(&address, &[&clear[..], &["--output", "json"]].concat()).await;
    let json: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(json, json!({"name": "k8s", "pool": null}));
}

#[tokio::test]
async fn a_pool_that_cannot_be_set_teaches_how() {
    let (address, _) = start().await;
    let set = |name| ["provider", "pool", "set", name, "--maximum", "1"];
    let environment = hodei(&address, &set("env")).await;
    assert_eq!(environment.code, Some(1));
    insta::assert_snapshot!("pool_of_environment", environment.stderr);
    let many = hodei(&address, &[&set("k8s")[..], &["--minimum", "2"]].concat()).await;
    assert_eq!(many.code, Some(1));
    insta::assert_snapshot!("pool_that_cannot_be", many.stderr);
    let other = hodei(&address, &["provider", "pool", "clear", "other"]).await;
    assert!(other.stderr.contains("`hodei provider list`"), "{}", other.stderr);
    let unbounded = hodei(&address, &["provider", "pool", "set", "k8s"]).await;
    assert_eq!(unbounded.code, Some(2));
    assert!(unbounded.stderr.contains("--maximum <WORKERS>"), "{}", unbounded.stderr);
    let short = hodei(&address, &[&set("k8s")[..], &["--idle", "500ms"]].concat()).await;
    assert_eq!(short.code, Some(2));
    assert!(short.stderr.contains("whole seconds"), "{}", short.stderr);
}

#[tokio::test]
async fn a_providers_health_is_the_exit_code_and_a_worker_is_drained() {
    let (address, _) = start().await;
    for (name, code) in [("well", 0), ("ill", 1)] {
        let shown = hodei(&address, &["provider", "health", name]).await;
        assert_eq!(shown.code, Some(code), "{}", shown.stderr);
        assert!(shown.text().contains("3s ago"), "{}", shown.text());
        let same = hodei(&address, &["provider", "get", name]).await;
        assert_eq!((same.code, same.text()), (Some(0), shown.text()), "{}", same.stderr);
    }
    let token = "s3cret";
    let refused = hodei(&address, &["provider", "health", "locked"]).await;
    assert!(refused.stderr.contains("--token-file"), "{}", refused.stderr);
    let let_in = hodei(&address, &["provider", "health", "locked", "--token", token]).await;
    assert!(let_in.text().contains("locked"), "{}", let_in.stderr);
    let drained = hodei(&address, &["worker", "drain", "w1"]).await;
    assert_eq!((drained.code, drained.text()), (Some(0), "worker w1 is draining\n"));
}

#[tokio::test]
async fn a_problem_is_shown_in_full() {
    let (address, _) = start().await;
    let refused = hodei(&address, &["provider", "remove", "other"]).await;
    assert_eq!(refused.code, Some(1));
    insta::assert_snapshot!("problem", refused.stderr);
    let nobody = hodei("http://127.0.0.1:1", &["worker", "list"]).await;
    assert_eq!(nobody.code, Some(1));
    insta::assert_snapshot!("rest_unreachable", nobody.stderr);
}

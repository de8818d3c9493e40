//! Providers and workers, over REST.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    extract::Path,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::{delete, get, post},
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
async fn a_providers_health_is_the_exit_code_and_a_worker_is_drained() {
    let (address, _) = start().await;
    for (name, code) in [("well", 0), ("ill", 1)] {
        let shown = hodei(&address, &["provider", "health", name]).await;
        assert_eq!(shown.code, Some(code), "{}", shown.stderr);
        assert!(shown.text().contains("3s ago"), "{}", shown.text());
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

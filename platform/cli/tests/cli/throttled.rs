//! A server that asks for fewer requests is asked again, for a while, and a person is told.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Json, Router,
    http::{StatusCode, header::RETRY_AFTER},
    response::IntoResponse,
    routing::get,
};
use serde_json::json;
use tokio::net::TcpListener;

use crate::peer::{Ended, JOB, Peer, Script, command, run};

const TOLD: &str = "the server asks for fewer requests";

/// A REST server whose first answers are refusals, and how often it was asked.
async fn start(refusals: usize, retry_after: &'static str) -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let list = async move || {
        if counted.fetch_add(1, Ordering::SeqCst) < refusals {
            let problem = json!({"title": "Too Many Requests", "status": 429, "detail": "slower"});
            let after = [(RETRY_AFTER, retry_after)];
            return (StatusCode::TOO_MANY_REQUESTS, after, Json(problem)).into_response();
        }
        Json(json!({"workers": [{"id": "w", "state": "busy"}], "next_page_token": null}))
            .into_response()
    };
    let router = Router::new().route("/api/workers", get(list));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, router).await });
    (address, asked)
}

async fn list_workers(address: &str) -> Ended {
    let mut command = command(&["worker", "list"]);
    command.env("HODEI_REST_ADDRESS", address);
    run(command).await
}

#[tokio::test]
async fn a_rest_call_is_made_again_when_the_server_says() {
    let (address, asked) = start(2, "0").await;
    let listed = list_workers(&address).await;
    assert_eq!((listed.code, asked.load(Ordering::SeqCst)), (Some(0), 3), "{}", listed.stderr);
    assert_eq!(listed.stderr.matches(TOLD).count(), 1, "{}", listed.stderr);
}

#[tokio::test]
async fn a_wait_that_is_too_long_is_not_begun() {
    for after in ["3600", "18446744073709551615"] {
        let (address, asked) = start(usize::MAX, after).await;
        let refused = list_workers(&address).await;
        assert_eq!((refused.code, asked.load(Ordering::SeqCst)), (Some(1), 1), "{after}");
        assert!(refused.stderr.contains("slower"), "{}", refused.stderr);
    }
}

#[tokio::test]
async fn a_grpc_call_is_made_again_when_the_server_says() {
    let peer = Peer::start(Script { too_many: (2, 1), ..Script::default() }).await;
    let begun = std::time::Instant::now();
    let shown = peer.run(&["job", "get", JOB]).await;
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    assert!(begun.elapsed().as_secs() >= 2, "it waited for {:?} only", begun.elapsed());
    assert_eq!(shown.stderr.matches(TOLD).count(), 1, "{}", shown.stderr);
}

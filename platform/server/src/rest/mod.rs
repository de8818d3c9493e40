//! The REST face: providers, read-only jobs and workers, health, metrics. Errors are
//! `application/problem+json` (RFC 9457).

mod health;
mod jobs;
mod problem;
mod providers;
pub(crate) mod serve;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{StatusCode, Uri},
    routing::get,
};
use tower_http::timeout::TimeoutLayer;

use crate::app::App;
use problem::Problem;

/// Largest request body, in bytes.
const MAX_BODY: usize = 256 << 10;
/// Longest time for one request; connecting a provider is the slowest of them.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route("/api/providers", get(providers::list).post(providers::register))
        .route("/api/providers/{name}", get(providers::show).delete(providers::remove))
        .route("/api/jobs", get(jobs::list))
        .route("/api/jobs/{id}", get(jobs::show))
        .route("/api/workers", get(jobs::workers))
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, REQUEST_TIMEOUT))
        .with_state(app)
}

async fn unknown(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not-found", format!("there is nothing at {}", uri.path()))
}

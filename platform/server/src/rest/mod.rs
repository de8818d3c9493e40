//! The REST face: providers, workers, read-only jobs, health, metrics. Errors are
//! `application/problem+json` (RFC 9457).

mod health;
mod jobs;
mod problem;
mod providers;
pub(crate) mod serve;
mod workers;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{Method, StatusCode, Uri, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tower_http::timeout::TimeoutLayer;

use crate::{app::App, auth::Access};
use problem::Problem;

/// Largest request body, in bytes.
const MAX_BODY: usize = 256 << 10;
/// Longest time for one request; connecting a provider is the slowest of them.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) fn router(app: Arc<App>) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(health::metrics))
        .route("/api/providers", get(providers::list).post(providers::register))
        .route("/api/providers/{name}", get(providers::show).delete(providers::remove))
        .route("/api/jobs", get(jobs::list))
        .route("/api/jobs/{id}", get(jobs::show))
        .route("/api/workers", get(workers::list))
        .route("/api/workers/{id}/drain", post(workers::drain))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(app.clone(), guard));
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .merge(guarded)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, REQUEST_TIMEOUT))
        .with_state(app)
}

/// Lets clients in that are admitted. Without a token this listener is on loopback: its peers are too.
async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION);
    let header = header.and_then(|value| value.to_str().ok());
    let admitted = match &app.access {
        Access::ThisMachine | Access::Anyone => Ok(()),
        access => access.admit(header, None),
    };
    if let Err(denied) = admitted {
        let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", denied.to_string());
        return ([(header::WWW_AUTHENTICATE, "Bearer")], problem).into_response();
    }
    next.run(request).await
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("{method} does nothing at {}", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
}

async fn unknown(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not-found", format!("there is nothing at {}", uri.path()))
}

//! The REST face: providers, workers, read-only jobs, health, metrics, described by an OpenAPI document.
//! Errors are `application/problem+json` (RFC 9457).

mod health;
mod jobs;
mod openapi;
mod page;
mod pool;
mod problem;
mod providers;
mod schema;
pub(crate) mod serve;
mod workers;

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use axum::{
    Router,
    extract::{ConnectInfo, DefaultBodyLimit, Request, State},
    http::{Method, StatusCode, Uri, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use serde_json::json;
use tower_http::timeout::TimeoutLayer;
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    auth::{Access, Denied, Refused},
    trace::trace_request,
};
use problem::Problem;
use serve::Peer;

/// Largest request body, in bytes.
const MAX_BODY: usize = 256 << 10;
/// Longest time for one request; connecting a provider is the slowest of them.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What needs the token.
fn guarded() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(openapi::Document::openapi())
        .routes(routes!(health::metrics))
        .routes(routes!(providers::list, providers::register))
        .routes(routes!(providers::show, providers::remove))
        .routes(routes!(pool::set, pool::remove))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::show))
        .routes(routes!(workers::list))
        .routes(routes!(workers::drain))
}

/// What needs none, and is counted all the same.
fn open() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::default().routes(routes!(openapi::serve))
}

/// What a probe asks, however often.
fn probes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::default().routes(routes!(health::healthz)).routes(routes!(health::readyz))
}

/// The OpenAPI document of this face, as JSON.
///
/// # Panics
/// Never: the document is built of texts alone.
pub(crate) fn document() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let whole = guarded().merge(open()).merge(probes()).into_openapi();
        openapi::text(&openapi::complete(whole)).expect("a document of texts can be written")
    });
    &TEXT
}

pub(crate) fn router(app: Arc<App>) -> Router {
    let guarded = Router::from(guarded())
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(app.clone(), trace_request))
        .layer(from_fn_with_state(app.clone(), guard));
    let open = Router::from(open())
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(app.clone(), count));
    Router::from(probes())
        .method_not_allowed_fallback(wrong_method)
        .merge(open)
        .merge(guarded)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, REQUEST_TIMEOUT))
        .with_state(app)
}

/// Lets clients in that are admitted and do not ask too often. Without a token this listener is on
/// loopback: its peers are too.
async fn guard(
    State(app): State<Arc<App>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let header = request.headers().get(header::AUTHORIZATION);
    let header = header.and_then(|value| value.to_str().ok());
    let admitted = match &app.access {
        Access::ThisMachine => count_peer(&app, peer),
        access => access.enter(&app.limits, header, Some(peer)),
    };
    match admitted {
        Ok(()) => next.run(request).await,
        Err(refused) => refusal(refused),
    }
}

/// Lets everybody in who does not ask too often.
async fn count(
    State(app): State<Arc<App>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    match count_peer(&app, peer) {
        Ok(()) => next.run(request).await,
        Err(refused) => refusal(refused),
    }
}

fn count_peer(app: &App, peer: SocketAddr) -> Result<(), Refused> {
    Access::Anyone.enter(&app.limits, None, Some(peer))
}

fn refusal(refused: Refused) -> Response {
    match refused {
        Refused::Denied(denied) => unauthorized(denied),
        Refused::TooMany(wait) => {
            let seconds = wait.as_secs() + 1;
            let detail = format!("too many requests of this client; try again in {seconds} s");
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-requests", detail)
                .with("retry_after_seconds", json!(seconds));
            ([(header::RETRY_AFTER, seconds.to_string())], problem).into_response()
        }
    }
}

fn unauthorized(denied: Denied) -> Response {
    let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", denied.to_string());
    ([(header::WWW_AUTHENTICATE, "Bearer")], problem).into_response()
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("{method} does nothing at {}", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
}

async fn unknown(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not-found", format!("there is nothing at {}", uri.path()))
}

//! Liveness, readiness and metrics.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::app::App;

const DATABASE_TIMEOUT: Duration = Duration::from_secs(3);

/// The process answers.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// 200 when work can be taken: the database answers. Providers are shown, and do not decide: a server
/// whose provider is away still serves logs, sessions and submissions.
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Response {
    let database = tokio::time::timeout(DATABASE_TIMEOUT, app.store.ping()).await;
    let ready = matches!(database, Ok(Ok(()))) && !app.stop.is_cancelled();
    let providers: serde_json::Map<String, Value> = match app.store.providers().await {
        Ok(rows) if ready => rows
            .iter()
            .map(|row| {
                let health = match app.registry.health(&row.id) {
                    Ok(()) => json!({"healthy": true}),
                    Err(problem) => json!({"healthy": false, "problem": problem}),
                };
                (row.id.to_string(), health)
            })
            .collect(),
        _ => serde_json::Map::new(),
    };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "ready": ready,
        "database": if ready { "ok" } else { "does not answer" },
        "providers": providers,
    });
    (status, Json(body)).into_response()
}

/// Metrics in Prometheus' text form.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let states = tokio::time::timeout(DATABASE_TIMEOUT, app.store.workers_by_state()).await;
    if let Ok(Ok(states)) = states {
        for state in hodei_core::worker::WorkerState::ALL {
            let count = states.iter().find(|(name, _)| name == state.as_str()).map_or(0, |s| s.1);
            metrics::gauge!("hodei_workers", "state" => state.as_str()).set(count as f64);
        }
    }
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, app.metrics.render()).into_response()
}

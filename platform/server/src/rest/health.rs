//! Liveness, readiness and metrics.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;

const DATABASE_TIMEOUT: Duration = Duration::from_secs(3);

/// Whether work can be taken.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Readiness {
    ready: bool,
    /// `ok`, or what is wrong with it.
    database: &'static str,
    /// By name; empty while the database does not answer.
    providers: BTreeMap<String, ProviderHealth>,
}

/// What a provider's last health check said.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProviderHealth {
    healthy: bool,
    /// Why it is not healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// The process answers.
#[utoipa::path(
    get, path = "/healthz", operation_id = "getHealth", tag = "operations",
    responses((status = 200, description = "`ok`", body = String, content_type = "text/plain"))
)]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// 200 when work can be taken: the database answers.
///
/// Providers are shown, and do not decide: a server whose provider is away still serves logs, sessions
/// and submissions.
#[utoipa::path(
    get, path = "/readyz", operation_id = "getReadiness", tag = "operations",
    responses(
        (status = 200, description = "Work can be taken", body = Readiness),
        (status = 503, description = "The database does not answer, or the server ends", body = Readiness),
    )
)]
pub(super) async fn readyz(State(app): State<Arc<App>>) -> (StatusCode, Json<Readiness>) {
    let database = tokio::time::timeout(DATABASE_TIMEOUT, app.store.ping()).await;
    let ready = matches!(database, Ok(Ok(()))) && !app.stop.is_cancelled();
    let providers = match app.store.providers().await {
        Ok(rows) if ready => rows
            .iter()
            .map(|row| {
                let problem = app.registry.health(&row.id).err();
                (row.id.to_string(), ProviderHealth { healthy: problem.is_none(), problem })
            })
            .collect(),
        _ => BTreeMap::new(),
    };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let database = if ready { "ok" } else { "does not answer" };
    (status, Json(Readiness { ready, database, providers }))
}

/// Metrics in Prometheus' text form.
#[utoipa::path(
    get, path = "/metrics", operation_id = "getMetrics", tag = "operations",
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let states = tokio::time::timeout(DATABASE_TIMEOUT, app.store.workers_by_state()).await;
    if let Ok(Ok(states)) = states {
        for state in hodei_core::worker::WorkerState::ALL {
            let count = states.iter().find(|(name, _)| name == state.as_str()).map_or(0, |s| s.1);
            metrics::gauge!("hodei_workers", "state" => state.as_str()).set(count as f64);
        }
    }
    if app.registry.has_pools() {
        pool_metrics(&app).await;
    }
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, app.metrics.render()).into_response()
}

async fn pool_metrics(app: &App) {
    let counts = tokio::time::timeout(DATABASE_TIMEOUT, app.store.pool_counts()).await;
    let Ok(Ok(counts)) = counts else { return };
    for entry in app.registry.all().iter().filter(|entry| entry.row.pool.is_some()) {
        let provider = entry.row.id.as_str();
        let count = counts.iter().find(|count| count.provider == provider);
        let (starting, idle, busy) =
            count.map_or((0, 0, 0), |count| (count.starting, count.idle, count.busy));
        for (state, workers) in [("starting", starting), ("idle", idle), ("busy", busy)] {
            metrics::gauge!("hodei_pool_workers", "provider" => provider.to_owned(), "state" => state)
                .set(workers as f64);
        }
    }
}

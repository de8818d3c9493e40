//! Workers: to look at, and to drain.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
};
use hodei_core::id::WorkerId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{jobs::page_size, problem::Problem};
use crate::{app::App, store::rows::WorkerRow};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// The terminated, too.
    all: Option<bool>,
    /// Id of the last worker of the page before.
    after: Option<String>,
    limit: Option<u32>,
}

fn worker_id(field: &str, text: &str) -> Result<WorkerId, Problem> {
    text.parse().map_err(|error| Problem::invalid(format!("{field}: {error}")))
}

/// `GET /api/workers?all=true&limit=50&after=ID`, newest first.
pub(super) async fn list(
    State(app): State<Arc<App>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(query) = query?;
    let after = query.after.as_deref().map(|text| worker_id("after", text)).transpose()?;
    let limit = page_size(query.limit)?;
    let all = query.all.unwrap_or(false);
    // One more than asked for says whether there is a further page.
    let mut workers = app.store.list_workers(all, after, limit + 1).await?;
    let more = workers.len() > limit as usize;
    workers.truncate(limit as usize);
    let next = workers.last().filter(|_| more).map(|worker| worker.id.to_string());
    let workers: Vec<_> = workers.iter().map(show).collect();
    Ok(Json(json!({"workers": workers, "next": next})))
}

/// `POST /api/workers/{id}/drain`: the worker finishes what it has, takes no more, and leaves. Repeated,
/// it changes nothing.
pub(super) async fn drain(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let id = worker_id("id", &id)?;
    let Some(worker) = app.store.drain_worker(id).await? else {
        let detail = format!("there is no worker {id}");
        return Err(Problem::new(StatusCode::NOT_FOUND, "no-such-worker", detail));
    };
    tracing::info!(worker_id = %id, state = %worker.state, "drain requested");
    Ok(Json(show(&worker)))
}

fn show(worker: &WorkerRow) -> Value {
    json!({
        "id": worker.id,
        "provider": worker.provider,
        "state": worker.state,
        "job_id": worker.attempt.job,
        "epoch": worker.attempt.epoch,
        "resource": worker.resource,
        "resource_uid": worker.resource_uid,
        "reason": worker.reason,
        "created_at": worker.created_at,
        "registered_at": worker.registered_at,
        "terminated_at": worker.terminated_at,
    })
}

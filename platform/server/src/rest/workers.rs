//! Workers: to look at, and to drain.

use std::sync::Arc;

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::StatusCode,
};
use hodei_core::{
    id::{JobId, WorkerId},
    worker::WorkerState,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    page::{cut, page_size, page_token},
    problem::{Problem, ProblemBody},
    schema,
};
use crate::{app::App, store::rows::WorkerRow};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// The terminated, too.
    all: Option<bool>,
    /// Most workers of the page: 1 to 500, 50 if nothing is said.
    page_size: Option<u32>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

/// A page of workers, newest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WorkerPage)]
pub(super) struct Page {
    workers: Vec<WorkerView>,
    /// Token of the next page; `null` on the last.
    next_page_token: Option<String>,
}

/// One worker.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Worker)]
pub(super) struct WorkerView {
    #[schema(value_type = String, format = "uuid")]
    id: WorkerId,
    provider: String,
    #[schema(schema_with = schema::worker_state)]
    state: WorkerState,
    /// The job it is for; `null` while it is idle.
    #[schema(value_type = Option<String>, format = "uuid")]
    job_id: Option<JobId>,
    /// Which attempt of the job it is for.
    epoch: Option<u32>,
    /// Whether it belongs to its provider's pool.
    pooled: bool,
    /// Since when it has been ready for a job; `null` while it is not.
    idle_since: Option<Timestamp>,
    /// Jobs that ended on it.
    jobs_done: u32,
    /// The provider's name for it, once there is one.
    resource: Option<String>,
    resource_uid: Option<String>,
    /// The node it is on, once it is on one.
    node: Option<String>,
    /// Milliseconds by which its clock is ahead of the server's, negative where it is behind; `null` until a
    /// lease of it was renewed. Its output bears its times.
    clock_offset_ms: Option<i64>,
    /// Why it is in this state, where there is something to say.
    reason: String,
    created_at: Timestamp,
    registered_at: Option<Timestamp>,
    /// When it was decided that it goes.
    terminating_at: Option<Timestamp>,
    terminated_at: Option<Timestamp>,
}

/// Workers, newest first.
#[utoipa::path(
    get, path = "/api/workers", operation_id = "listWorkers", tag = "workers", params(ListQuery),
    responses(
        (status = 200, description = "A page of workers", body = Page),
        (status = 400, description = "A parameter is not valid", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Page>, Problem> {
    let Query(query) = query?;
    let before = page_token(query.page_token.as_deref())?;
    let size = page_size(query.page_size)?;
    let all = query.all.unwrap_or(false);
    let mut workers = app.store.list_workers(all, before, size + 1).await?;
    let next_page_token = cut(&mut workers, size, |worker| worker.id.to_string());
    Ok(Json(Page { workers: workers.iter().map(show).collect(), next_page_token }))
}

/// Drains a worker: it finishes what it has, takes no more, and leaves. Repeated, it changes nothing.
#[utoipa::path(
    post, path = "/api/workers/{id}/drain", operation_id = "drainWorker", tag = "workers",
    params(("id" = String, Path, format = "uuid", description = "Id of the worker")),
    responses(
        (status = 200, description = "The worker as it is now", body = WorkerView),
        (status = 404, description = "There is no such worker", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The id is not one", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn drain(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<WorkerView>, Problem> {
    let Path(id) = id?;
    let id: WorkerId = id.parse().map_err(|error| Problem::invalid(format!("id: {error}")))?;
    let Some(worker) = app.store.drain_worker(id).await? else {
        let detail = format!("there is no worker {id}");
        return Err(Problem::new(StatusCode::NOT_FOUND, "no-such-worker", detail));
    };
    tracing::info!(worker_id = %id, state = %worker.state, "drain requested");
    Ok(Json(show(&worker)))
}

fn show(worker: &WorkerRow) -> WorkerView {
    // What an idle one did last is over.
    let attempt = worker.attempt.filter(|_| worker.idle_since.is_none());
    WorkerView {
        id: worker.id,
        provider: worker.provider.clone(),
        state: worker.state,
        job_id: attempt.map(|attempt| attempt.job),
        epoch: attempt.map(|attempt| attempt.epoch.0),
        pooled: worker.pooled,
        idle_since: worker.idle_since,
        jobs_done: worker.jobs_done,
        resource: worker.resource.clone(),
        resource_uid: worker.resource_uid.clone(),
        node: worker.node.clone(),
        clock_offset_ms: worker.clock_offset_ms,
        reason: worker.reason.clone(),
        created_at: worker.created_at,
        registered_at: worker.registered_at,
        terminating_at: worker.terminating_at,
        terminated_at: worker.terminated_at,
    }
}

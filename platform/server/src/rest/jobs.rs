//! Jobs, to look at. Values of environment variables are never shown: they may be secrets.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
};
use hodei_core::{
    id::JobId,
    job::JobState,
    spec::{JobSpec, Run},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::problem::Problem;
use crate::{
    app::App,
    store::rows::{AttemptRow, JobRow},
};

const MAX_PAGE: u32 = 500;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Comma-separated states.
    state: Option<String>,
    /// Id of the last job of the page before.
    after: Option<String>,
    limit: Option<u32>,
}

/// How many entries a page has: 1 to 500; 50 if nothing is said.
pub(super) fn page_size(limit: Option<u32>) -> Result<u32, Problem> {
    match limit.unwrap_or(50) {
        limit @ 1..=MAX_PAGE => Ok(limit),
        limit => Err(Problem::invalid(format!("limit: {limit} is not in 1 to {MAX_PAGE}"))),
    }
}

/// `GET /api/jobs?state=queued,running&limit=50&after=ID`, newest first.
pub(super) async fn list(
    State(app): State<Arc<App>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(query) = query?;
    let names = query.state.iter().flat_map(|text| text.split(',')).filter(|name| !name.is_empty());
    let states: Result<Vec<JobState>, _> = names.map(str::parse).collect();
    let states = states.map_err(|error| Problem::invalid(format!("state: {error}")))?;
    let after = query.after.as_deref().map(str::parse::<JobId>).transpose();
    let after = after.map_err(|error| Problem::invalid(format!("after: {error}")))?;
    let limit = page_size(query.limit)?;
    let mut jobs = app.store.list_jobs(&states, after, limit + 1).await?;
    let more = jobs.len() > limit as usize;
    jobs.truncate(limit as usize);
    let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
    let attempts = app.store.attempts(&ids).await?;
    let next = jobs.last().filter(|_| more).map(|job| job.id.to_string());
    let jobs: Vec<_> = jobs.iter().map(|job| show_job(job, &attempts)).collect();
    Ok(Json(json!({"jobs": jobs, "next": next})))
}

/// `GET /api/jobs/{id}`
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let id: JobId = id.parse().map_err(|error| Problem::invalid(format!("id: {error}")))?;
    let Some(job) = app.store.job(id).await? else {
        let detail = format!("there is no job {id}");
        return Err(Problem::new(StatusCode::NOT_FOUND, "no-such-job", detail));
    };
    Ok(Json(show_job(&job, &app.store.attempts(&[id]).await?)))
}

fn show_spec(spec: &JobSpec) -> Value {
    let run = match &spec.run {
        Run::Command(argv) => json!({"command": argv}),
        Run::Script(text) => json!({"script": text}),
    };
    json!({
        "run": run,
        "env": spec.env.keys().collect::<Vec<_>>(),
        "working_directory": spec.working_directory,
        "resources": spec.resources,
        "timeouts": {
            "queue_seconds": spec.timeouts.queue.as_secs_f64(),
            "startup_seconds": spec.timeouts.startup.as_secs_f64(),
            "run_seconds": spec.timeouts.run.as_secs_f64(),
        },
        "retry": spec.retry,
        "labels": spec.labels,
        "image": spec.image,
        "priority": spec.priority,
    })
}

fn show_job(job: &JobRow, attempts: &[AttemptRow]) -> Value {
    let own = attempts.iter().filter(|attempt| attempt.key.job == job.id);
    json!({
        "id": job.id,
        "name": job.name,
        "state": job.state,
        "version": job.version,
        "reason": job.reason,
        "outcome": job.outcome,
        "exit_code": job.exit_code,
        "correlation_id": job.correlation_id,
        "spec": show_spec(&job.spec),
        "submitted_at": job.submitted_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "attempts": own.map(|attempt| json!({
            "epoch": attempt.key.epoch,
            "worker_id": attempt.worker,
            "provider": attempt.provider,
            "state": attempt.state,
            "reason": attempt.reason,
            "outcome": attempt.outcome,
            "log_frames": attempt.log_sequence,
            "created_at": attempt.created_at,
            "started_at": attempt.started_at,
            "finished_at": attempt.finished_at,
        })).collect::<Vec<_>>(),
    })
}

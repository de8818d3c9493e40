//! Jobs, to look at. Values of environment variables are never shown: they may be secrets.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::StatusCode,
};
use hodei_core::{
    attempt::Outcome,
    id::JobId,
    job::JobState,
    spec::{JobSpec, Resources, RetryPolicy, Run},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    page::{cut, page_size, page_token},
    problem::{Problem, ProblemBody},
    schema,
};
use crate::{
    app::App,
    store::rows::{AttemptRow, JobRow},
};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// States, separated by commas; all states if nothing is said.
    state: Option<String>,
    /// Most jobs of the page: 1 to 500, 50 if nothing is said.
    page_size: Option<u32>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

/// A page of jobs, newest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JobPage)]
pub(super) struct Page {
    jobs: Vec<JobView>,
    /// Token of the next page; `null` on the last.
    next_page_token: Option<String>,
}

/// A job and its attempts.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Job)]
pub(super) struct JobView {
    #[schema(value_type = String, format = "uuid")]
    id: JobId,
    name: String,
    #[schema(schema_with = schema::job_state)]
    state: JobState,
    /// Grows with every change.
    version: i64,
    /// Why it is in this state, where there is something to say.
    reason: String,
    /// How the command ended.
    #[schema(schema_with = schema::outcome)]
    outcome: Option<Outcome>,
    exit_code: Option<i32>,
    /// Ties the logs of client, server and worker together.
    correlation_id: String,
    spec: SpecView,
    submitted_at: Timestamp,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    /// Oldest first.
    attempts: Vec<AttemptView>,
}

/// What was asked for.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JobSpec)]
pub(super) struct SpecView {
    #[schema(schema_with = schema::run)]
    run: Run,
    /// Names of the environment variables; their values are not shown.
    env: Vec<String>,
    working_directory: Option<String>,
    #[schema(schema_with = schema::resources)]
    resources: Resources,
    timeouts: TimeoutsView,
    #[schema(schema_with = schema::retry)]
    retry: RetryPolicy,
    labels: BTreeMap<String, String>,
    /// Worker image; `null` for the provider's.
    image: Option<String>,
    priority: i32,
}

/// How long each part may take.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Timeouts)]
pub(super) struct TimeoutsView {
    queue_seconds: f64,
    startup_seconds: f64,
    run_seconds: f64,
}

/// One try of a job.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Attempt)]
pub(super) struct AttemptView {
    /// Counts the attempts from 1.
    epoch: u32,
    #[schema(value_type = String, format = "uuid")]
    worker_id: hodei_core::id::WorkerId,
    provider: String,
    #[schema(schema_with = schema::attempt_state)]
    state: hodei_core::attempt::AttemptState,
    reason: String,
    #[schema(schema_with = schema::outcome)]
    outcome: Option<Outcome>,
    /// How many frames of its output are stored.
    log_frames: u64,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
}

/// Jobs, newest first.
#[utoipa::path(
    get, path = "/api/jobs", operation_id = "listJobs", tag = "jobs", params(ListQuery),
    responses(
        (status = 200, description = "A page of jobs", body = Page),
        (status = 400, description = "A parameter is not valid", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Page>, Problem> {
    let Query(query) = query?;
    let names = query.state.iter().flat_map(|text| text.split(',')).filter(|name| !name.is_empty());
    let states: Result<Vec<JobState>, _> = names.map(str::parse).collect();
    let states = states.map_err(|error| Problem::query("state", error))?;
    let before = page_token(query.page_token.as_deref())?;
    let size = page_size(query.page_size)?;
    let mut jobs = app.store.list_jobs(&states, before, size + 1).await?;
    let next_page_token = cut(&mut jobs, size, |job| job.id.to_string());
    let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
    let attempts = app.store.attempts(&ids).await?;
    let jobs = jobs.iter().map(|job| show_job(job, &attempts)).collect();
    Ok(Json(Page { jobs, next_page_token }))
}

/// One job.
#[utoipa::path(
    get, path = "/api/jobs/{id}", operation_id = "getJob", tag = "jobs",
    params(("id" = String, Path, format = "uuid", description = "Id of the job")),
    responses(
        (status = 200, description = "The job", body = JobView),
        (status = 404, description = "There is no such job", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The id is not one", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<JobView>, Problem> {
    let Path(id) = id?;
    let id: JobId = id.parse().map_err(|error| Problem::invalid(format!("id: {error}")))?;
    let Some(job) = app.store.job(id).await? else {
        let detail = format!("there is no job {id}");
        return Err(Problem::new(StatusCode::NOT_FOUND, "no-such-job", detail));
    };
    Ok(Json(show_job(&job, &app.store.attempts(&[id]).await?)))
}

fn show_spec(spec: &JobSpec) -> SpecView {
    SpecView {
        run: spec.run.clone(),
        env: spec.env.keys().cloned().collect(),
        working_directory: spec.working_directory.clone(),
        resources: spec.resources.clone(),
        timeouts: TimeoutsView {
            queue_seconds: spec.timeouts.queue.as_secs_f64(),
            startup_seconds: spec.timeouts.startup.as_secs_f64(),
            run_seconds: spec.timeouts.run.as_secs_f64(),
        },
        retry: spec.retry,
        labels: spec.labels.clone(),
        image: spec.image.clone(),
        priority: spec.priority,
    }
}

fn show_job(job: &JobRow, attempts: &[AttemptRow]) -> JobView {
    let own = attempts.iter().filter(|attempt| attempt.key.job == job.id);
    JobView {
        id: job.id,
        name: job.name.clone(),
        state: job.state,
        version: job.version,
        reason: job.reason.clone(),
        outcome: job.outcome.clone(),
        exit_code: job.exit_code,
        correlation_id: job.correlation_id.clone(),
        spec: show_spec(&job.spec),
        submitted_at: job.submitted_at,
        started_at: job.started_at,
        finished_at: job.finished_at,
        attempts: own.map(show_attempt).collect(),
    }
}

fn show_attempt(attempt: &AttemptRow) -> AttemptView {
    AttemptView {
        epoch: attempt.key.epoch.0,
        worker_id: attempt.worker,
        provider: attempt.provider.clone(),
        state: attempt.state,
        reason: attempt.reason.clone(),
        outcome: attempt.outcome.clone(),
        log_frames: attempt.log_sequence,
        created_at: attempt.created_at,
        started_at: attempt.started_at,
        finished_at: attempt.finished_at,
    }
}

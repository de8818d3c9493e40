//! `JobService`: submit, get, list, cancel, retry, watch.

use std::{sync::Arc, time::Duration};

use hodei_core::{id::JobId, spec::JobSpec};
use hodei_proto::v1::{
    CancelJobRequest, CancelJobResponse, GetJobRequest, GetJobResponse, Job, JobState,
    ListJobsRequest, ListJobsResponse, RetryJobRequest, RetryJobResponse, SubmitJobRequest,
    SubmitJobResponse, WatchJobRequest, WatchJobResponse, job_service_server::JobService,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{present, unavailable};
use crate::{
    app::App,
    store::{
        StoreError,
        jobs::{Origin, Submitted},
        notify::{Topic, changed_within},
        retry::Retried,
        rows::JobRow,
    },
    trace::RequestTrace,
};

const MAX_KEY_CHARS: usize = 128;
const DEFAULT_PAGE: u32 = 50;
const MAX_PAGE: u32 = 500;
/// How often a watched job is looked at, beside being woken.
const SLOW_POLL: Duration = Duration::from_secs(5);

/// The service.
pub(super) struct JobsService {
    pub(super) app: Arc<App>,
}

fn job_id(text: &str) -> Result<JobId, Status> {
    text.parse()
        .map_err(|error: hodei_core::id::InvalidId| Status::invalid_argument(error.to_string()))
}

fn no_such_job(id: JobId) -> Status {
    Status::not_found(format!("there is no job {id}"))
}

fn not_retried(id: JobId, state: hodei_core::job::JobState) -> Status {
    Status::failed_precondition(if state.is_final() {
        format!("job {id} has {state}, and a success stands; submit it anew to run it again")
    } else {
        format!("job {id} is {state}; only a job that has ended is retried")
    })
}

fn short_text(field: &str, text: &str) -> Result<(), Status> {
    if text.chars().count() <= MAX_KEY_CHARS && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "{field}: at most {MAX_KEY_CHARS} characters, none of them a control character"
    )))
}

async fn load(app: &App, id: JobId) -> Result<Option<Job>, StoreError> {
    match app.store.job(id).await? {
        Some(job) => with_attempts(app, &job).await.map(Some),
        None => Ok(None),
    }
}

async fn with_attempts(app: &App, job: &JobRow) -> Result<Job, StoreError> {
    Ok(present::job(job, &app.store.attempts(&[job.id]).await?))
}

#[tonic::async_trait]
impl JobService for JobsService {
    async fn submit(
        &self,
        request: Request<SubmitJobRequest>,
    ) -> Result<Response<SubmitJobResponse>, Status> {
        let trace = request.extensions().get::<RequestTrace>().cloned();
        let request = request.into_inner();
        short_text("idempotency_key", &request.idempotency_key)?;
        short_text("correlation_id", &request.correlation_id)?;
        let spec = JobSpec::try_from(request.spec.unwrap_or_default())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let key = Some(request.idempotency_key.as_str()).filter(|key| !key.is_empty());
        let correlation = match request.correlation_id {
            text if text.is_empty() => uuid::Uuid::new_v4().to_string(),
            text => text,
        };
        let traceparent = trace.as_ref().and_then(RequestTrace::traceparent);
        let origin = Origin { correlation_id: &correlation, traceparent: traceparent.as_deref() };
        let submitted = self.app.store.submit(&spec, key, origin).await.map_err(unavailable)?;
        let job = match submitted {
            Submitted::New(job) => {
                metrics::counter!("hodei_jobs_submitted_total").increment(1);
                tracing::info!(job_id = %job.id, correlation_id = correlation, "submitted");
                job
            }
            Submitted::Again(job) => job,
            Submitted::OtherSpec(id) => {
                let text = format!("the idempotency key belongs to job {id}, which differs");
                return Err(Status::already_exists(text));
            }
        };
        if let Some(trace) = trace {
            trace.set("job_id", job.id.to_string());
            trace.set("correlation_id", job.correlation_id.clone());
        }
        let job = with_attempts(&self.app, &job).await.map_err(unavailable)?;
        Ok(Response::new(SubmitJobResponse { job: Some(job) }))
    }

    async fn get(
        &self,
        request: Request<GetJobRequest>,
    ) -> Result<Response<GetJobResponse>, Status> {
        let id = job_id(&request.into_inner().id)?;
        let job = load(&self.app, id).await.map_err(unavailable)?;
        let job = job.ok_or_else(|| no_such_job(id))?;
        Ok(Response::new(GetJobResponse { job: Some(job) }))
    }

    async fn list(
        &self,
        request: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        let request = request.into_inner();
        let limit = match request.page_size {
            0 => DEFAULT_PAGE,
            size @ 1..=MAX_PAGE => size,
            size => {
                let text = format!("page_size: {size} is not in 1 to {MAX_PAGE}");
                return Err(Status::invalid_argument(text));
            }
        };
        let states: Option<Vec<_>> = request.states().map(JobState::to_core).collect();
        let states = states.ok_or_else(|| Status::invalid_argument("states: unknown state"))?;
        let before = match request.page_token.as_str() {
            "" => None,
            token => {
                Some(token.parse().map_err(|_| Status::invalid_argument("page_token: unknown"))?)
            }
        };
        // One more than asked for says whether there is a further page.
        let listed = self.app.store.list_jobs(&states, before, limit + 1).await;
        let mut jobs = listed.map_err(unavailable)?;
        let more = jobs.len() > limit as usize;
        jobs.truncate(limit as usize);
        let next_page_token =
            jobs.last().filter(|_| more).map(|job| job.id.to_string()).unwrap_or_default();
        let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
        let attempts = self.app.store.attempts(&ids).await.map_err(unavailable)?;
        let jobs = jobs.iter().map(|job| present::job(job, &attempts)).collect();
        Ok(Response::new(ListJobsResponse { jobs, next_page_token }))
    }

    async fn cancel(
        &self,
        request: Request<CancelJobRequest>,
    ) -> Result<Response<CancelJobResponse>, Status> {
        let request = request.into_inner();
        let id = job_id(&request.id)?;
        let reason = match request.reason.trim() {
            "" => "cancelled by a client".to_owned(),
            // PostgreSQL keeps no NUL.
            text => text.replace('\0', "\u{fffd}").chars().take(1024).collect(),
        };
        let grace = self.app.timing.cancel_grace;
        let cancelled = self.app.store.cancel_job(id, &reason, grace).await.map_err(unavailable)?;
        let job = cancelled.ok_or_else(|| no_such_job(id))?;
        tracing::info!(job_id = %id, state = %job.state, "cancel requested");
        let job = with_attempts(&self.app, &job).await.map_err(unavailable)?;
        Ok(Response::new(CancelJobResponse { job: Some(job) }))
    }

    async fn retry(
        &self,
        request: Request<RetryJobRequest>,
    ) -> Result<Response<RetryJobResponse>, Status> {
        let request = request.into_inner();
        let id = job_id(&request.id)?;
        short_text("idempotency_key", &request.idempotency_key)?;
        let key = Some(request.idempotency_key.as_str()).filter(|key| !key.is_empty());
        let job = match self.app.store.retry_job(id, key).await.map_err(unavailable)? {
            Retried::Queued(job) => {
                tracing::info!(job_id = %id, correlation_id = job.correlation_id, "retried");
                job
            }
            Retried::Again(job) => job,
            Retried::Refused(state) => return Err(not_retried(id, state)),
            Retried::Unknown => return Err(no_such_job(id)),
        };
        let job = with_attempts(&self.app, &job).await.map_err(unavailable)?;
        Ok(Response::new(RetryJobResponse { job: Some(job) }))
    }

    type WatchStream = ReceiverStream<Result<WatchJobResponse, Status>>;

    async fn watch(
        &self,
        request: Request<WatchJobRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let id = job_id(&request.into_inner().id)?;
        let first = load(&self.app, id).await.map_err(unavailable)?;
        first.ok_or_else(|| no_such_job(id))?;
        let (out, stream) = mpsc::channel(8);
        let app = self.app.clone();
        self.app.tasks.spawn(async move {
            let stopped = app.stop.run_until_cancelled(watch(&app, id, &out)).await;
            let last_word = match stopped {
                None => Some(Status::unavailable("the server is going away: watch again")),
                Some(result) => result.err().map(unavailable),
            };
            if let Some(status) = last_word {
                let _ = out.try_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Sends a job at every change until it is final or nobody listens.
async fn watch(
    app: &App,
    id: JobId,
    out: &mpsc::Sender<Result<WatchJobResponse, Status>>,
) -> Result<(), StoreError> {
    let mut changed = app.hub.subscribe(Topic::Job(id));
    let mut sent = None;
    loop {
        changed.mark_unchanged();
        let Some(job) = load(app, id).await? else { return Ok(()) };
        let last = job.state().to_core().is_none_or(hodei_core::job::JobState::is_final);
        if sent != Some(job.version) {
            sent = Some(job.version);
            if out.send(Ok(WatchJobResponse { job: Some(job) })).await.is_err() {
                return Ok(());
            }
        }
        if last {
            return Ok(());
        }
        tokio::select! {
            () = changed_within(&mut changed, SLOW_POLL) => {}
            () = out.closed() => return Ok(()),
        }
    }
}

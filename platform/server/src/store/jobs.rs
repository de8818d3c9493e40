//! Jobs as clients see them: submit, get, list, cancel.

use std::time::Duration;

use hodei_core::{
    attempt::AttemptState,
    id::{Epoch, JobId},
    job::{FinalState, JobEvent, JobState},
    spec::JobSpec,
};
use sqlx::types::Json;
use uuid::Uuid;

use super::{
    Store, StoreError,
    attempts::lock_attempt,
    notify::{Topic, notify},
    rows::{AttemptRow, JobRow, epoch_column, read_attempt, read_job},
    transition::{lock_job, record_submission, transition},
    workers::release,
};
use crate::policy::Stop;

/// Beyond the grace period, how long a stopped agent has to report its result.
const STOP_MARGIN: Duration = Duration::from_secs(15);

/// What became of a submission.
#[derive(Debug)]
pub(crate) enum Submitted {
    /// A new job.
    New(JobRow),
    /// The job that this key and specification made before.
    Again(JobRow),
    /// The key belongs to a job with another specification.
    OtherSpec(JobId),
}

/// What ties a job to whoever submitted it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) correlation_id: &'a str,
    /// Place of the submission in its trace.
    pub(crate) traceparent: Option<&'a str>,
}

impl<'a> From<&'a str> for Origin<'a> {
    fn from(correlation_id: &'a str) -> Self {
        Self { correlation_id, traceparent: None }
    }
}

impl Store {
    /// Stores a job as queued. A repeated key gives the job it made the first time.
    pub(crate) async fn submit(
        &self,
        spec: &JobSpec,
        key: Option<&str>,
        origin: impl Into<Origin<'_>>,
    ) -> Result<Submitted, StoreError> {
        let Origin { correlation_id, traceparent } = origin.into();
        let id = JobId::new();
        let name = spec.name.clone().unwrap_or_else(|| format!("job-{id}"));
        let mut tx = self.pool.begin().await?;
        let row = sqlx::query(
            "INSERT INTO jobs (id, name, state, spec, idempotency_key, correlation_id, queue_deadline,
                priority, traceparent)
             VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7), $8, $9)
             ON CONFLICT (idempotency_key) DO NOTHING RETURNING *",
        )
        .bind(id.as_uuid())
        .bind(name)
        .bind(JobState::Queued.as_str())
        .bind(Json(spec))
        .bind(key)
        .bind(correlation_id)
        .bind(spec.timeouts.queue.as_secs_f64())
        .bind(spec.priority)
        .bind(traceparent)
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(row) = row {
            let job = read_job(&row)?;
            record_submission(&mut tx, &job).await?;
            notify(&mut *tx, Topic::Queue).await?;
            tx.commit().await?;
            return Ok(Submitted::New(job));
        }
        let row = sqlx::query("SELECT * FROM jobs WHERE idempotency_key = $1")
            .bind(key)
            .fetch_one(&mut *tx)
            .await?;
        let job = read_job(&row)?;
        Ok(if job.spec == *spec { Submitted::Again(job) } else { Submitted::OtherSpec(job.id) })
    }

    /// One job.
    pub(crate) async fn job(&self, id: JobId) -> Result<Option<JobRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM jobs WHERE id = $1")
            .bind(id.as_uuid())
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(read_job).transpose()
    }

    /// The attempts of some jobs, oldest first.
    pub(crate) async fn attempts(&self, jobs: &[JobId]) -> Result<Vec<AttemptRow>, StoreError> {
        let ids: Vec<Uuid> = jobs.iter().map(JobId::as_uuid).collect();
        sqlx::query("SELECT * FROM attempts WHERE job_id = ANY($1) ORDER BY job_id, epoch")
            .bind(ids)
            .fetch_all(&self.pool)
            .await?
            .iter()
            .map(read_attempt)
            .collect()
    }

    /// Jobs in some states (none: in any), newest first, that are older than `before`.
    pub(crate) async fn list_jobs(
        &self,
        states: &[JobState],
        before: Option<JobId>,
        limit: u32,
    ) -> Result<Vec<JobRow>, StoreError> {
        let states: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
        sqlx::query(
            "SELECT * FROM jobs WHERE ($1 = '{}' OR state = ANY($1)) AND ($2 IS NULL OR id < $2)
             ORDER BY id DESC LIMIT $3",
        )
        .bind(states)
        .bind(before.map(|id| id.as_uuid()))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(read_job)
        .collect()
    }

    /// Asks for a job to end; `None` if there is none. A finished job stays as it is.
    ///
    /// A job that no agent holds yet ends here and now; otherwise its agent is told.
    pub(crate) async fn cancel_job(
        &self,
        id: JobId,
        reason: &str,
        grace: Duration,
    ) -> Result<Option<JobRow>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some(mut job) = lock_job(&mut tx, id).await? else { return Ok(None) };
        if job.state.is_final() || job.state == JobState::Cancelling {
            return Ok(Some(job));
        }
        transition(&mut tx, &mut job, JobEvent::CancelRequested, reason).await?;
        if job.state == JobState::Cancelling {
            let key = hodei_core::id::AttemptKey { job: id, epoch: job.epoch };
            let attempt = lock_attempt(&mut tx, key).await?;
            let waiting = attempt.filter(|attempt| attempt.state == AttemptState::Provisioning);
            if let Some(attempt) = waiting {
                sqlx::query(
                    "UPDATE attempts SET state = $3, stop = $4, reason = 'cancelled', finished_at = now()
                     WHERE job_id = $1 AND epoch = $2",
                )
                .bind(id.as_uuid())
                .bind(epoch_column(job.epoch))
                .bind(AttemptState::Lost.as_str())
                .bind(Stop::Cancelled.as_str())
                .execute(&mut *tx)
                .await?;
                let end = JobEvent::Finished(FinalState::Cancelled);
                transition(&mut tx, &mut job, end, reason).await?;
                release(&mut tx, attempt.worker, false, "its job was cancelled").await?;
            } else {
                stop_attempt(&mut tx, id, job.epoch, Stop::Cancelled, grace).await?;
            }
        }
        tx.commit().await?;
        if job.state.is_final() {
            count_finished(&job);
        }
        Ok(Some(job))
    }
}

/// Writes down that an attempt has to stop, and by when; its agent's session does the rest.
pub(crate) async fn stop_attempt(
    tx: &mut sqlx::PgTransaction<'_>,
    job: JobId,
    epoch: Epoch,
    stop: Stop,
    grace: Duration,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE attempts SET stop = COALESCE(stop, $3),
            stop_deadline = COALESCE(stop_deadline, now() + make_interval(secs => $4))
         WHERE job_id = $1 AND epoch = $2",
    )
    .bind(job.as_uuid())
    .bind(epoch_column(epoch))
    .bind(stop.as_str())
    .bind((grace + STOP_MARGIN).as_secs_f64())
    .execute(&mut **tx)
    .await?;
    notify(&mut **tx, Topic::Job(job)).await
}

impl Store {
    /// Ends a queued job that no provider can ever run.
    pub(crate) async fn reject(&self, id: JobId, reason: &str) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some(mut job) = lock_job(&mut tx, id).await? else { return Ok(()) };
        if job.state == JobState::Queued {
            let end = JobEvent::Finished(FinalState::Failed);
            transition(&mut tx, &mut job, end, reason).await?;
            tx.commit().await?;
            count_finished(&job);
        }
        Ok(())
    }
}

/// Counts a job that got its final state, once that is committed.
pub(crate) fn count_finished(job: &JobRow) {
    metrics::counter!("hodei_jobs_finished_total", "state" => job.state.as_str()).increment(1);
}

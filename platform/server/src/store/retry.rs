//! Running a finished job again because a client asks for it.

use hodei_core::{
    id::JobId,
    job::{JobEvent, JobState},
};

use super::{
    Store, StoreError,
    rows::{JobRow, epoch_column},
    transition::{lock_job, transition},
};

/// What became of a request to run a job again.
#[derive(Debug)]
pub(crate) enum Retried {
    /// It is queued again.
    Queued(JobRow),
    /// The key was used for this job before: it stands as it is.
    Again(JobRow),
    /// In this state a job is not run again.
    Refused(JobState),
    /// There is no such job.
    Unknown,
}

impl Store {
    /// Queues a job again that ended without success. Its next attempt gets the next epoch, so whatever
    /// still arrives from an earlier one is refused as before; its budgets of retries are full again.
    pub(crate) async fn retry_job(
        &self,
        id: JobId,
        key: Option<&str>,
    ) -> Result<Retried, StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some(mut job) = lock_job(&mut tx, id).await? else { return Ok(Retried::Unknown) };
        if let Some(key) = key {
            let known =
                sqlx::query("SELECT 1 FROM job_retries WHERE job_id = $1 AND idempotency_key = $2")
                    .bind(id.as_uuid())
                    .bind(key)
                    .fetch_optional(&mut *tx)
                    .await?;
            if known.is_some() {
                return Ok(Retried::Again(job));
            }
        }
        if job.state.on(JobEvent::Retried).is_err() {
            return Ok(Retried::Refused(job.state));
        }
        if let Some(key) = key {
            sqlx::query(
                "INSERT INTO job_retries (job_id, idempotency_key, after_epoch) VALUES ($1, $2, $3)",
            )
            .bind(id.as_uuid())
            .bind(key)
            .bind(epoch_column(job.epoch))
            .execute(&mut *tx)
            .await?;
        }
        sqlx::query(
            "UPDATE jobs SET outcome = NULL, exit_code = NULL, started_at = NULL,
                infrastructure_failures = 0, command_failures = 0, quota_refusals = 0,
                not_before = now(), queue_deadline = now() + make_interval(secs => $2)
             WHERE id = $1",
        )
        .bind(id.as_uuid())
        .bind(job.spec.timeouts.queue.as_secs_f64())
        .execute(&mut *tx)
        .await?;
        transition(&mut tx, &mut job, JobEvent::Retried, "").await?;
        tx.commit().await?;
        (job.outcome, job.exit_code, job.started_at, job.finished_at) = (None, None, None, None);
        Ok(Retried::Queued(job))
    }
}

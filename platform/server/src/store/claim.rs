//! Claiming queued jobs: with row locks, so that any number of replicas share one queue.

use std::time::Duration;

use hodei_core::{
    attempt::AttemptState,
    id::{AttemptKey, JobId, ProviderId, WorkerId},
    job::{JobEvent, JobState},
    secret::SecretHash,
    worker::WorkerState,
};
use sqlx::Row;

use super::{
    Store, StoreError,
    rows::{JobRow, epoch_column, read_job},
    transition::transition,
};

/// How long a replica may be busy creating a worker before another one may clear up after it.
pub(crate) const CREATE_TIMEOUT: Duration = Duration::from_secs(30);

/// A job that was claimed, its attempt and its worker, all written down.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) job: JobRow,
    pub(crate) key: AttemptKey,
    pub(crate) worker: WorkerId,
    pub(crate) provider: ProviderId,
    /// For how many seconds the job has been refused workers, if it was.
    pub(crate) refused_for: Option<f64>,
}

impl Store {
    /// Jobs that wait and may be claimed: the highest priority first, then the oldest. Nothing is locked.
    pub(crate) async fn due_jobs(&self, limit: u32) -> Result<Vec<JobRow>, StoreError> {
        sqlx::query(
            "SELECT * FROM jobs WHERE state = 'queued' AND not_before <= now()
             ORDER BY priority DESC, submitted_at, id LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(read_job)
        .collect()
    }

    /// Claims a job for a provider: the attempt under the next epoch and its worker are written in the
    /// same transaction. `None` when another replica was faster or the job no longer waits.
    pub(crate) async fn claim(
        &self,
        id: JobId,
        provider: &ProviderId,
        otp: &SecretHash,
    ) -> Result<Option<Claim>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let row = sqlx::query(
            "SELECT *, EXTRACT(EPOCH FROM now() - refused_since)::float8 AS refused_for
             FROM jobs WHERE id = $1 AND state = $2 AND not_before <= now()
             FOR NO KEY UPDATE SKIP LOCKED",
        )
        .bind(id.as_uuid())
        .bind(JobState::Queued.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        // Held until the commit, so that the provider cannot be removed under the new worker.
        let known = sqlx::query("SELECT 1 FROM providers WHERE name = $1 FOR KEY SHARE")
            .bind(provider.as_str())
            .fetch_optional(&mut *tx)
            .await?;
        if known.is_none() {
            return Ok(None);
        }
        let mut job = read_job(&row)?;
        job.epoch = job.epoch.next();
        let key = AttemptKey { job: id, epoch: job.epoch };
        let worker = WorkerId::new();
        // A job that was refused goes on waiting for that until its worker is created.
        let reason = if job.refused_since.is_some() { job.reason.clone() } else { String::new() };
        transition(&mut tx, &mut job, JobEvent::AttemptCreated, &reason).await?;
        let startup = job.spec.timeouts.startup.as_secs_f64();
        sqlx::query(
            "INSERT INTO attempts (job_id, epoch, worker_id, provider, state, startup_deadline)
             VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6))",
        )
        .bind(id.as_uuid())
        .bind(epoch_column(key.epoch))
        .bind(worker.as_uuid())
        .bind(provider.as_str())
        .bind(AttemptState::Provisioning.as_str())
        .bind(startup)
        .execute(&mut *tx)
        .await?;
        // The password ends with the start-up time-out at the latest; its own clock starts later.
        sqlx::query(
            "INSERT INTO workers (id, provider, job_id, epoch, state, otp_hash, otp_expires_at, creating_until)
             VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7),
                     now() + make_interval(secs => $8))",
        )
        .bind(worker.as_uuid())
        .bind(provider.as_str())
        .bind(id.as_uuid())
        .bind(epoch_column(key.epoch))
        .bind(WorkerState::Creating.as_str())
        .bind(otp.as_bytes().as_slice())
        .bind(startup)
        .bind((CREATE_TIMEOUT + Duration::from_secs(5)).as_secs_f64())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        let refused_for = row.try_get("refused_for")?;
        Ok(Some(Claim { job, key, worker, provider: provider.clone(), refused_for }))
    }

    /// How many workers of each provider are not terminated.
    pub(crate) async fn live_workers(&self) -> Result<Vec<(String, i64)>, StoreError> {
        sqlx::query(
            "SELECT provider, count(*) AS live FROM workers WHERE state <> 'terminated' GROUP BY provider",
        )
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(|row| Ok((row.try_get("provider")?, row.try_get("live")?)))
        .collect()
    }
}

//! Claiming queued jobs: with row locks, so that any number of replicas share one queue.

use std::time::Duration;

use hodei_core::{
    attempt::AttemptState,
    id::{AttemptKey, Epoch, JobId, ProviderId, WorkerId},
    job::{JobEvent, JobState},
    secret::SecretHash,
    worker::WorkerState,
};
use sqlx::{PgTransaction, Row};

use super::{
    Store, StoreError,
    pool::count,
    rows::{JobRow, epoch_column, read_job},
    transition::transition,
};
use crate::pool::Pool;

/// How long a replica may be busy creating a worker before another one may clear up after it.
pub(crate) const CREATE_TIMEOUT: Duration = Duration::from_secs(30);

/// To how many nodes a new worker prefers others at most.
const MAX_LOST_ON: i64 = 8;

/// A job that was claimed, its attempt and its worker, all written down.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) job: JobRow,
    pub(crate) key: AttemptKey,
    pub(crate) worker: WorkerId,
    pub(crate) provider: ProviderId,
    /// The pool that the worker stays in when the job has ended.
    pub(crate) pool: Option<Pool>,
    /// Where workers of the job were lost, the latest first.
    pub(crate) lost_on: Vec<String>,
    /// For how many seconds the job has been refused workers, if it was.
    pub(crate) refused_for: Option<f64>,
}

/// How many workers a provider has that are not terminated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) all: i64,
    /// Those of its pool among them.
    pub(crate) pooled: i64,
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
    /// same transaction. `None` when another replica was faster or the job no longer waits, or the `pool`
    /// that the worker is to be of is full.
    pub(crate) async fn claim(
        &self,
        id: JobId,
        provider: &ProviderId,
        otp: &SecretHash,
        pool: Option<Pool>,
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
        if !hold_provider(&mut tx, provider, pool).await? {
            tx.rollback().await?;
            return Ok(None);
        }
        let mut job = read_job(&row)?;
        job.epoch = job.epoch.next();
        let key = AttemptKey { job: id, epoch: job.epoch };
        let worker = WorkerId::new();
        // A job that was refused goes on waiting for that until its worker is created.
        let reason = if job.refused_since.is_some() { job.reason.clone() } else { String::new() };
        transition(&mut tx, &mut job, JobEvent::AttemptCreated, &reason).await?;
        let startup = job.spec.timeouts.startup;
        insert_attempt(&mut tx, key, worker, provider.as_str(), false, startup).await?;
        let pooled = pool.is_some();
        insert_worker(&mut tx, worker, provider, Some(key), pooled, otp, startup).await?;
        let lost_on = if key.epoch == Epoch::FIRST {
            Vec::new()
        } else {
            nodes_of_losses(&mut tx, id, provider).await?
        };
        tx.commit().await?;
        let refused_for = row.try_get("refused_for")?;
        Ok(Some(Claim { job, key, worker, provider: provider.clone(), pool, lost_on, refused_for }))
    }

    /// How many workers of each provider are not terminated, and how many of these are of its pool.
    pub(crate) async fn live_workers(&self) -> Result<Vec<(String, Live)>, StoreError> {
        sqlx::query(
            "SELECT provider, count(*) AS live, count(*) FILTER (WHERE pooled) AS pooled
             FROM workers WHERE state <> 'terminated' GROUP BY provider",
        )
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(|row| {
            let live = Live { all: row.try_get("live")?, pooled: row.try_get("pooled")? };
            Ok((row.try_get("provider")?, live))
        })
        .collect()
    }
}

/// Where the job's workers of this provider were lost, the latest first, each node once.
async fn nodes_of_losses(
    tx: &mut PgTransaction<'_>,
    id: JobId,
    provider: &ProviderId,
) -> Result<Vec<String>, StoreError> {
    let nodes = sqlx::query_scalar(
        "SELECT w.node FROM attempts a JOIN workers w ON w.id = a.worker_id
         WHERE a.job_id = $1 AND a.provider = $2 AND a.failure_cause IS NOT NULL AND w.node IS NOT NULL
         GROUP BY w.node ORDER BY max(a.epoch) DESC LIMIT $3",
    );
    let nodes = nodes.bind(id.as_uuid()).bind(provider.as_str()).bind(MAX_LOST_ON);
    Ok(nodes.fetch_all(&mut **tx).await?)
}

/// Locks a provider until the commit, so that it cannot be removed under the new worker. For a worker of
/// its pool nobody else counts meanwhile. `false` where there is no such provider, or no room in the pool.
async fn hold_provider(
    tx: &mut PgTransaction<'_>,
    provider: &ProviderId,
    pool: Option<Pool>,
) -> Result<bool, StoreError> {
    let known = sqlx::query(match pool {
        None => "SELECT 1 FROM providers WHERE name = $1 FOR KEY SHARE",
        Some(_) => "SELECT 1 FROM providers WHERE name = $1 AND pool IS NOT NULL FOR NO KEY UPDATE",
    });
    let known = known.bind(provider.as_str()).fetch_optional(&mut **tx).await?;
    match (known, pool) {
        (None, _) => Ok(false),
        (Some(_), None) => Ok(true),
        (Some(_), Some(pool)) => Ok(count(tx, provider).await?.1 < i64::from(pool.maximum)),
    }
}

/// Writes an attempt down that a worker is made for or, `warm`, that an idle one was given.
pub(crate) async fn insert_attempt(
    tx: &mut PgTransaction<'_>,
    key: AttemptKey,
    worker: WorkerId,
    provider: &str,
    warm: bool,
    startup: Duration,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO attempts (job_id, epoch, worker_id, provider, state, startup_deadline, warm)
         VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6), $7)",
    )
    .bind(key.job.as_uuid())
    .bind(epoch_column(key.epoch))
    .bind(worker.as_uuid())
    .bind(provider)
    .bind(AttemptState::Provisioning.as_str())
    .bind(startup.as_secs_f64())
    .bind(warm)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Writes a worker down that is about to be created.
pub(crate) async fn insert_worker(
    tx: &mut PgTransaction<'_>,
    worker: WorkerId,
    provider: &ProviderId,
    attempt: Option<AttemptKey>,
    pooled: bool,
    otp: &SecretHash,
    startup: Duration,
) -> Result<(), StoreError> {
    // The password ends with the start-up time-out at the latest; its own clock starts later.
    sqlx::query(
        "INSERT INTO workers (id, provider, job_id, epoch, state, otp_hash, otp_expires_at, creating_until,
            pooled)
         VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7),
                 now() + make_interval(secs => $8), $9)",
    )
    .bind(worker.as_uuid())
    .bind(provider.as_str())
    .bind(attempt.map(|key| key.job.as_uuid()))
    .bind(attempt.map(|key| epoch_column(key.epoch)))
    .bind(WorkerState::Creating.as_str())
    .bind(otp.as_bytes().as_slice())
    .bind(startup.as_secs_f64())
    .bind((CREATE_TIMEOUT + Duration::from_secs(5)).as_secs_f64())
    .bind(pooled)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

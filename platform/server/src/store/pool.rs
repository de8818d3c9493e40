//! Pools: which idle worker gets which job, how many there are, and which have to go.
//!
//! The row of a worker decides between a job and its end: both lock it and look again. The row of a
//! provider is locked before its workers are counted, so that all replicas together keep to its bounds.

use std::time::Duration;

use hodei_core::{
    id::{AttemptKey, JobId, ProviderId, WorkerId},
    job::{JobEvent, JobState},
    secret::SecretHash,
    worker::WorkerState,
};
use jiff::Timestamp;
use sqlx::{PgTransaction, Row, types::Json};
use uuid::Uuid;

use super::{
    Store, StoreError,
    claim::{insert_attempt, insert_worker},
    notify::{Topic, notify},
    rows::{epoch_column, read_job},
    transition::transition,
};
use crate::pool::Pool;

macro_rules! find_idle {
    ($if_locked:literal) => {
        concat!(
            "SELECT w.id, w.provider FROM workers w JOIN providers p ON p.name = w.provider
             WHERE w.provider = ANY($1) AND w.pooled AND w.state = 'ready' AND w.idle_since IS NOT NULL
               AND w.lease_until > now() + make_interval(secs => $2)
               AND w.created_at > now() - make_interval(secs => (p.pool->>'maximum_age_seconds')::float8)
             ORDER BY w.idle_since DESC LIMIT 1 FOR NO KEY UPDATE OF w",
            $if_locked
        )
    };
}

/// A failure longer ago than this does not make the next pause longer, in seconds.
const FORGOTTEN: f64 = 600.0;

/// The idle worker to be taken: one that nobody holds, and else one that somebody does. A heartbeat holds
/// its worker for a moment, and a new worker takes seconds.
const FIND_IDLE: [&str; 2] = [find_idle!(" SKIP LOCKED"), find_idle!("")];

/// What became of a job that an idle worker was looked for.
#[derive(Debug)]
pub(crate) enum Idle {
    Given(WarmClaim),
    /// There is no idle worker.
    None,
    /// The job no longer waits, or another replica was faster.
    NotQueued,
}

/// A job that an idle worker was given.
#[derive(Debug)]
pub(crate) struct WarmClaim {
    pub(crate) submitted_at: Timestamp,
    pub(crate) correlation_id: String,
    pub(crate) key: AttemptKey,
    pub(crate) worker: WorkerId,
    pub(crate) provider: String,
}

/// What keeping a pool within its bounds led to.
#[derive(Debug, Default)]
pub(crate) struct Tended {
    /// Written down, to be created; as many as one-time passwords were used, in their order.
    pub(crate) made: Vec<WorkerId>,
    pub(crate) retired: usize,
    /// How many are missing to the minimum, with those that were written down.
    pub(crate) missing: usize,
}

/// Workers of one pool, by what they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolCount {
    pub(crate) provider: String,
    pub(crate) starting: i64,
    pub(crate) idle: i64,
    pub(crate) busy: i64,
}

impl Store {
    /// Gives a queued job to an idle worker of one of these providers, to the one that was busy last, so
    /// that those which are too many stay idle. `heard`: how long the worker's lease must still run.
    pub(crate) async fn claim_idle(
        &self,
        id: JobId,
        providers: &[&str],
        heard: Duration,
    ) -> Result<Idle, StoreError> {
        let mut tx = self.pool.begin().await?;
        let row = sqlx::query(
            "SELECT * FROM jobs WHERE id = $1 AND state = $2 AND not_before <= now()
             FOR NO KEY UPDATE SKIP LOCKED",
        )
        .bind(id.as_uuid())
        .bind(JobState::Queued.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(Idle::NotQueued) };
        let mut idle = None;
        for find in FIND_IDLE {
            let found = sqlx::query(find).bind(providers).bind(heard.as_secs_f64());
            idle = found.fetch_optional(&mut *tx).await?;
            if idle.is_some() {
                break;
            }
        }
        let Some(idle) = idle else {
            // Not left to the drop, which only asks for it: who claims the job next would find it locked.
            tx.rollback().await?;
            return Ok(Idle::None);
        };
        let worker = WorkerId::from(idle.try_get::<Uuid, _>("id")?);
        let provider: String = idle.try_get("provider")?;
        let mut job = read_job(&row)?;
        job.epoch = job.epoch.next();
        let key = AttemptKey { job: id, epoch: job.epoch };
        transition(&mut tx, &mut job, JobEvent::AttemptCreated, "").await?;
        insert_attempt(&mut tx, key, worker, &provider, true, job.spec.timeouts.startup).await?;
        sqlx::query(
            "UPDATE workers SET job_id = $2, epoch = $3, state = $4, idle_since = NULL WHERE id = $1",
        )
        .bind(worker.as_uuid())
        .bind(id.as_uuid())
        .bind(epoch_column(key.epoch))
        .bind(WorkerState::Busy.as_str())
        .execute(&mut *tx)
        .await?;
        if job.refused_since.is_some() {
            sqlx::query("UPDATE jobs SET refused_since = NULL WHERE id = $1")
                .bind(id.as_uuid())
                .execute(&mut *tx)
                .await?;
        }
        notify(&mut *tx, Topic::Worker(worker)).await?;
        tx.commit().await?;
        let (submitted_at, correlation_id) = (job.submitted_at, job.correlation_id);
        Ok(Idle::Given(WarmClaim { submitted_at, correlation_id, key, worker, provider }))
    }

    /// Keeps a provider's pool within its bounds: retires idle workers that are too old or too many, and
    /// writes new ones down below the minimum, at most one for each password. Another replica that is
    /// at it leaves nothing to do.
    pub(crate) async fn tend_pool(
        &self,
        provider: &ProviderId,
        otps: &[SecretHash],
        startup: Duration,
    ) -> Result<Tended, StoreError> {
        let mut tx = self.pool.begin().await?;
        let row = sqlx::query(
            "SELECT pool, COALESCE(pool_failed_at
                + make_interval(secs => LEAST(60, power(2, LEAST(pool_failures, 7) - 1))) > now(), false)
                AS pausing
             FROM providers WHERE name = $1 AND pool IS NOT NULL FOR NO KEY UPDATE SKIP LOCKED",
        )
        .bind(provider.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(Tended::default()) };
        let pool = row.try_get::<Json<Pool>, _>("pool")?.0;
        let none = Duration::ZERO;
        let aged =
            retire(&mut tx, provider, (none, pool.maximum_age()), i64::MAX, "too old").await?;
        let (minimum, maximum) = (i64::from(pool.minimum), i64::from(pool.maximum));
        let (mut alive, total) = count(&mut tx, provider).await?;
        let mut retired = aged;
        for (idle, keep, reason) in [
            (none, maximum, "more than its pool may have"),
            (pool.idle(), minimum, "idle for longer than its pool keeps it"),
        ] {
            let gone =
                retire(&mut tx, provider, (idle, none), (alive - keep).max(0), reason).await?;
            alive -= i64::try_from(gone).unwrap_or(0);
            retired += gone;
        }
        let missing = usize::try_from((minimum - alive).min(maximum - total)).unwrap_or(0);
        let now = if row.try_get("pausing")? { 0 } else { missing };
        let mut made = Vec::new();
        for otp in otps.iter().take(now) {
            let worker = WorkerId::new();
            insert_worker(&mut tx, worker, provider, None, true, otp, startup).await?;
            made.push(worker);
        }
        tx.commit().await?;
        Ok(Tended { made, retired, missing })
    }

    /// Sets a provider's pool, or removes it with its idle workers; a busy one goes when its job has
    /// ended. `false` without such a provider.
    pub(crate) async fn set_pool(
        &self,
        provider: &ProviderId,
        pool: Option<Pool>,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let known = write_pool(&mut tx, provider, pool).await?;
        if pool.is_none() {
            retire_all(&mut tx, provider).await?;
        }
        tx.commit().await?;
        Ok(known)
    }

    /// A worker of the pool failed that had no job: the next one is made after a growing pause.
    pub(crate) async fn pool_failed(&self, provider: &str) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE providers SET pool_failed_at = now(), pool_failures =
                CASE WHEN pool_failed_at > now() - make_interval(secs => $2) THEN pool_failures + 1 ELSE 1 END
             WHERE name = $1 AND pool IS NOT NULL",
        )
        .bind(provider)
        .bind(FORGOTTEN)
        .execute(&self.pool)
        .await?;
        metrics::counter!("hodei_pool_failures_total", "provider" => provider.to_owned())
            .increment(1);
        Ok(())
    }

    /// Dooms pooled workers without a job that will get none: nothing is heard of them, they did not
    /// register in time, or they have no pool any more. Returns each with its provider and why.
    pub(crate) async fn doom_useless(
        &self,
        startup: Duration,
    ) -> Result<Vec<(WorkerId, String, String)>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let rows = sqlx::query(
            "UPDATE workers w SET state = 'terminating', destroy_after = now(), terminating_at = now(), idle_since = NULL,
                reason = found.why
             FROM (SELECT id, CASE WHEN NOT EXISTS (SELECT 1 FROM providers p
                        WHERE p.name = provider AND p.pool IS NOT NULL) THEN 'its pool was removed'
                    WHEN state <> 'ready' AND created_at <= now() - make_interval(secs => $1)
                        THEN 'it did not register in time'
                    WHEN state = 'ready' AND lease_until <= now() THEN 'nothing was heard of it'
                    END AS why
                FROM workers WHERE pooled AND ((state = 'ready' AND idle_since IS NOT NULL)
                    OR (state IN ('creating', 'connecting') AND job_id IS NULL))
                FOR UPDATE SKIP LOCKED) AS found
             WHERE w.id = found.id AND found.why IS NOT NULL RETURNING w.id, w.provider, w.reason",
        )
        .bind(startup.as_secs_f64())
        .fetch_all(&mut *tx)
        .await?;
        let mut doomed = Vec::new();
        for row in &rows {
            let worker = WorkerId::from(row.try_get::<Uuid, _>("id")?);
            notify(&mut *tx, Topic::Worker(worker)).await?;
            doomed.push((worker, row.try_get("provider")?, row.try_get("reason")?));
        }
        if !doomed.is_empty() {
            notify(&mut *tx, Topic::Doomed).await?;
        }
        tx.commit().await?;
        Ok(doomed)
    }

    /// How many workers of each pool do what; those that leave aside.
    pub(crate) async fn pool_counts(&self) -> Result<Vec<PoolCount>, StoreError> {
        let rows = sqlx::query(
            "SELECT provider, count(*) FILTER (WHERE state IN ('creating', 'connecting')) AS starting,
                count(*) FILTER (WHERE idle_since IS NOT NULL) AS idle,
                count(*) FILTER (WHERE state IN ('ready', 'busy', 'draining') AND idle_since IS NULL) AS busy
             FROM workers WHERE pooled AND state <> 'terminated' GROUP BY provider",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(PoolCount {
                    provider: row.try_get("provider")?,
                    starting: row.try_get("starting")?,
                    idle: row.try_get("idle")?,
                    busy: row.try_get("busy")?,
                })
            })
            .collect()
    }
}

/// Pooled workers of a locked provider: those that stay, and all that are not terminated.
pub(crate) async fn count(
    tx: &mut PgTransaction<'_>,
    provider: &ProviderId,
) -> Result<(i64, i64), StoreError> {
    let row = sqlx::query(
        "SELECT count(*) FILTER (WHERE state NOT IN ('draining', 'terminating')) AS alive, count(*) AS total
         FROM workers WHERE provider = $1 AND pooled AND state <> 'terminated'",
    )
    .bind(provider.as_str())
    .fetch_one(&mut **tx)
    .await?;
    Ok((row.try_get("alive")?, row.try_get("total")?))
}

/// Dooms at most `most` workers that have been idle for so long and are so old; those idle for longest
/// first. One that is being given a job is passed over.
async fn retire(
    tx: &mut PgTransaction<'_>,
    provider: &ProviderId,
    (idle, age): (Duration, Duration),
    most: i64,
    reason: &str,
) -> Result<usize, StoreError> {
    let rows = sqlx::query(
        "UPDATE workers SET state = 'terminating', destroy_after = now(), terminating_at = now(), idle_since = NULL,
            reason = $5
         WHERE id IN (SELECT id FROM workers WHERE provider = $1 AND pooled AND state = 'ready'
                AND idle_since <= now() - make_interval(secs => $2)
                AND created_at <= now() - make_interval(secs => $3)
            ORDER BY idle_since LIMIT $4 FOR UPDATE SKIP LOCKED)
         RETURNING id",
    )
    .bind(provider.as_str())
    .bind(idle.as_secs_f64())
    .bind(age.as_secs_f64())
    .bind(most)
    .bind(reason)
    .fetch_all(&mut **tx)
    .await?;
    tell(tx, &rows).await
}

async fn write_pool(
    tx: &mut PgTransaction<'_>,
    provider: &ProviderId,
    pool: Option<Pool>,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE providers SET pool = $2, pool_failures = 0, pool_failed_at = NULL WHERE name = $1",
    )
    .bind(provider.as_str())
    .bind(pool.map(Json))
    .execute(&mut **tx)
    .await?;
    notify(&mut **tx, Topic::Providers).await?;
    notify(&mut **tx, Topic::Queue).await?;
    Ok(done.rows_affected() == 1)
}

/// Removes the pool of a locked provider, with every worker of it that has no job.
pub(super) async fn close_pool(
    tx: &mut PgTransaction<'_>,
    provider: &ProviderId,
) -> Result<(), StoreError> {
    write_pool(tx, provider, None).await?;
    retire_all(tx, provider).await.map(drop)
}

/// Dooms every worker of a provider's pool that has no job.
async fn retire_all(
    tx: &mut PgTransaction<'_>,
    provider: &ProviderId,
) -> Result<usize, StoreError> {
    let rows = sqlx::query(
        "UPDATE workers SET state = 'terminating', destroy_after = now(), terminating_at = now(), idle_since = NULL,
            reason = 'its pool was removed'
         WHERE id IN (SELECT id FROM workers WHERE provider = $1 AND pooled
                AND ((state = 'ready' AND idle_since IS NOT NULL)
                    OR (state IN ('creating', 'connecting') AND job_id IS NULL))
            ORDER BY id FOR UPDATE)
         RETURNING id",
    )
    .bind(provider.as_str())
    .fetch_all(&mut **tx)
    .await?;
    tell(tx, &rows).await
}

async fn tell(
    tx: &mut PgTransaction<'_>,
    doomed: &[sqlx::postgres::PgRow],
) -> Result<usize, StoreError> {
    for row in doomed {
        notify(&mut **tx, Topic::Worker(row.try_get::<Uuid, _>("id")?.into())).await?;
    }
    if !doomed.is_empty() {
        notify(&mut **tx, Topic::Doomed).await?;
    }
    Ok(doomed.len())
}

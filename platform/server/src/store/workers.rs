//! Workers as the control plane keeps them: created, seen by the provider, doomed, terminated.

use std::time::Duration;

use hodei_core::{
    id::{AttemptKey, ProviderId, WorkerId},
    provider::WorkerHandle,
    worker::WorkerState,
};
use sqlx::{PgTransaction, Row};
use uuid::Uuid;

use super::{
    Store, StoreError,
    notify::{Topic, notify},
    rows::{WorkerRow, epoch_column, read_worker},
};

/// A claimed destruction that is not renewed is taken up again after this long, by whichever replica.
const DESTROY_CLAIM: Duration = Duration::from_secs(30);

/// The states from which a worker may go to `next`, by the machine of hodei-core.
pub(crate) fn states_before(next: WorkerState) -> Vec<&'static str> {
    let allowed = WorkerState::ALL.into_iter().filter(|state| state.can_become(next));
    allowed.map(WorkerState::as_str).collect()
}

/// A worker is to be destroyed; the reaper of some replica will. Repeated, it changes nothing.
pub(crate) async fn doom(
    tx: &mut PgTransaction<'_>,
    worker: WorkerId,
    reason: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE workers SET state = $2, destroy_after = now(), terminating_at = now(), reason = $4, idle_since = NULL
         WHERE id = $1 AND state = ANY($3)",
    )
    .bind(worker.as_uuid())
    .bind(WorkerState::Terminating.as_str())
    .bind(states_before(WorkerState::Terminating))
    .bind(reason)
    .execute(&mut **tx)
    .await?;
    notify(&mut **tx, Topic::Worker(worker)).await?;
    notify(&mut **tx, Topic::Doomed).await
}

/// Locks a worker unless it has got another attempt than `attempt`, which is locked where it is open.
pub(crate) async fn hold_latest(
    tx: &mut PgTransaction<'_>,
    worker: WorkerId,
    attempt: Option<AttemptKey>,
) -> Result<bool, StoreError> {
    let row = sqlx::query(
        "SELECT (job_id, epoch) IS NOT DISTINCT FROM ($2, $3) AS latest FROM workers WHERE id = $1
         FOR NO KEY UPDATE",
    )
    .bind(worker.as_uuid())
    .bind(attempt.map(|key| key.job.as_uuid()))
    .bind(attempt.map(|key| epoch_column(key.epoch)))
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|row| row.try_get("latest")).transpose()?.unwrap_or(false))
}

/// The attempt of a worker is over. One of a pool is idle then, unless it was to go after this one; any
/// other is to be destroyed. `finished`: the attempt had a result.
pub(crate) async fn release(
    tx: &mut PgTransaction<'_>,
    worker: WorkerId,
    finished: bool,
    reason: &str,
) -> Result<(), StoreError> {
    let row = sqlx::query(
        "UPDATE workers SET state = CASE WHEN pooled AND state = 'busy' THEN 'ready' ELSE 'terminating' END,
            idle_since = CASE WHEN pooled AND state = 'busy' THEN now() END,
            destroy_after = CASE WHEN pooled AND state = 'busy' THEN NULL ELSE now() END,
            terminating_at = CASE WHEN pooled AND state = 'busy' THEN NULL ELSE now() END,
            reason = CASE WHEN pooled AND state = 'busy' THEN '' ELSE $4 END,
            jobs_done = jobs_done + $3
         WHERE id = $1 AND state = ANY($2) RETURNING idle_since IS NOT NULL AS idle",
    )
    .bind(worker.as_uuid())
    .bind(states_before(WorkerState::Terminating))
    .bind(i32::from(finished))
    .bind(reason)
    .fetch_optional(&mut **tx)
    .await?;
    let idle = row.map(|row| row.try_get::<bool, _>("idle")).transpose()?;
    notify(&mut **tx, Topic::Worker(worker)).await?;
    notify(&mut **tx, if idle == Some(true) { Topic::Queue } else { Topic::Doomed }).await
}

impl Store {
    /// One worker.
    pub(crate) async fn worker(&self, id: WorkerId) -> Result<Option<WorkerRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM workers WHERE id = $1")
            .bind(id.as_uuid())
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(read_worker).transpose()
    }

    /// Workers older than `before`, newest first: those that are not terminated, or all.
    pub(crate) async fn list_workers(
        &self,
        all: bool,
        before: Option<WorkerId>,
        limit: u32,
    ) -> Result<Vec<WorkerRow>, StoreError> {
        sqlx::query(
            "SELECT * FROM workers WHERE ($1 OR state <> 'terminated') AND ($2 IS NULL OR id < $2)
             ORDER BY id DESC LIMIT $3",
        )
        .bind(all)
        .bind(before.map(|id| id.as_uuid()))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(read_worker)
        .collect()
    }

    /// A provider's workers that are not terminated and were made at least `age` ago.
    pub(crate) async fn provider_workers(
        &self,
        provider: &ProviderId,
        age: Duration,
    ) -> Result<Vec<WorkerRow>, StoreError> {
        sqlx::query(
            "SELECT * FROM workers WHERE provider = $1 AND state <> 'terminated'
               AND created_at <= now() - make_interval(secs => $2)",
        )
        .bind(provider.as_str())
        .bind(age.as_secs_f64())
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(read_worker)
        .collect()
    }

    /// What the provider calls a worker. Returns its state: it may be doomed meanwhile.
    pub(crate) async fn store_handle(
        &self,
        handle: &WorkerHandle,
    ) -> Result<Option<WorkerState>, StoreError> {
        let row = sqlx::query(
            "UPDATE workers SET resource = $2, resource_uid = $3, creating_until = NULL
             WHERE id = $1 RETURNING state",
        )
        .bind(handle.worker.as_uuid())
        .bind(&handle.resource)
        .bind(&handle.uid)
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| super::rows::read_state(&row, "state", "worker state")).transpose()
    }

    /// Nobody is creating this worker any more.
    pub(crate) async fn creation_over(&self, worker: WorkerId) -> Result<(), StoreError> {
        sqlx::query("UPDATE workers SET creating_until = NULL WHERE id = $1")
            .bind(worker.as_uuid())
            .execute(&self.pool)
            .await?;
        notify(&self.pool, Topic::Doomed).await
    }

    /// The worker is on a node: the clock of its one-time password starts. `running`: its container
    /// runs. Each is written once.
    pub(crate) async fn worker_scheduled(
        &self,
        worker: WorkerId,
        node: Option<&str>,
        running: bool,
        otp_ttl: Duration,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE workers SET scheduled_at = COALESCE(scheduled_at, now()), node = COALESCE(node, $4),
                otp_expires_at = CASE WHEN scheduled_at IS NULL
                    THEN LEAST(otp_expires_at, now() + make_interval(secs => $2))
                    ELSE otp_expires_at END,
                running_at = CASE WHEN $3 THEN COALESCE(running_at, now()) ELSE running_at END
             WHERE id = $1 AND (scheduled_at IS NULL OR ($3 AND running_at IS NULL))",
        )
        .bind(worker.as_uuid())
        .bind(otp_ttl.as_secs_f64())
        .bind(running)
        .bind(node)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Takes a worker to a state, if the machine allows it.
    pub(crate) async fn advance_worker(
        &self,
        worker: WorkerId,
        next: WorkerState,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query("UPDATE workers SET state = $2 WHERE id = $1 AND state = ANY($3)")
            .bind(worker.as_uuid())
            .bind(next.as_str())
            .bind(states_before(next))
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Dooms a worker that has no open attempt to end with it.
    pub(crate) async fn doom_worker(
        &self,
        worker: WorkerId,
        reason: &str,
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        doom(&mut tx, worker, reason).await?;
        Ok(tx.commit().await?)
    }

    /// Dooms a worker whose latest attempt is still this one; `false` where it has another by now.
    pub(crate) async fn doom_if_latest(
        &self,
        worker: WorkerId,
        attempt: Option<AttemptKey>,
        reason: &str,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        if !hold_latest(&mut tx, worker, attempt).await? {
            return Ok(false);
        }
        doom(&mut tx, worker, reason).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Claims workers to destroy. Each is left alone by the other replicas for a while.
    pub(crate) async fn claim_doomed(&self, limit: u32) -> Result<Vec<WorkerRow>, StoreError> {
        sqlx::query(
            "UPDATE workers SET destroy_after = now() + make_interval(secs => $2) WHERE id IN (
                SELECT id FROM workers
                WHERE state = 'terminating' AND destroy_after <= now()
                  AND (creating_until IS NULL OR creating_until <= now())
                ORDER BY destroy_after LIMIT $1 FOR UPDATE SKIP LOCKED)
             RETURNING *",
        )
        .bind(i64::from(limit))
        .bind(DESTROY_CLAIM.as_secs_f64())
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(read_worker)
        .collect()
    }

    /// Whoever destroys the worker is still at it.
    pub(crate) async fn renew_destruction(&self, worker: WorkerId) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE workers SET destroy_after = now() + make_interval(secs => $2)
             WHERE id = $1 AND state = $3",
        )
        .bind(worker.as_uuid())
        .bind(DESTROY_CLAIM.as_secs_f64())
        .bind(WorkerState::Terminating.as_str())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Puts the destruction of a worker off until its attempt has been over for `period`; `false` where
    /// that is so already, the attempt had no result, or the worker was one of a pool.
    pub(crate) async fn keep_finished(
        &self,
        worker: WorkerId,
        period: Duration,
    ) -> Result<bool, StoreError> {
        let kept = sqlx::query(
            "UPDATE workers w SET destroy_after = a.finished_at + make_interval(secs => $2)
             FROM attempts a WHERE w.id = $1 AND NOT w.pooled AND a.worker_id = w.id AND a.state = 'finished'
               AND a.finished_at + make_interval(secs => $2) > now()",
        )
        .bind(worker.as_uuid())
        .bind(period.as_secs_f64())
        .execute(&self.pool)
        .await?;
        Ok(kept.rows_affected() > 0)
    }

    /// The provider confirmed that nothing is left. The queue is woken: there is room again.
    pub(crate) async fn worker_terminated(&self, worker: WorkerId) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query(
            "UPDATE workers SET state = $2, terminated_at = now(), session_hash = NULL
             WHERE id = $1 AND state = ANY($3)",
        )
        .bind(worker.as_uuid())
        .bind(WorkerState::Terminated.as_str())
        .bind(states_before(WorkerState::Terminated))
        .execute(&mut *tx)
        .await?;
        notify(&mut *tx, Topic::Worker(worker)).await?;
        notify(&mut *tx, Topic::Queue).await?;
        Ok(tx.commit().await?)
    }

    /// Destroying failed. Returns how often it has by now; the next try is after a growing pause.
    pub(crate) async fn destroy_failed(&self, worker: WorkerId) -> Result<i32, StoreError> {
        let row = sqlx::query(
            "UPDATE workers SET destroy_failures = destroy_failures + 1,
                destroy_after = now() + make_interval(secs => LEAST(60, power(2, LEAST(destroy_failures, 6))))
             WHERE id = $1 RETURNING destroy_failures",
        )
        .bind(worker.as_uuid())
        .fetch_one(&self.pool)
        .await?;
        Ok(row.try_get("destroy_failures")?)
    }

    /// Registered workers whose password may still lie in the cluster.
    pub(crate) async fn undiscarded_otps(
        &self,
        provider: &ProviderId,
    ) -> Result<Vec<WorkerId>, StoreError> {
        let rows = sqlx::query(
            "SELECT id FROM workers WHERE provider = $1 AND otp_used_at IS NOT NULL
               AND otp_discarded_at IS NULL AND state NOT IN ('terminating', 'terminated') LIMIT 100",
        )
        .bind(provider.as_str())
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok(row.try_get::<Uuid, _>("id")?.into())).collect()
    }

    /// The password is gone from the cluster.
    pub(crate) async fn otp_discarded(&self, worker: WorkerId) -> Result<(), StoreError> {
        sqlx::query("UPDATE workers SET otp_discarded_at = now() WHERE id = $1")
            .bind(worker.as_uuid())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// How many workers there are in each state, the terminated aside.
    pub(crate) async fn workers_by_state(&self) -> Result<Vec<(String, i64)>, StoreError> {
        sqlx::query(
            "SELECT state, count(*) AS n FROM workers WHERE state <> 'terminated' GROUP BY state",
        )
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(|row| Ok((row.try_get("state")?, row.try_get("n")?)))
        .collect()
    }
}

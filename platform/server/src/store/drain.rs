//! Draining a worker: it finishes what it has, takes no more, and leaves.

use hodei_core::{
    attempt::AttemptState,
    id::WorkerId,
    job::{JobEvent, JobState},
    worker::WorkerState,
};
use sqlx::PgTransaction;

use super::{
    Store, StoreError,
    attempts::lock_attempt,
    notify::{Topic, notify},
    rows::{JobRow, WorkerRow, epoch_column},
    transition::{lock_job, transition},
    workers::{doom, hold_latest, states_before},
};

/// How often a worker may get another job while it is being drained.
const TRIES: usize = 8;
const REASON: &str = "its worker was drained before the job was given to it";

impl Store {
    /// Drains a worker; `None` if there is none. One that leaves already stays as it is.
    ///
    /// A worker that holds an attempt keeps it to the end. An idle one has nothing to finish and goes at
    /// once; so does one that was not given its job yet, and the job is queued again at no cost to its retries.
    pub(crate) async fn drain_worker(&self, id: WorkerId) -> Result<Option<WorkerRow>, StoreError> {
        for _ in 0..TRIES {
            let Some(worker) = self.worker(id).await? else { return Ok(None) };
            if self.try_drain(&worker).await? {
                break;
            }
        }
        self.worker(id).await
    }

    /// `false` when the worker was given another attempt meanwhile.
    async fn try_drain(&self, worker: &WorkerRow) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let (job, attempt) = match worker.attempt {
            Some(key) => (lock_job(&mut tx, key.job).await?, lock_attempt(&mut tx, key).await?),
            None => (None, None),
        };
        if !hold_latest(&mut tx, worker.id, worker.attempt).await? {
            return Ok(false);
        }
        match (job, attempt.map(|attempt| attempt.state)) {
            (Some(mut job), Some(AttemptState::Provisioning)) => {
                give_back(&mut tx, &mut job, REASON).await?;
                doom(&mut tx, worker.id, "drained").await?;
            }
            (_, state) if worker.pooled && state.is_none_or(AttemptState::is_final) => {
                doom(&mut tx, worker.id, "drained").await?;
            }
            _ => {
                sqlx::query(
                    "UPDATE workers SET state = $2, reason = 'drained' WHERE id = $1 AND state = ANY($3)",
                )
                .bind(worker.id.as_uuid())
                .bind(WorkerState::Draining.as_str())
                .bind(states_before(WorkerState::Draining))
                .execute(&mut *tx)
                .await?;
                notify(&mut *tx, Topic::Worker(worker.id)).await?;
            }
        }
        tx.commit().await?;
        Ok(true)
    }
}

/// Ends the latest attempt of a locked job, which nobody has begun, and queues the job again.
pub(super) async fn give_back(
    tx: &mut PgTransaction<'_>,
    job: &mut JobRow,
    reason: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE attempts SET state = $3, reason = $4, finished_at = now()
         WHERE job_id = $1 AND epoch = $2",
    )
    .bind(job.id.as_uuid())
    .bind(epoch_column(job.epoch))
    .bind(AttemptState::Lost.as_str())
    .bind(reason)
    .execute(&mut **tx)
    .await?;
    if job.state != JobState::Starting {
        return Ok(());
    }
    sqlx::query(
        "UPDATE jobs SET not_before = now(), queue_deadline = now() + make_interval(secs => $2)
         WHERE id = $1",
    )
    .bind(job.id.as_uuid())
    .bind(job.spec.timeouts.queue.as_secs_f64())
    .execute(&mut **tx)
    .await?;
    transition(tx, job, JobEvent::Requeued, reason).await
}

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
    workers::{doom, states_before},
};

const REASON: &str = "its worker was drained before the job was given to it";

impl Store {
    /// Drains a worker; `None` if there is none. One that leaves already stays as it is.
    ///
    /// A worker that holds an attempt keeps it to the end. One that was not given its job yet has
    /// nothing to finish: it goes at once, and the job is queued again at no cost to its retries.
    pub(crate) async fn drain_worker(&self, id: WorkerId) -> Result<Option<WorkerRow>, StoreError> {
        let Some(worker) = self.worker(id).await? else { return Ok(None) };
        let mut tx = self.pool.begin().await?;
        let job = lock_job(&mut tx, worker.attempt.job).await?;
        let attempt = lock_attempt(&mut tx, worker.attempt).await?;
        let idle = attempt.is_some_and(|attempt| attempt.state == AttemptState::Provisioning);
        match job {
            Some(mut job) if idle => {
                give_back(&mut tx, &mut job).await?;
                doom(&mut tx, id, "drained").await?;
            }
            _ => {
                sqlx::query(
                    "UPDATE workers SET state = $2, reason = 'drained' WHERE id = $1 AND state = ANY($3)",
                )
                .bind(id.as_uuid())
                .bind(WorkerState::Draining.as_str())
                .bind(states_before(WorkerState::Draining))
                .execute(&mut *tx)
                .await?;
                notify(&mut *tx, Topic::Worker(id)).await?;
            }
        }
        tx.commit().await?;
        self.worker(id).await
    }
}

/// Ends the latest attempt of a locked job, which nobody has begun, and queues the job again.
async fn give_back(tx: &mut PgTransaction<'_>, job: &mut JobRow) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE attempts SET state = $3, reason = $4, finished_at = now()
         WHERE job_id = $1 AND epoch = $2",
    )
    .bind(job.id.as_uuid())
    .bind(epoch_column(job.epoch))
    .bind(AttemptState::Lost.as_str())
    .bind(REASON)
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
    transition(tx, job, JobEvent::Requeued, REASON).await
}

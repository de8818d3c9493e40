//! What has run out of time, by PostgreSQL's clock. Finding is one query; acting on each row is its own
//! transaction, which looks again under lock, so that replicas may do the same work side by side.

use std::time::Duration;

use hodei_core::{
    id::{AttemptKey, JobId, WorkerId},
    job::{FinalState, JobEvent, JobState},
};
use sqlx::Row;
use uuid::Uuid;

use super::{
    Store, StoreError,
    attempts::lock_attempt,
    jobs::{count_finished, stop_attempt},
    rows::read_key,
    transition::{lock_job, transition},
};
use crate::policy::Stop;

/// Which time of an attempt ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// It did not start in time.
    Startup,
    /// It runs longer than it may.
    Run,
    /// It was told to stop and no result came.
    Stop,
    /// Nothing was heard of its worker.
    Lease,
}

impl Store {
    /// Ends jobs that waited too long. Returns how many.
    pub(crate) async fn expire_queue(&self) -> Result<usize, StoreError> {
        let rows = sqlx::query(
            "SELECT id FROM jobs WHERE state = 'queued' AND queue_deadline <= now() LIMIT 100",
        )
        .fetch_all(&self.pool)
        .await?;
        let mut ended = 0;
        for row in &rows {
            let id = JobId::from(row.try_get::<Uuid, _>("id")?);
            let mut tx = self.pool.begin().await?;
            let Some(mut job) = lock_job(&mut tx, id).await? else { continue };
            if job.state != JobState::Queued {
                continue;
            }
            let last = match job.reason.as_str() {
                "" => String::new(),
                reason => format!("; last: {reason}"),
            };
            let reason =
                format!("waited in the queue for more than {:?}{last}", job.spec.timeouts.queue);
            transition(&mut tx, &mut job, JobEvent::Finished(FinalState::TimedOut), &reason)
                .await?;
            tx.commit().await?;
            count_finished(&job);
            ended += 1;
        }
        Ok(ended)
    }

    /// Open attempts that ran out of time, and how.
    pub(crate) async fn overdue(&self) -> Result<Vec<(AttemptKey, WorkerId, Overdue)>, StoreError> {
        let rows = sqlx::query(
            "SELECT a.job_id, a.epoch, a.worker_id, CASE
                WHEN a.stop_deadline <= now() THEN 'stop'
                WHEN w.registered_at IS NOT NULL AND w.lease_until <= now() THEN 'lease'
                WHEN a.state = 'running' THEN 'run' ELSE 'startup' END AS overdue
             FROM attempts a JOIN workers w ON w.id = a.worker_id
             WHERE a.state NOT IN ('finished', 'lost') AND (a.stop_deadline <= now()
               OR (w.registered_at IS NOT NULL AND w.lease_until <= now())
               OR (a.state = 'running' AND a.run_deadline <= now() AND a.stop IS NULL)
               OR (a.state IN ('provisioning', 'assigned') AND a.startup_deadline <= now()))
             LIMIT 500",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                let overdue = match row.try_get::<&str, _>("overdue")? {
                    "stop" => Overdue::Stop,
                    "lease" => Overdue::Lease,
                    "run" => Overdue::Run,
                    _ => Overdue::Startup,
                };
                Ok((read_key(row)?, row.try_get::<Uuid, _>("worker_id")?.into(), overdue))
            })
            .collect()
    }

    /// Tells an attempt to stop because its time is over.
    pub(crate) async fn time_out(
        &self,
        key: AttemptKey,
        grace: Duration,
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some(job) = lock_job(&mut tx, key.job).await? else { return Ok(()) };
        let attempt = lock_attempt(&mut tx, key).await?;
        if job.state.is_final() || attempt.is_none_or(|attempt| attempt.state.is_final()) {
            return Ok(());
        }
        stop_attempt(&mut tx, key.job, key.epoch, Stop::TimedOut, grace).await?;
        Ok(tx.commit().await?)
    }

    /// Gives every lease another full term: after this server was away, nobody could be heard.
    pub(crate) async fn extend_leases(&self, lease: Duration) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "UPDATE workers SET lease_until = now() + make_interval(secs => $1)
             WHERE registered_at IS NOT NULL AND state NOT IN ('terminating', 'terminated')
               AND lease_until < now() + make_interval(secs => $1)",
        )
        .bind(lease.as_secs_f64())
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }

    /// Workers whose attempt is over and that are of no pool, or were told to go: nothing is left to end
    /// but them.
    pub(crate) async fn stale_workers(&self) -> Result<Vec<WorkerId>, StoreError> {
        let rows = sqlx::query(
            "SELECT w.id FROM workers w JOIN attempts a ON a.job_id = w.job_id AND a.epoch = w.epoch
             WHERE w.state NOT IN ('terminating', 'terminated') AND a.state IN ('finished', 'lost')
               AND (NOT w.pooled OR w.state = 'draining')
             LIMIT 100",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok(row.try_get::<Uuid, _>("id")?.into())).collect()
    }
}

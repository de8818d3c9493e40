//! What is not kept for ever: output of ended jobs, then the jobs themselves. A log is marked as removed
//! first, so that nobody reads half of it; its segments' rows stay until their objects are gone.

use std::time::Duration;

use hodei_core::id::AttemptKey;
use sqlx::Row;

use super::{Store, StoreError, logs::column, rows::epoch_column};

/// An object that is recorded as a segment.
#[derive(Debug)]
pub(crate) struct SegmentObject {
    pub(crate) store: String,
    pub(crate) name: String,
}

/// Segments that are to go.
#[derive(Debug, Default)]
pub(crate) struct Doomed {
    /// Their first sequence numbers.
    pub(crate) firsts: Vec<i64>,
    /// The objects among them.
    pub(crate) objects: Vec<SegmentObject>,
}

impl Store {
    /// Marks the output of attempts as removed whose jobs ended longer than `period` ago. Returns how
    /// many there were, `limit` at most.
    pub(crate) async fn expire_logs(
        &self,
        period: Duration,
        limit: i64,
    ) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "UPDATE attempts SET log_state = 'removing', log_removed_at = now(), log_work_after = now(),
                log_work_failures = 0
             WHERE (job_id, epoch) IN (
                SELECT a.job_id, a.epoch FROM attempts a JOIN jobs j ON j.id = a.job_id
                WHERE a.log_state IN ('chunked', 'archived') AND a.state IN ('finished', 'lost')
                  AND a.finished_at < now() - make_interval(secs => $1)
                  AND j.finished_at < now() - make_interval(secs => $1)
                  AND a.log_work_after <= now()
                ORDER BY a.finished_at LIMIT $2 FOR NO KEY UPDATE OF a SKIP LOCKED)",
        )
        .bind(period.as_secs_f64())
        .bind(limit)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }

    /// Some segments of an attempt, oldest first.
    pub(crate) async fn some_segments(
        &self,
        key: AttemptKey,
        limit: i64,
    ) -> Result<Doomed, StoreError> {
        let rows = sqlx::query(
            "SELECT first_sequence, store, object FROM log_segments WHERE job_id = $1 AND epoch = $2
             ORDER BY first_sequence LIMIT $3",
        )
        .bind(key.job.as_uuid())
        .bind(epoch_column(key.epoch))
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        let mut doomed = Doomed::default();
        for row in &rows {
            doomed.firsts.push(row.try_get("first_sequence")?);
            if let (Some(store), Some(name)) = (row.try_get("store")?, row.try_get("object")?) {
                doomed.objects.push(SegmentObject { store, name });
            }
        }
        Ok(doomed)
    }

    /// Deletes the rows of segments whose objects are gone.
    pub(crate) async fn forget_segments(
        &self,
        key: AttemptKey,
        firsts: &[i64],
    ) -> Result<(), StoreError> {
        sqlx::query(
            "DELETE FROM log_segments WHERE job_id = $1 AND epoch = $2 AND first_sequence = ANY($3)",
        )
        .bind(key.job.as_uuid())
        .bind(epoch_column(key.epoch))
        .bind(firsts)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Deletes some chunks of an attempt; how many.
    pub(crate) async fn delete_chunks(
        &self,
        key: AttemptKey,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "DELETE FROM log_chunks WHERE job_id = $1 AND epoch = $2 AND first_sequence IN (
                SELECT first_sequence FROM log_chunks WHERE job_id = $1 AND epoch = $2
                ORDER BY first_sequence LIMIT $3)",
        )
        .bind(key.job.as_uuid())
        .bind(epoch_column(key.epoch))
        .bind(column(limit.into()))
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }

    /// Gives a claimed attempt back: some of its log is left to remove, or none.
    pub(crate) async fn log_removal_went_on(
        &self,
        key: AttemptKey,
        done: bool,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE attempts SET log_work_after = now(), log_work_failures = 0,
                log_state = CASE WHEN $3 THEN 'removed' ELSE log_state END
             WHERE job_id = $1 AND epoch = $2 AND log_state = 'removing'",
        )
        .bind(key.job.as_uuid())
        .bind(epoch_column(key.epoch))
        .bind(done)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Removes jobs that ended longer than `period` ago, once their output is removed and their workers
    /// are gone. Returns how many, `limit` at most.
    pub(crate) async fn remove_jobs(
        &self,
        period: Duration,
        limit: i64,
    ) -> Result<u64, StoreError> {
        // A row that changed while it was waited for is looked at again: a job that was retried stays.
        let done = sqlx::query(
            "DELETE FROM jobs WHERE id IN (
                SELECT j.id FROM jobs j WHERE j.finished_at < now() - make_interval(secs => $1)
                  AND NOT EXISTS (SELECT FROM attempts a
                    WHERE a.job_id = j.id AND a.log_state <> 'removed')
                  AND NOT EXISTS (SELECT FROM workers w
                    WHERE w.job_id = j.id AND w.state <> 'terminated')
                ORDER BY j.finished_at LIMIT $2 FOR UPDATE OF j SKIP LOCKED)",
        )
        .bind(period.as_secs_f64())
        .bind(limit)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }

    /// Removes workers that went longer than `period` ago and never had a job, so that none takes them
    /// with it. Returns how many, `limit` at most.
    pub(crate) async fn remove_workers(
        &self,
        period: Duration,
        limit: i64,
    ) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "DELETE FROM workers WHERE id IN (
                SELECT id FROM workers WHERE job_id IS NULL AND state = 'terminated'
                  AND terminated_at < now() - make_interval(secs => $1) LIMIT $2)",
        )
        .bind(period.as_secs_f64())
        .bind(limit)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }

    /// Removes records of refusals that are older than `period`. Returns how many, `limit` at most.
    pub(crate) async fn remove_audit(
        &self,
        period: Duration,
        limit: i64,
    ) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "DELETE FROM audit_events WHERE id IN (SELECT id FROM (
                SELECT id, at FROM audit_events ORDER BY id LIMIT $2) AS oldest
             WHERE at < now() - make_interval(secs => $1))",
        )
        .bind(period.as_secs_f64())
        .bind(limit)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }
}

//! The way of chunks into segments. A claim on an attempt only saves double work: what is right is
//! decided by the transaction that records a segment, which takes exactly the chunks that were packed.

use std::time::Duration;

use hodei_core::id::AttemptKey;
use sqlx::Row;

use super::{
    Store, StoreError,
    logs::{Chunk, Place, Segment, chunks, column},
    rows::{epoch_column, read_key},
};

/// Plain bytes of a segment, but for its last chunk.
const SEGMENT_BYTES: i64 = 4 << 20;
/// Chunks of a segment: a job that writes a line at a time leaves very small ones.
const SEGMENT_CHUNKS: i64 = 20_000;
/// How long work on an attempt's log is left to who claimed it; then somebody else may.
pub(crate) const LOG_CLAIM: Duration = Duration::from_secs(300);
/// Where counting what waits ends.
const BACKLOG_COUNTED: i64 = 10_000;

/// What is to be done with an attempt's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogWork {
    /// Its chunks are to be packed.
    Archive,
    /// All of it is to be removed.
    Remove,
}

impl LogWork {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Remove => "remove",
        }
    }

    fn state(self) -> &'static str {
        match self {
            Self::Archive => "chunked",
            Self::Remove => "removing",
        }
    }
}

/// A claimed attempt, and how often the work failed since it last went on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogClaim {
    pub(crate) key: AttemptKey,
    pub(crate) failures: u32,
}

impl Store {
    /// Claims attempts that ended at least `settled` ago and whose log has work of this kind to do.
    pub(crate) async fn claim_logs(
        &self,
        work: LogWork,
        settled: Duration,
        limit: i64,
    ) -> Result<Vec<LogClaim>, StoreError> {
        sqlx::query(
            "UPDATE attempts SET log_work_after = now() + make_interval(secs => $3)
             WHERE (job_id, epoch) IN (
                SELECT job_id, epoch FROM attempts
                WHERE state IN ('finished', 'lost') AND log_state = $1 AND log_work_after <= now()
                  AND log_state IN ('chunked', 'removing')
                  AND finished_at <= now() - make_interval(secs => $2)
                ORDER BY log_work_after LIMIT $4 FOR NO KEY UPDATE SKIP LOCKED)
             RETURNING job_id, epoch, log_work_failures",
        )
        .bind(work.state())
        .bind(settled.as_secs_f64())
        .bind(LOG_CLAIM.as_secs_f64())
        .bind(limit)
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(|row| {
            let failures = u32::try_from(row.try_get::<i32, _>("log_work_failures")?).unwrap_or(0);
            Ok(LogClaim { key: read_key(row)?, failures })
        })
        .collect()
    }

    /// The next chunks that go into one segment, oldest first; the same ones until they are recorded.
    pub(crate) async fn chunks_to_pack(&self, key: AttemptKey) -> Result<Vec<Chunk>, StoreError> {
        chunks(&self.pool, key, 0, SEGMENT_CHUNKS, SEGMENT_BYTES).await
    }

    /// Puts a segment in the place of the `packed` chunks it was made of. `false`, and nothing is
    /// changed, when they are not all there any more.
    pub(crate) async fn record_segment(
        &self,
        key: AttemptKey,
        segment: &Segment,
        packed: usize,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let chunked = sqlx::query(
            "SELECT FROM attempts WHERE job_id = $1 AND epoch = $2 AND log_state = 'chunked'
             FOR NO KEY UPDATE",
        )
        .bind(key.job.as_uuid())
        .bind(epoch_column(key.epoch))
        .fetch_optional(&mut *tx)
        .await?;
        let deleted = sqlx::query(
            "DELETE FROM log_chunks WHERE job_id = $1 AND epoch = $2
               AND first_sequence >= $3 AND last_sequence <= $4",
        )
        .bind(key.job.as_uuid())
        .bind(epoch_column(key.epoch))
        .bind(column(segment.first))
        .bind(column(segment.last))
        .execute(&mut *tx)
        .await?;
        if chunked.is_none() || deleted.rows_affected() != packed as u64 {
            return Ok(false);
        }
        let (payload, store, name) = match &segment.place {
            Place::Row(payload) => (Some(payload.as_ref()), None, None),
            Place::Object { store, name } => (None, Some(store), Some(name)),
        };
        sqlx::query(
            "INSERT INTO log_segments (job_id, epoch, first_sequence, last_sequence, plain_bytes,
                stored_bytes, checksum, payload, store, object)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(key.job.as_uuid())
        .bind(epoch_column(key.epoch))
        .bind(column(segment.first))
        .bind(column(segment.last))
        .bind(i32::try_from(segment.plain_bytes).unwrap_or(i32::MAX))
        .bind(i32::try_from(segment.stored_bytes).unwrap_or(i32::MAX))
        .bind(segment.checksum.as_slice())
        .bind(payload)
        .bind(store)
        .bind(name)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "UPDATE attempts SET log_work_after = now(), log_work_failures = 0, log_state = CASE
                WHEN EXISTS (SELECT FROM log_chunks WHERE job_id = $1 AND epoch = $2)
                THEN 'chunked' ELSE 'archived' END
             WHERE job_id = $1 AND epoch = $2",
        )
        .bind(key.job.as_uuid())
        .bind(epoch_column(key.epoch))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// The attempt's log is as it shall be: what is left in chunks, if anything, stays there.
    pub(crate) async fn log_archived(&self, key: AttemptKey) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE attempts SET log_state = 'archived'
             WHERE job_id = $1 AND epoch = $2 AND log_state = 'chunked'",
        )
        .bind(key.job.as_uuid())
        .bind(epoch_column(key.epoch))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Work on an attempt's log failed; it is tried again after `pause`.
    pub(crate) async fn log_work_failed(
        &self,
        key: AttemptKey,
        pause: Duration,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE attempts SET log_work_failures = log_work_failures + 1,
                log_work_after = now() + make_interval(secs => $3)
             WHERE job_id = $1 AND epoch = $2",
        )
        .bind(key.job.as_uuid())
        .bind(epoch_column(key.epoch))
        .bind(pause.as_secs_f64())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Whether an object is recorded as a segment of this attempt.
    pub(crate) async fn has_object(&self, key: AttemptKey, name: &str) -> Result<bool, StoreError> {
        let row = sqlx::query(
            "SELECT FROM log_segments WHERE job_id = $1 AND epoch = $2 AND object = $3",
        )
        .bind(key.job.as_uuid())
        .bind(epoch_column(key.epoch))
        .bind(name)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.is_some())
    }

    /// Ended attempts whose log waits to be archived or removed; counting ends at ten thousand each.
    pub(crate) async fn log_backlog(&self, work: LogWork) -> Result<i64, StoreError> {
        let row = sqlx::query(
            "SELECT count(*) AS waiting FROM (SELECT FROM attempts
             WHERE state IN ('finished', 'lost') AND log_state = $1
               AND log_state IN ('chunked', 'removing') LIMIT $2) AS counted",
        )
        .bind(work.state())
        .bind(BACKLOG_COUNTED)
        .fetch_one(&self.pool)
        .await?;
        Ok(row.try_get("waiting")?)
    }
}

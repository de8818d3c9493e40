//! Durable log chunks: contiguous within an attempt, each an encoded `StreamLogsResponse`.

use hodei_core::{
    attempt::AttemptState,
    id::{AttemptKey, Epoch, JobId, WorkerId},
};
use hodei_proto::v1::{LogFrame, StreamLogsResponse};
use prost::Message;
use sqlx::Row;

use super::{
    Store, StoreError,
    notify::{Topic, notify},
    rows::{epoch_column, read_attempt, unreadable},
};

/// Chunks read in one query; a chunk has at most about a mebibyte.
const CHUNKS_AT_ONCE: i64 = 8;

fn column(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

impl Store {
    /// Stores frames that follow on what is stored. `false` when they do not, when the attempt has
    /// ended, or when it is another worker's: nothing is stored then.
    pub(crate) async fn append_logs(
        &self,
        key: AttemptKey,
        worker: WorkerId,
        frames: Vec<LogFrame>,
    ) -> Result<bool, StoreError> {
        let (Some(first), Some(last)) = (frames.first(), frames.last()) else { return Ok(true) };
        let (first, last) = (first.sequence, last.sequence);
        let payload = StreamLogsResponse { epoch: key.epoch.0, frames }.encode_to_vec();
        let mut tx = self.pool.begin().await?;
        // Two replicas that both believe they have this agent exclude each other here.
        let taken = sqlx::query(
            "UPDATE attempts SET log_sequence = $5 WHERE job_id = $1 AND epoch = $2 AND worker_id = $3
               AND log_sequence = $4 AND state NOT IN ('finished', 'lost')",
        )
        .bind(key.job.as_uuid())
        .bind(epoch_column(key.epoch))
        .bind(worker.as_uuid())
        .bind(column(first.saturating_sub(1)))
        .bind(column(last))
        .execute(&mut *tx)
        .await?;
        if taken.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO log_chunks (job_id, epoch, first_sequence, last_sequence, payload)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(key.job.as_uuid())
        .bind(epoch_column(key.epoch))
        .bind(column(first))
        .bind(column(last))
        .bind(payload)
        .execute(&mut *tx)
        .await?;
        notify(&mut *tx, Topic::Log(key.job)).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Stored frames from a sequence number on, in order; empty when there are none yet.
    pub(crate) async fn read_logs(
        &self,
        key: AttemptKey,
        from: u64,
    ) -> Result<Vec<Vec<LogFrame>>, StoreError> {
        let rows = sqlx::query(
            "SELECT payload FROM log_chunks WHERE job_id = $1 AND epoch = $2 AND last_sequence >= $3
               AND first_sequence >= COALESCE((SELECT max(first_sequence) FROM log_chunks
                 WHERE job_id = $1 AND epoch = $2 AND first_sequence <= $3), 0)
             ORDER BY first_sequence LIMIT $4",
        )
        .bind(key.job.as_uuid())
        .bind(epoch_column(key.epoch))
        .bind(column(from))
        .bind(CHUNKS_AT_ONCE)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                let payload: Vec<u8> = row.try_get("payload")?;
                let chunk = StreamLogsResponse::decode(bytes::Bytes::from(payload))
                    .map_err(|error| unreadable("log chunk", &error.to_string()))?;
                Ok(chunk.frames.into_iter().filter(|frame| frame.sequence >= from).collect())
            })
            .collect()
    }

    /// State of an attempt and the last number that is durable.
    pub(crate) async fn log_position(
        &self,
        key: AttemptKey,
    ) -> Result<Option<(AttemptState, u64)>, StoreError> {
        let row = sqlx::query("SELECT * FROM attempts WHERE job_id = $1 AND epoch = $2")
            .bind(key.job.as_uuid())
            .bind(epoch_column(key.epoch))
            .fetch_optional(&self.pool)
            .await?;
        let attempt = row.as_ref().map(read_attempt).transpose()?;
        Ok(attempt.map(|attempt| (attempt.state, attempt.log_sequence)))
    }

    /// The job's latest epoch, and whether the job is final; `None` without such a job.
    pub(crate) async fn log_horizon(&self, id: JobId) -> Result<Option<(Epoch, bool)>, StoreError> {
        Ok(self.job(id).await?.map(|job| (job.epoch, job.state.is_final())))
    }
}

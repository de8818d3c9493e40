//! Durable output of attempts: chunks, each an encoded `StreamLogsResponse`, contiguous within an
//! attempt; and the segments that chunks of ended attempts are packed into.

use bytes::Bytes;
use hodei_core::{
    attempt::AttemptState,
    id::{AttemptKey, Epoch, JobId, WorkerId},
};
use hodei_proto::v1::{LogFrame, StreamLogsResponse};
use jiff::Timestamp;
use prost::Message;
use sqlx::{PgExecutor, Row, postgres::PgRow};

use super::{
    Store, StoreError,
    notify::{Topic, notify},
    rows::{epoch_column, optional_time, read_attempt, unreadable},
};
use crate::logs::codec::{Encoding, Packed, pack_chunk};

/// Bytes read in one query, when decoded; one chunk more may follow.
const BYTES_AT_ONCE: i64 = 4 << 20;
/// Chunks read in one query.
const CHUNKS_AT_ONCE: i64 = 1024;

pub(super) fn column(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

fn sequence(row: &PgRow, name: &str) -> Result<u64, sqlx::Error> {
    Ok(u64::try_from(row.try_get::<i64, _>(name)?).unwrap_or(0))
}

/// A row of `log_chunks`.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) packed: Packed,
}

/// Where a segment's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the row.
    Row(Bytes),
    /// In an object of the store at this URL.
    Object { store: String, name: String },
}

/// A row of `log_segments`.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) plain_bytes: usize,
    pub(crate) stored_bytes: usize,
    pub(crate) checksum: [u8; 32],
    pub(crate) place: Place,
}

/// What the database has at some position of an attempt's output.
#[derive(Debug)]
pub(crate) enum StoredLog {
    /// Chunks, the first of which holds the position or follows it.
    Chunks(Vec<Chunk>),
    /// The segment that holds the position or follows it.
    Segment(Segment),
    Nothing,
}

/// How far an attempt's output is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogPosition {
    pub(crate) state: AttemptState,
    /// The last number that was durable.
    pub(crate) sequence: u64,
    /// When it was removed by retention.
    pub(crate) removed: Option<Timestamp>,
}

fn read_chunk(row: &PgRow) -> Result<Chunk, StoreError> {
    let encoding: &str = row.try_get("encoding")?;
    let encoding = Encoding::parse(encoding).ok_or_else(|| unreadable("encoding", encoding))?;
    let payload = Bytes::from(row.try_get::<Vec<u8>, _>("payload")?);
    let plain_bytes = match row.try_get::<Option<i32>, _>("plain_bytes")? {
        Some(bytes) => usize::try_from(bytes).unwrap_or(0),
        None => payload.len(),
    };
    let packed = Packed { encoding, plain_bytes, payload };
    let (first, last) = (sequence(row, "first_sequence")?, sequence(row, "last_sequence")?);
    Ok(Chunk { first, last, packed })
}

pub(super) fn read_segment(row: &PgRow) -> Result<Segment, StoreError> {
    let place = match row.try_get::<Option<Vec<u8>>, _>("payload")? {
        Some(payload) => Place::Row(payload.into()),
        None => Place::Object { store: row.try_get("store")?, name: row.try_get("object")? },
    };
    let checksum: Vec<u8> = row.try_get("checksum")?;
    let checksum = checksum.try_into().map_err(|_| unreadable("checksum", "of another length"))?;
    Ok(Segment {
        first: sequence(row, "first_sequence")?,
        last: sequence(row, "last_sequence")?,
        plain_bytes: usize::try_from(row.try_get::<i32, _>("plain_bytes")?).unwrap_or(0),
        stored_bytes: usize::try_from(row.try_get::<i32, _>("stored_bytes")?).unwrap_or(0),
        checksum,
        place,
    })
}

/// Chunks from the one that holds `from` on: at most so many rows, and bytes but for the last row.
pub(super) async fn chunks(
    executor: impl PgExecutor<'_>,
    key: AttemptKey,
    from: u64,
    rows: i64,
    bytes: i64,
) -> Result<Vec<Chunk>, StoreError> {
    let found = sqlx::query(
        "SELECT first_sequence, last_sequence, encoding, plain_bytes, payload FROM (
            SELECT *, sum(bytes) OVER (ORDER BY first_sequence) - bytes AS before FROM (
                SELECT *, COALESCE(plain_bytes, octet_length(payload)) AS bytes FROM log_chunks
                WHERE job_id = $1 AND epoch = $2 AND last_sequence >= $3
                  AND first_sequence >= COALESCE((SELECT max(first_sequence) FROM log_chunks
                    WHERE job_id = $1 AND epoch = $2 AND first_sequence <= $3), 0)
                ORDER BY first_sequence LIMIT $4) AS bounded) AS summed
         WHERE before < $5 ORDER BY first_sequence",
    )
    .bind(key.job.as_uuid())
    .bind(epoch_column(key.epoch))
    .bind(column(from))
    .bind(rows)
    .bind(bytes)
    .fetch_all(executor)
    .await?;
    found.iter().map(read_chunk).collect()
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
        let plain = StreamLogsResponse { epoch: key.epoch.0, frames }.encode_to_vec();
        let packed = pack_chunk(plain.into()).await;
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
            "INSERT INTO log_chunks (job_id, epoch, first_sequence, last_sequence, encoding,
                plain_bytes, payload) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(key.job.as_uuid())
        .bind(epoch_column(key.epoch))
        .bind(column(first))
        .bind(column(last))
        .bind(packed.encoding.as_str())
        .bind(i32::try_from(packed.plain_bytes).unwrap_or(i32::MAX))
        .bind(packed.payload.as_ref())
        .execute(&mut *tx)
        .await?;
        notify(&mut *tx, Topic::Log(key.job)).await?;
        tx.commit().await?;
        metrics::counter!("hodei_log_stored_bytes_total", "form" => "chunk")
            .increment(packed.payload.len() as u64);
        Ok(true)
    }

    /// What is stored at a sequence number or, where that is not, next after it.
    pub(crate) async fn stored_log(
        &self,
        key: AttemptKey,
        from: u64,
    ) -> Result<StoredLog, StoreError> {
        // First the chunks, then the segments: what leaves the chunks between the two looks is found
        // by the second, and nothing ever goes the other way.
        let chunks = chunks(&self.pool, key, from, CHUNKS_AT_ONCE, BYTES_AT_ONCE).await?;
        if chunks.first().is_some_and(|chunk| chunk.first <= from) {
            return Ok(StoredLog::Chunks(chunks));
        }
        let row = sqlx::query(
            "SELECT * FROM log_segments WHERE job_id = $1 AND epoch = $2 AND last_sequence >= $3
             ORDER BY first_sequence LIMIT 1",
        )
        .bind(key.job.as_uuid())
        .bind(epoch_column(key.epoch))
        .bind(column(from))
        .fetch_optional(&self.pool)
        .await?;
        Ok(match row {
            Some(row) => StoredLog::Segment(read_segment(&row)?),
            None if chunks.is_empty() => StoredLog::Nothing,
            None => StoredLog::Chunks(chunks),
        })
    }

    /// How far an attempt's output is.
    pub(crate) async fn log_position(
        &self,
        key: AttemptKey,
    ) -> Result<Option<LogPosition>, StoreError> {
        let row = sqlx::query("SELECT * FROM attempts WHERE job_id = $1 AND epoch = $2")
            .bind(key.job.as_uuid())
            .bind(epoch_column(key.epoch))
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| {
            let attempt = read_attempt(&row)?;
            let removed = optional_time(&row, "log_removed_at")?;
            Ok(LogPosition { state: attempt.state, sequence: attempt.log_sequence, removed })
        })
        .transpose()
    }

    /// The job's latest epoch, and whether the job is final; `None` without such a job.
    pub(crate) async fn log_horizon(&self, id: JobId) -> Result<Option<(Epoch, bool)>, StoreError> {
        Ok(self.job(id).await?.map(|job| (job.epoch, job.state.is_final())))
    }
}

//! What rows look like in Rust, and how they are read.

use std::str::FromStr;

use hodei_core::{
    attempt::{AttemptState, Outcome},
    id::{AttemptKey, Epoch, JobId, ProviderId, WorkerId},
    job::JobState,
    provider::WorkerHandle,
    session::ruling::Standing,
    spec::JobSpec,
    worker::WorkerState,
};
use jiff::{SignedDuration, Timestamp};
use sqlx::{
    Decode, Postgres, Row, Type,
    error::BoxDynError,
    postgres::{PgRow, PgTypeInfo, PgValueRef, types::Oid},
    types::Json,
};
use uuid::Uuid;

use super::StoreError;
use crate::policy::{Failures, Stop};

/// A `timestamptz`. Only read: whatever is written is PostgreSQL's own clock, one for all replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At(pub(crate) Timestamp);

impl Type<Postgres> for At {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1184))
    }
}

impl<'r> Decode<'r, Postgres> for At {
    /// Microseconds since 2000-01-01 UTC, PostgreSQL's binary form.
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let micros = <i64 as Decode<Postgres>>::decode(value)?;
        let epoch = Timestamp::from_second(946_684_800)?;
        Ok(Self(epoch.checked_add(SignedDuration::from_micros(micros))?))
    }
}

/// A job without its attempts.
#[derive(Debug, Clone)]
pub(crate) struct JobRow {
    pub(crate) id: JobId,
    pub(crate) name: String,
    pub(crate) state: JobState,
    pub(crate) version: i64,
    pub(crate) spec: JobSpec,
    pub(crate) reason: String,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) exit_code: Option<i32>,
    pub(crate) correlation_id: String,
    pub(crate) epoch: Epoch,
    pub(crate) failures: Failures,
    /// When it was first refused a worker for a quota or backpressure, while that lasts.
    pub(crate) refused_since: Option<Timestamp>,
    pub(crate) submitted_at: Timestamp,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
}

/// One attempt.
#[derive(Debug, Clone)]
pub(crate) struct AttemptRow {
    pub(crate) key: AttemptKey,
    pub(crate) worker: WorkerId,
    pub(crate) provider: String,
    pub(crate) state: AttemptState,
    /// Its worker was there before it, idle.
    pub(crate) warm: bool,
    pub(crate) stop: Option<Stop>,
    pub(crate) reason: String,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) log_sequence: u64,
    pub(crate) created_at: Timestamp,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
}

impl AttemptRow {
    /// What the rules of the session protocol look at.
    pub(crate) fn standing(&self) -> Standing {
        Standing { worker: self.worker, state: self.state, stored: self.log_sequence }
    }
}

/// One worker, without its secrets' hashes.
#[derive(Debug, Clone)]
pub(crate) struct WorkerRow {
    pub(crate) id: WorkerId,
    pub(crate) provider: String,
    /// Its latest attempt, which may be over.
    pub(crate) attempt: Option<AttemptKey>,
    pub(crate) state: WorkerState,
    /// It takes one job after another.
    pub(crate) pooled: bool,
    /// Since when it may be given a job; `None` while it may not.
    pub(crate) idle_since: Option<Timestamp>,
    pub(crate) jobs_done: u32,
    pub(crate) resource: Option<String>,
    pub(crate) resource_uid: Option<String>,
    pub(crate) pod_uid: Option<String>,
    /// Where it was first seen to be.
    pub(crate) node: Option<String>,
    /// How far its clock is ahead of the server's.
    pub(crate) clock_offset_ms: Option<i64>,
    pub(crate) reason: String,
    pub(crate) created_at: Timestamp,
    /// When its container was first seen to run.
    pub(crate) running_at: Option<Timestamp>,
    pub(crate) registered_at: Option<Timestamp>,
    /// When it was decided that it goes.
    pub(crate) terminating_at: Option<Timestamp>,
    pub(crate) terminated_at: Option<Timestamp>,
}

impl WorkerRow {
    /// What the provider calls it, once that is known.
    pub(crate) fn handle(&self) -> Option<WorkerHandle> {
        Some(WorkerHandle {
            worker: self.id,
            resource: self.resource.clone()?,
            uid: self.resource_uid.clone()?,
        })
    }

    pub(crate) fn provider_id(&self) -> Result<ProviderId, StoreError> {
        self.provider.parse().map_err(|_| unreadable("provider", &self.provider))
    }
}

pub(crate) fn unreadable(what: &'static str, text: &str) -> StoreError {
    StoreError::Unreadable { what, text: text.chars().take(64).collect() }
}

/// A state by its name.
pub(crate) fn read_state<S: FromStr>(
    row: &PgRow,
    column: &str,
    what: &'static str,
) -> Result<S, StoreError> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|_| unreadable(what, &text))
}

pub(crate) fn read_attempt_state(row: &PgRow) -> Result<AttemptState, StoreError> {
    let text: String = row.try_get("state")?;
    let found = AttemptState::ALL.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| unreadable("attempt state", &text))
}

/// Why it was told to stop; `None` also for a row without an attempt.
pub(crate) fn read_stop(row: &PgRow) -> Result<Option<Stop>, StoreError> {
    let text: Option<String> = row.try_get("stop")?;
    text.map(|text| Stop::parse(&text).ok_or_else(|| unreadable("stop", &text))).transpose()
}

pub(crate) fn time(row: &PgRow, column: &str) -> Result<Timestamp, sqlx::Error> {
    Ok(row.try_get::<At, _>(column)?.0)
}

pub(crate) fn optional_time(row: &PgRow, column: &str) -> Result<Option<Timestamp>, sqlx::Error> {
    Ok(row.try_get::<Option<At>, _>(column)?.map(|at| at.0))
}

fn count(row: &PgRow, column: &str) -> Result<u32, StoreError> {
    Ok(u32::try_from(row.try_get::<i32, _>(column)?).unwrap_or(0))
}

/// An epoch as PostgreSQL keeps it.
pub(crate) fn epoch_column(epoch: Epoch) -> i32 {
    i32::try_from(epoch.0).unwrap_or(i32::MAX)
}

pub(crate) fn read_key(row: &PgRow) -> Result<AttemptKey, StoreError> {
    let job = JobId::from(row.try_get::<Uuid, _>("job_id")?);
    Ok(AttemptKey { job, epoch: Epoch(count(row, "epoch")?) })
}

/// The latest attempt of a worker, if it ever had one.
pub(crate) fn read_optional_key(row: &PgRow) -> Result<Option<AttemptKey>, StoreError> {
    let job: Option<Uuid> = row.try_get("job_id")?;
    job.map(|_| read_key(row)).transpose()
}

pub(crate) fn read_job(row: &PgRow) -> Result<JobRow, StoreError> {
    Ok(JobRow {
        id: row.try_get::<Uuid, _>("id")?.into(),
        name: row.try_get("name")?,
        state: read_state(row, "state", "job state")?,
        version: row.try_get("version")?,
        spec: row.try_get::<Json<JobSpec>, _>("spec")?.0,
        reason: row.try_get("reason")?,
        outcome: row.try_get::<Option<Json<Outcome>>, _>("outcome")?.map(|outcome| outcome.0),
        exit_code: row.try_get("exit_code")?,
        correlation_id: row.try_get("correlation_id")?,
        epoch: Epoch(count(row, "epoch")?),
        failures: Failures {
            infrastructure: count(row, "infrastructure_failures")?,
            command: count(row, "command_failures")?,
            quota: count(row, "quota_refusals")?,
        },
        refused_since: optional_time(row, "refused_since")?,
        submitted_at: time(row, "submitted_at")?,
        started_at: optional_time(row, "started_at")?,
        finished_at: optional_time(row, "finished_at")?,
    })
}

pub(crate) fn read_attempt(row: &PgRow) -> Result<AttemptRow, StoreError> {
    Ok(AttemptRow {
        key: read_key(row)?,
        worker: row.try_get::<Uuid, _>("worker_id")?.into(),
        provider: row.try_get("provider")?,
        state: read_attempt_state(row)?,
        warm: row.try_get("warm")?,
        stop: read_stop(row)?,
        reason: row.try_get("reason")?,
        outcome: row.try_get::<Option<Json<Outcome>>, _>("outcome")?.map(|outcome| outcome.0),
        log_sequence: u64::try_from(row.try_get::<i64, _>("log_sequence")?).unwrap_or(0),
        created_at: time(row, "created_at")?,
        started_at: optional_time(row, "started_at")?,
        finished_at: optional_time(row, "finished_at")?,
    })
}

pub(crate) fn read_worker(row: &PgRow) -> Result<WorkerRow, StoreError> {
    Ok(WorkerRow {
        id: row.try_get::<Uuid, _>("id")?.into(),
        provider: row.try_get("provider")?,
        attempt: read_optional_key(row)?,
        state: read_state(row, "state", "worker state")?,
        pooled: row.try_get("pooled")?,
        idle_since: optional_time(row, "idle_since")?,
        jobs_done: count(row, "jobs_done")?,
        resource: row.try_get("resource")?,
        resource_uid: row.try_get("resource_uid")?,
        pod_uid: row.try_get("pod_uid")?,
        node: row.try_get("node")?,
        clock_offset_ms: row.try_get("clock_offset_ms")?,
        reason: row.try_get("reason")?,
        created_at: time(row, "created_at")?,
        running_at: optional_time(row, "running_at")?,
        registered_at: optional_time(row, "registered_at")?,
        terminating_at: optional_time(row, "terminating_at")?,
        terminated_at: optional_time(row, "terminated_at")?,
    })
}

//! The one place where a job's state or reason changes.

use hodei_core::{
    attempt::Outcome,
    id::JobId,
    job::{JobEvent, JobState},
};
use sqlx::{PgTransaction, types::Json};

use super::{
    StoreError,
    notify::{Topic, notify},
    rows::{JobRow, epoch_column, read_job},
};

/// A job, locked until the transaction ends.
pub(crate) async fn lock_job(
    tx: &mut PgTransaction<'_>,
    id: JobId,
) -> Result<Option<JobRow>, StoreError> {
    let row = sqlx::query("SELECT * FROM jobs WHERE id = $1 FOR NO KEY UPDATE")
        .bind(id.as_uuid())
        .fetch_optional(&mut **tx)
        .await?;
    row.as_ref().map(read_job).transpose()
}

/// Takes a locked job through an event: state, version, event row and notification together.
pub(crate) async fn transition(
    tx: &mut PgTransaction<'_>,
    job: &mut JobRow,
    event: JobEvent,
    reason: &str,
) -> Result<(), StoreError> {
    let from = job.state;
    let to = from.on(event)?;
    let version = job.version + 1;
    sqlx::query(
        "UPDATE jobs SET state = $2, version = $3, reason = $4, epoch = $5,
            started_at = CASE WHEN $2 = 'running' THEN COALESCE(started_at, now()) ELSE started_at END,
            finished_at = CASE WHEN $6 THEN now() END,
            refused_since = CASE WHEN $2 IN ('queued', 'starting') THEN refused_since END
         WHERE id = $1",
    )
    .bind(job.id.as_uuid())
    .bind(to.as_str())
    .bind(version)
    .bind(reason)
    .bind(epoch_column(job.epoch))
    .bind(to.is_final())
    .execute(&mut **tx)
    .await?;
    record_event(tx, job, version, event_name(event), Some(from), to, reason).await?;
    job.state = to;
    job.version = version;
    job.reason = reason.to_owned();
    notify(&mut **tx, Topic::Job(job.id)).await?;
    if to == JobState::Queued {
        notify(&mut **tx, Topic::Queue).await?;
    }
    Ok(())
}

/// Gives a locked job another reason; its state stays. One it has already is not written again.
pub(crate) async fn note(
    tx: &mut PgTransaction<'_>,
    job: &mut JobRow,
    reason: &str,
) -> Result<(), StoreError> {
    if job.reason == reason {
        return Ok(());
    }
    let version = job.version + 1;
    sqlx::query("UPDATE jobs SET version = $2, reason = $3 WHERE id = $1")
        .bind(job.id.as_uuid())
        .bind(version)
        .bind(reason)
        .execute(&mut **tx)
        .await?;
    record_event(tx, job, version, "reason_changed", Some(job.state), job.state, reason).await?;
    job.version = version;
    job.reason = reason.to_owned();
    notify(&mut **tx, Topic::Job(job.id)).await
}

/// The row of a job's first event, `submitted`.
pub(crate) async fn record_submission(
    tx: &mut PgTransaction<'_>,
    job: &JobRow,
) -> Result<(), StoreError> {
    record_event(tx, job, job.version, "submitted", None, job.state, "").await
}

async fn record_event(
    tx: &mut PgTransaction<'_>,
    job: &JobRow,
    version: i64,
    event: &str,
    from: Option<JobState>,
    to: JobState,
    reason: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO job_events (job_id, version, event, from_state, to_state, epoch, reason)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(job.id.as_uuid())
    .bind(version)
    .bind(event)
    .bind(from.map(JobState::as_str))
    .bind(to.as_str())
    .bind(epoch_column(job.epoch))
    .bind(reason)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Writes a job's outcome; its state is changed by [`transition`].
pub(crate) async fn set_outcome(
    tx: &mut PgTransaction<'_>,
    id: JobId,
    outcome: &Outcome,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE jobs SET outcome = $2, exit_code = $3 WHERE id = $1")
        .bind(id.as_uuid())
        .bind(Json(outcome))
        .bind(outcome.exit_code())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn event_name(event: JobEvent) -> &'static str {
    match event {
        JobEvent::AttemptCreated => "attempt_created",
        JobEvent::AttemptRunning => "attempt_running",
        JobEvent::Requeued => "requeued",
        JobEvent::CancelRequested => "cancel_requested",
        JobEvent::Retried => "retried",
        JobEvent::Finished(_) => "finished",
    }
}

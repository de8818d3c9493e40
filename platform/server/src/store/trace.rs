//! The times of an attempt that has ended, for its spans.

use hodei_core::id::{AttemptKey, WorkerId};
use sqlx::Row;
use uuid::Uuid;

use super::{
    Store, StoreError,
    rows::{epoch_column, optional_time, time},
};
use crate::trace::{AttemptTimes, Phase};

impl Store {
    /// Sends the spans of an attempt that has just ended. One that was taken back has none; and a trace is
    /// not worth an error.
    pub(super) async fn trace_attempt(&self, key: AttemptKey) {
        if !self.traces.are_on() {
            return;
        }
        match self.attempt_times(key).await {
            Ok(Some(times)) => self.traces.attempt(&times),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, job_id = %key.job, "an attempt is not traced"),
        }
    }

    async fn attempt_times(&self, key: AttemptKey) -> Result<Option<AttemptTimes>, StoreError> {
        let row = sqlx::query(
            "SELECT j.traceparent, j.correlation_id, a.worker_id, a.provider, a.exit_code, a.failure_cause,
                a.created_at, a.started_at, a.finished_at, a.warm, w.scheduled_at, w.registered_at,
                (SELECT max(e.at) FROM job_events e WHERE e.job_id = j.id AND e.to_state = 'queued'
                    AND e.event <> 'reason_changed' AND e.at <= a.created_at) AS queued_at
             FROM attempts a JOIN jobs j ON j.id = a.job_id LEFT JOIN workers w ON w.id = a.worker_id
             WHERE a.job_id = $1 AND a.epoch = $2 AND a.finished_at IS NOT NULL",
        )
        .bind(key.job.as_uuid())
        .bind(epoch_column(key.epoch))
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let created = time(&row, "created_at")?;
        // An idle worker was made and had registered before there was an attempt.
        let made = !row.try_get::<bool, _>("warm")?;
        let of_worker = |column| match made {
            true => optional_time(&row, column),
            false => Ok(None),
        };
        let registered = of_worker("registered_at")?;
        let begun = [
            (Phase::Queue, optional_time(&row, "queued_at")?),
            (Phase::CreateWorker, made.then_some(created)),
            (Phase::Register, of_worker("scheduled_at")?),
            (Phase::Assign, if made { registered } else { Some(created) }),
            (Phase::Run, optional_time(&row, "started_at")?),
        ];
        Ok(Some(AttemptTimes {
            key,
            worker: WorkerId::from(row.try_get::<Uuid, _>("worker_id")?),
            provider: row.try_get("provider")?,
            correlation_id: row.try_get("correlation_id")?,
            traceparent: row.try_get("traceparent")?,
            phases: begun.into_iter().filter_map(|(phase, at)| Some((phase, at?))).collect(),
            ended: time(&row, "finished_at")?,
            exit_code: row.try_get("exit_code")?,
            failure_cause: row.try_get("failure_cause")?,
        }))
    }
}

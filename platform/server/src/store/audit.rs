//! What was refused, and why: kept in the database, never with a secret.

use hodei_core::id::{AttemptKey, WorkerId};
use sqlx::PgExecutor;

use super::{StoreError, rows::epoch_column};

/// What kind of thing was refused or noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AuditKind {
    RegistrationRefused,
    SessionRefused,
    ResultRefused,
    LogsRefused,
    StrayDestroyed,
}

impl AuditKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::RegistrationRefused => "registration_refused",
            Self::SessionRefused => "session_refused",
            Self::ResultRefused => "result_refused",
            Self::LogsRefused => "logs_refused",
            Self::StrayDestroyed => "stray_destroyed",
        }
    }
}

/// Writes one row.
pub(crate) async fn record(
    executor: impl PgExecutor<'_>,
    kind: AuditKind,
    worker: Option<WorkerId>,
    attempt: Option<AttemptKey>,
    reason: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO audit_events (kind, worker_id, job_id, epoch, reason) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(kind.as_str())
    .bind(worker.map(|id| id.as_uuid()))
    .bind(attempt.map(|key| key.job.as_uuid()))
    .bind(attempt.map(|key| epoch_column(key.epoch)))
    .bind(reason)
    .execute(executor)
    .await?;
    count(kind);
    Ok(())
}

/// Counts what was refused.
pub(crate) fn count(kind: AuditKind) {
    metrics::counter!("hodei_refused_total", "kind" => kind.as_str()).increment(1);
}

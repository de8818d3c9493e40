//! Jobs and attempts as the wire shows them.

use hodei_proto::{timestamp, v1};

use crate::store::rows::{AttemptRow, JobRow};

/// A job with those of `attempts` that are its own.
pub(super) fn job(job: &JobRow, attempts: &[AttemptRow]) -> v1::Job {
    let own = attempts.iter().filter(|attempt| attempt.key.job == job.id);
    v1::Job {
        id: job.id.to_string(),
        spec: Some((&job.spec).into()),
        state: v1::JobState::from(job.state).into(),
        reason: job.reason.clone(),
        outcome: job.outcome.as_ref().map(Into::into),
        attempts: own.map(attempt).collect(),
        submitted_at: Some(timestamp(job.submitted_at)),
        started_at: job.started_at.map(timestamp),
        finished_at: job.finished_at.map(timestamp),
        version: u64::try_from(job.version).unwrap_or(0),
        correlation_id: job.correlation_id.clone(),
    }
}

fn attempt(row: &AttemptRow) -> v1::Attempt {
    v1::Attempt {
        epoch: row.key.epoch.0,
        worker_id: row.worker.to_string(),
        provider: row.provider.clone(),
        state: row.state.as_str().to_owned(),
        reason: row.reason.clone(),
        outcome: row.outcome.as_ref().map(Into::into),
        created_at: Some(timestamp(row.created_at)),
        started_at: row.started_at.map(timestamp),
        finished_at: row.finished_at.map(timestamp),
    }
}

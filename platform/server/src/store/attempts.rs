//! What happens to an attempt: it starts, it ends, and the job with it.

use hodei_core::{
    attempt::{AttemptEnd, AttemptState, Outcome},
    id::{AttemptKey, WorkerId},
    job::{JobEvent, JobState},
    session::ruling,
};
use sqlx::{PgTransaction, types::Json};

use super::{
    Store, StoreError,
    drain::give_back,
    jobs::count_finished,
    rows::{AttemptRow, JobRow, epoch_column, read_attempt},
    transition::{lock_job, set_outcome, transition},
    workers::{doom, release},
};
use crate::policy::{Charge, Verdict, after_attempt};

/// An attempt, locked until the transaction ends. The job must be locked before.
pub(crate) async fn lock_attempt(
    tx: &mut PgTransaction<'_>,
    key: AttemptKey,
) -> Result<Option<AttemptRow>, StoreError> {
    let row =
        sqlx::query("SELECT * FROM attempts WHERE job_id = $1 AND epoch = $2 FOR NO KEY UPDATE")
            .bind(key.job.as_uuid())
            .bind(epoch_column(key.epoch))
            .fetch_optional(&mut **tx)
            .await?;
    row.as_ref().map(read_attempt).transpose()
}

/// Why a worker goes that has done its work, or will not.
const OVER: &str = "its attempt has ended";

/// What became of a result or a loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It ended the attempt; the job stands as given.
    Taken(JobState),
    /// This very worker had ended the attempt before: a repeated result.
    Repeated,
    /// It is late or foreign.
    Refused(&'static str),
}

impl Store {
    /// The attempt's command runs. Repeated or late, it changes nothing.
    pub(crate) async fn attempt_started(
        &self,
        key: AttemptKey,
        worker: WorkerId,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some(mut job) = lock_job(&mut tx, key.job).await? else { return Ok(false) };
        let Some(attempt) = lock_attempt(&mut tx, key).await? else { return Ok(false) };
        if !attempt.standing().starts(worker) {
            return Ok(false);
        }
        start(&mut tx, &mut job, key).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Ends an attempt and decides what becomes of its job, all in one transaction.
    pub(crate) async fn end_attempt(
        &self,
        key: AttemptKey,
        worker: WorkerId,
        end: &AttemptEnd,
    ) -> Result<Ending, StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some(mut job) = lock_job(&mut tx, key.job).await? else {
            return Ok(Ending::Refused("no such job"));
        };
        let Some(attempt) = lock_attempt(&mut tx, key).await? else {
            return Ok(Ending::Refused("no such attempt"));
        };
        let next = match end {
            AttemptEnd::Finished(_) => AttemptState::Finished,
            AttemptEnd::Lost(_) => AttemptState::Lost,
        };
        match attempt.standing().ends(worker, next) {
            ruling::Ending::Take => {}
            ruling::Ending::Repeated => return Ok(Ending::Repeated),
            ruling::Ending::Refused(reason) => return Ok(Ending::Refused(reason)),
        }
        match end {
            // The agent of an idle worker was gone before it could be told: that is no try of the job.
            AttemptEnd::Lost(failure)
                if attempt.warm && attempt.state == AttemptState::Provisioning =>
            {
                give_back(&mut tx, &mut job, &failure.to_string()).await?;
            }
            _ => {
                write_end(&mut tx, key, next, end).await?;
                if !job.state.is_final() {
                    conclude(&mut tx, &mut job, &attempt, end).await?;
                }
            }
        }
        match end {
            AttemptEnd::Finished(_) => release(&mut tx, worker, true, OVER).await?,
            AttemptEnd::Lost(_) => doom(&mut tx, worker, OVER).await?,
        }
        tx.commit().await?;
        if let Some(started) = attempt.started_at {
            let ran = (jiff::Timestamp::now() - started).total(jiff::Unit::Second).unwrap_or(0.0);
            metrics::histogram!("hodei_stage_seconds", "stage" => "run").record(ran.max(0.0));
        }
        if job.state.is_final() {
            count_finished(&job);
        }
        self.trace_attempt(key).await;
        Ok(Ending::Taken(job.state))
    }
}

/// Takes a locked attempt and its job to running; the clock of the run time-out starts.
pub(crate) async fn start(
    tx: &mut PgTransaction<'_>,
    job: &mut JobRow,
    key: AttemptKey,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE attempts SET state = $3, started_at = now(), run_deadline = now() + make_interval(secs => $4)
         WHERE job_id = $1 AND epoch = $2",
    )
    .bind(key.job.as_uuid())
    .bind(epoch_column(key.epoch))
    .bind(AttemptState::Running.as_str())
    .bind(job.spec.timeouts.run.as_secs_f64())
    .execute(&mut **tx)
    .await?;
    // What it waited for while it started is over; why it is cancelled is not.
    let reason = match job.state {
        JobState::Cancelling => job.reason.clone(),
        _ => String::new(),
    };
    transition(tx, job, JobEvent::AttemptRunning, &reason).await
}

async fn write_end(
    tx: &mut PgTransaction<'_>,
    key: AttemptKey,
    state: AttemptState,
    end: &AttemptEnd,
) -> Result<(), StoreError> {
    let (outcome, cause, reason) = match end {
        AttemptEnd::Finished(outcome) => (Some(outcome), None, outcome.to_string()),
        AttemptEnd::Lost(failure) => (None, Some(failure.cause.as_str()), failure.message.clone()),
    };
    sqlx::query(
        "UPDATE attempts SET state = $3, outcome = $4, exit_code = $5, failure_cause = $6, reason = $7,
            finished_at = now() WHERE job_id = $1 AND epoch = $2",
    )
    .bind(key.job.as_uuid())
    .bind(epoch_column(key.epoch))
    .bind(state.as_str())
    .bind(outcome.map(Json))
    .bind(outcome.map(Outcome::exit_code))
    .bind(cause)
    .bind(reason)
    .execute(&mut **tx)
    .await?;
    if let Some(cause) = cause {
        metrics::counter!("hodei_attempts_lost_total", "cause" => cause).increment(1);
    }
    Ok(())
}

/// Carries the policy's verdict out on a locked job.
async fn conclude(
    tx: &mut PgTransaction<'_>,
    job: &mut JobRow,
    attempt: &AttemptRow,
    end: &AttemptEnd,
) -> Result<(), StoreError> {
    match after_attempt(end, attempt.stop, job.failures, job.spec.retry) {
        Verdict::Final { state, reason } => {
            match end {
                AttemptEnd::Finished(outcome) => set_outcome(tx, job.id, outcome).await?,
                AttemptEnd::Lost(_) => {}
            }
            transition(tx, job, JobEvent::Finished(state), &reason).await
        }
        Verdict::Retry { charge, delay, reason } => {
            let column = |which| i32::from(charge == which);
            sqlx::query(
                "UPDATE jobs SET infrastructure_failures = infrastructure_failures + $2,
                    command_failures = command_failures + $3, quota_refusals = quota_refusals + $4,
                    refused_since = CASE WHEN $4 = 1 THEN COALESCE(refused_since, now())
                        ELSE refused_since END,
                    not_before = now() + make_interval(secs => $5),
                    queue_deadline = CASE WHEN $4 = 1 THEN queue_deadline
                        ELSE now() + make_interval(secs => $5 + $6) END
                 WHERE id = $1",
            )
            .bind(job.id.as_uuid())
            .bind(column(Charge::Infrastructure))
            .bind(column(Charge::Command))
            .bind(column(Charge::Quota))
            .bind(delay.as_secs_f64())
            .bind(job.spec.timeouts.queue.as_secs_f64())
            .execute(&mut **tx)
            .await?;
            transition(tx, job, JobEvent::Requeued, &reason).await
        }
    }
}

//! Registration and sessions of agents: who may come in, and what a session goes on with.

use std::time::Duration;

use hodei_core::{
    attempt::AttemptState,
    id::{AttemptKey, WorkerId},
    job::JobState,
    secret::{Secret, SecretHash},
    spec::JobSpec,
    worker::WorkerState,
};
use sqlx::{PgTransaction, Row, postgres::PgRow};

use super::{
    Store, StoreError,
    attempts::{lock_attempt, start},
    notify::{Topic, notify},
    rows::{WorkerRow, epoch_column, read_state, read_stop, read_worker},
    transition::lock_job,
    workers::states_before,
};
use crate::{
    policy::Stop,
    session::admission::{Candidate, Opening, Refusal, admit, open},
};

/// What an opened session goes on with.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) acked_sequence: u64,
    pub(crate) opening: Opening,
    pub(crate) spec: JobSpec,
    pub(crate) correlation_id: String,
    /// Seconds from the registration on, when this is the session that gets the assignment.
    pub(crate) registered_for: Option<f64>,
}

/// What a session has to know to tell its agent what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionView {
    pub(crate) worker: WorkerState,
    pub(crate) attempt_open: bool,
    pub(crate) stop: Option<Stop>,
}

fn candidate(row: &PgRow, presented: bool) -> Result<Candidate, StoreError> {
    Ok(Candidate {
        secret_matches: presented,
        used: row.try_get("used")?,
        expired: row.try_get("expired")?,
        state: read_state(row, "state", "worker state")?,
        known_uid: row
            .try_get::<Option<String>, _>("resource_uid")?
            .or(row.try_get::<Option<String>, _>("pod_uid")?),
    })
}

impl Store {
    /// Trades a one-time password for a session. The row is locked, so that of two agents with the
    /// same password one is refused.
    pub(crate) async fn register(
        &self,
        id: WorkerId,
        otp: &Secret,
        pod_uid: &str,
        session: &SecretHash,
        lease: Duration,
    ) -> Result<Result<WorkerRow, Refusal>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let row = sqlx::query(
            "SELECT *, otp_used_at IS NOT NULL AS used, otp_expires_at <= now() AS expired
             FROM workers WHERE id = $1 FOR NO KEY UPDATE",
        )
        .bind(id.as_uuid())
        .fetch_optional(&mut *tx)
        .await?;
        let hash = row.as_ref().map(|row| row.try_get::<Vec<u8>, _>("otp_hash")).transpose()?;
        let matches = secret_matches(hash.as_deref(), otp);
        let Some(row) = row else { return Ok(Err(Refusal::UnknownWorker)) };
        if let Err(refusal) = admit(&candidate(&row, matches)?, pod_uid) {
            return Ok(Err(refusal));
        }
        let row = sqlx::query(
            "UPDATE workers SET otp_used_at = now(), registered_at = now(), session_hash = $2, pod_uid = $3,
                lease_until = now() + make_interval(secs => $4), state = $5
             WHERE id = $1 RETURNING *",
        )
        .bind(id.as_uuid())
        .bind(session.as_bytes().as_slice())
        .bind(pod_uid)
        .bind(lease.as_secs_f64())
        .bind(WorkerState::Ready.as_str())
        .fetch_one(&mut *tx)
        .await?;
        let worker = read_worker(&row)?;
        notify(&mut *tx, Topic::Worker(id)).await?;
        tx.commit().await?;
        Ok(Ok(worker))
    }

    /// The worker a session token belongs to.
    pub(crate) async fn authenticate(
        &self,
        id: WorkerId,
        token: &Secret,
        pod_uid: &str,
    ) -> Result<Result<WorkerRow, Refusal>, StoreError> {
        let row = sqlx::query("SELECT * FROM workers WHERE id = $1")
            .bind(id.as_uuid())
            .fetch_optional(&self.pool)
            .await?;
        let hash = match &row {
            Some(row) => row.try_get::<Option<Vec<u8>>, _>("session_hash")?,
            None => None,
        };
        let matches = secret_matches(hash.as_deref(), token);
        let Some(row) = row else { return Ok(Err(Refusal::UnknownWorker)) };
        if !matches {
            return Ok(Err(Refusal::WrongSecret));
        }
        let worker = read_worker(&row)?;
        let uids = [&worker.pod_uid, &worker.resource_uid];
        let foreign = uids.into_iter().flatten().any(|uid| uid != pod_uid);
        Ok(if foreign { Err(Refusal::ForeignPod) } else { Ok(worker) })
    }

    /// Opens a session on a worker's attempt: assigns it, or finds where to go on.
    pub(crate) async fn open_session(
        &self,
        worker: &WorkerRow,
        held: Option<AttemptKey>,
        lease: Duration,
    ) -> Result<Option<Opened>, StoreError> {
        let key = worker.attempt;
        let mut tx = self.pool.begin().await?;
        let Some(mut job) = lock_job(&mut tx, key.job).await? else { return Ok(None) };
        let Some(attempt) = lock_attempt(&mut tx, key).await? else { return Ok(None) };
        let opening = open(attempt.state, key, held);
        match opening {
            Opening::Assign => assign(&mut tx, worker.id, key).await?,
            // The agent has it, whether or not its word of that got through.
            Opening::Resume if attempt.state.can_become(AttemptState::Running) => {
                if matches!(job.state, JobState::Starting | JobState::Cancelling) {
                    start(&mut tx, &mut job, key).await?;
                }
            }
            _ => {}
        }
        let row = sqlx::query(
            "UPDATE workers SET lease_until = now() + make_interval(secs => $2) WHERE id = $1
             RETURNING EXTRACT(EPOCH FROM now() - registered_at)::float8 AS registered_for",
        )
        .bind(worker.id.as_uuid())
        .bind(lease.as_secs_f64())
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        let first = opening == Opening::Assign && attempt.state == AttemptState::Provisioning;
        let registered_for = row.try_get::<Option<f64>, _>("registered_for")?.filter(|_| first);
        let acked_sequence = if held == Some(key) { attempt.log_sequence } else { 0 };
        let (spec, correlation_id) = (job.spec, job.correlation_id);
        Ok(Some(Opened { acked_sequence, opening, spec, correlation_id, registered_for }))
    }

    /// The worker was heard of.
    pub(crate) async fn renew_lease(
        &self,
        worker: WorkerId,
        lease: Duration,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE workers SET lease_until = now() + make_interval(secs => $2) WHERE id = $1",
        )
        .bind(worker.as_uuid())
        .bind(lease.as_secs_f64())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// What a session has to know now; `None` when its worker is not there any more.
    pub(crate) async fn session_view(
        &self,
        worker: WorkerId,
    ) -> Result<Option<SessionView>, StoreError> {
        let row = sqlx::query(
            "SELECT w.state, a.stop, a.state NOT IN ('finished', 'lost') AS open FROM workers w
             JOIN attempts a ON a.job_id = w.job_id AND a.epoch = w.epoch WHERE w.id = $1",
        )
        .bind(worker.as_uuid())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| {
            Ok(SessionView {
                worker: read_state(&row, "state", "worker state")?,
                attempt_open: row.try_get("open")?,
                stop: read_stop(&row)?,
            })
        })
        .transpose()
    }
}

async fn assign(
    tx: &mut PgTransaction<'_>,
    worker: WorkerId,
    key: AttemptKey,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE attempts SET state = $3 WHERE job_id = $1 AND epoch = $2")
        .bind(key.job.as_uuid())
        .bind(epoch_column(key.epoch))
        .bind(AttemptState::Assigned.as_str())
        .execute(&mut **tx)
        .await?;
    sqlx::query("UPDATE workers SET state = $2 WHERE id = $1 AND state = ANY($3)")
        .bind(worker.as_uuid())
        .bind(WorkerState::Busy.as_str())
        .bind(states_before(WorkerState::Busy))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Compares in constant time. Without a stored hash it compares with one that nothing has, so that an
/// unknown worker takes as long to refuse as a known one.
fn secret_matches(stored: Option<&[u8]>, presented: &Secret) -> bool {
    match stored.and_then(SecretHash::from_bytes) {
        Some(hash) => hash.matches(presented),
        None => {
            let _ = SecretHash::from_bytes(&[0; 32]).is_some_and(|hash| hash.matches(presented));
            false
        }
    }
}

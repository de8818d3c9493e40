//! Registration and sessions of agents: who may come in, and what a session goes on with.

use std::time::Duration;

use hodei_core::{
    attempt::AttemptState,
    id::{AttemptKey, WorkerId},
    job::JobState,
    secret::{Secret, SecretHash},
    session::admission::{Candidate, Opening, Refusal, admit, open},
    spec::JobSpec,
    worker::WorkerState,
};
use jiff::SignedDuration;
use sqlx::{PgTransaction, Row, postgres::PgRow};
use uuid::Uuid;

use super::{
    Store, StoreError,
    attempts::{lock_attempt, start},
    notify::{Topic, notify},
    rows::{
        AttemptRow, WorkerRow, epoch_column, read_attempt_state, read_optional_key, read_state,
        read_stop, read_worker,
    },
    transition::lock_job,
    workers::states_before,
};
use crate::policy::Stop;

/// How often a worker may get another attempt while its session is being opened.
const TRIES: usize = 8;

/// What an agent is given to do.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) key: AttemptKey,
    pub(crate) spec: JobSpec,
    pub(crate) correlation_id: String,
}

/// What became of an attempt that an idle worker's agent was to be given.
#[derive(Debug)]
pub(crate) enum Next {
    Given(Box<Work>),
    /// It has ended, or begun, meanwhile.
    Over,
    /// Another stream speaks for the agent.
    Stale,
}

/// What an opened session goes on with.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) acked_sequence: u64,
    pub(crate) opening: Opening,
    /// What the agent holds is not its own any more.
    pub(crate) revoked: bool,
    /// The worker's latest attempt; `None` before its first.
    pub(crate) own: Option<Work>,
    /// Which of the worker's streams this is.
    pub(crate) session: Uuid,
    /// Seconds from the registration on, when this is the session that gets the assignment.
    pub(crate) registered_for: Option<f64>,
}

/// What a session has to know to tell its agent what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionView {
    pub(crate) worker: WorkerState,
    /// Its latest attempt; `None` before its first.
    pub(crate) attempt: Option<(AttemptKey, AttemptState)>,
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
                lease_until = now() + make_interval(secs => $4), state = $5,
                idle_since = CASE WHEN pooled AND job_id IS NULL THEN now() END
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
        if worker.idle_since.is_some() {
            notify(&mut *tx, Topic::Queue).await?;
        }
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

    /// Opens a session on a worker's latest attempt: assigns it, or finds where to go on. `None` when the
    /// worker or its attempt is not there any more.
    pub(crate) async fn open_session(
        &self,
        worker: &WorkerRow,
        held: Option<AttemptKey>,
        lease: Duration,
    ) -> Result<Option<Opened>, StoreError> {
        let mut latest = worker.attempt;
        for _ in 0..TRIES {
            let mut tx = self.pool.begin().await?;
            match open_on(&mut tx, worker, latest, held, lease).await? {
                Found::Opened(opened) => {
                    tx.commit().await?;
                    return Ok(Some(*opened));
                }
                Found::Other(other) => latest = other,
                Found::Nothing => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Gives an idle worker's agent, on its stream `session`, the attempt that the worker was bound to.
    pub(crate) async fn take_next(
        &self,
        worker: WorkerId,
        session: Uuid,
        key: AttemptKey,
    ) -> Result<Next, StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some(job) = lock_job(&mut tx, key.job).await? else { return Ok(Next::Over) };
        let attempt = lock_attempt(&mut tx, key).await?;
        let waits = |attempt: &AttemptRow| {
            attempt.worker == worker && attempt.state == AttemptState::Provisioning
        };
        if !attempt.as_ref().is_some_and(waits) {
            return Ok(Next::Over);
        }
        assign(&mut tx, worker, key).await?;
        let own = sqlx::query("SELECT 1 FROM workers WHERE id = $1 AND session = $2 FOR SHARE")
            .bind(worker.as_uuid())
            .bind(session)
            .fetch_optional(&mut *tx)
            .await?;
        if own.is_none() {
            return Ok(Next::Stale);
        }
        tx.commit().await?;
        Ok(Next::Given(Box::new(Work { key, spec: job.spec, correlation_id: job.correlation_id })))
    }

    /// The worker was heard of, and what its clock says, where that is known.
    pub(crate) async fn renew_lease(
        &self,
        worker: WorkerId,
        lease: Duration,
        clock_offset: Option<SignedDuration>,
    ) -> Result<(), StoreError> {
        let offset = clock_offset.map(|offset| i64::try_from(offset.as_millis()));
        sqlx::query(
            "UPDATE workers SET lease_until = now() + make_interval(secs => $2),
                clock_offset_ms = COALESCE($3, clock_offset_ms) WHERE id = $1",
        )
        .bind(worker.as_uuid())
        .bind(lease.as_secs_f64())
        .bind(offset.and_then(Result::ok))
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
            "SELECT w.state AS worker, w.job_id, w.epoch, a.stop, a.state FROM workers w
             LEFT JOIN attempts a ON a.job_id = w.job_id AND a.epoch = w.epoch WHERE w.id = $1",
        )
        .bind(worker.as_uuid())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| {
            let key = read_optional_key(&row)?;
            let attempt = key.map(|key| Ok::<_, StoreError>((key, read_attempt_state(&row)?)));
            Ok(SessionView {
                worker: read_state(&row, "worker", "worker state")?,
                attempt: attempt.transpose()?,
                stop: read_stop(&row)?,
            })
        })
        .transpose()
    }
}

/// What was found where a session was to be opened.
enum Found {
    Opened(Box<Opened>),
    /// The worker has another attempt by now.
    Other(Option<AttemptKey>),
    Nothing,
}

async fn open_on(
    tx: &mut PgTransaction<'_>,
    worker: &WorkerRow,
    latest: Option<AttemptKey>,
    held: Option<AttemptKey>,
    lease: Duration,
) -> Result<Found, StoreError> {
    let mut locked = None;
    if let Some(key) = latest {
        let Some(job) = lock_job(tx, key.job).await? else { return Ok(Found::Nothing) };
        let Some(attempt) = lock_attempt(tx, key).await? else { return Ok(Found::Nothing) };
        locked = Some((job, attempt));
    }
    let own = locked.as_ref().map(|(_, attempt)| (attempt.key, attempt.state));
    let (revoked, opening) = match open(own, held) {
        // An agent that takes one job after another goes on with the next.
        Opening::Revoke if worker.pooled => (true, open(own, None)),
        opening => (opening == Opening::Revoke, opening),
    };
    if let Some((job, attempt)) = &mut locked {
        match opening {
            Opening::Assign => assign(tx, worker.id, attempt.key).await?,
            // The agent has it, whether or not its word of that got through.
            Opening::Resume if attempt.state.can_become(AttemptState::Running) => {
                if matches!(job.state, JobState::Starting | JobState::Cancelling) {
                    start(tx, job, attempt.key).await?;
                }
            }
            _ => {}
        }
    }
    let session = Uuid::new_v4();
    let row = sqlx::query(
        "UPDATE workers SET lease_until = now() + make_interval(secs => $2), session = $3 WHERE id = $1
         RETURNING EXTRACT(EPOCH FROM now() - registered_at)::float8 AS registered_for, job_id, epoch",
    )
    .bind(worker.id.as_uuid())
    .bind(lease.as_secs_f64())
    .bind(session)
    .fetch_one(&mut **tx)
    .await?;
    let other = read_optional_key(&row)?;
    if other != latest {
        return Ok(Found::Other(other));
    }
    // Of a worker that was made for a job: its first session gets the assignment.
    let first = |attempt: &AttemptRow| {
        opening == Opening::Assign && attempt.state == AttemptState::Provisioning && !attempt.warm
    };
    let first = locked.as_ref().is_some_and(|(_, attempt)| first(attempt));
    let registered_for = row.try_get::<Option<f64>, _>("registered_for")?.filter(|_| first);
    let resumed = locked.as_ref().filter(|(_, attempt)| held == Some(attempt.key));
    let acked_sequence = resumed.map_or(0, |(_, attempt)| attempt.log_sequence);
    let own = locked.map(|(job, attempt)| Work {
        key: attempt.key,
        spec: job.spec,
        correlation_id: job.correlation_id,
    });
    let opened = Opened { acked_sequence, opening, revoked, own, session, registered_for };
    Ok(Found::Opened(Box::new(opened)))
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

//! What jobs wait for at present, for a person to read. A reason is written only when it changes, with
//! its event, so that looking often costs nothing.

use std::time::Duration;

use hodei_core::{
    id::{AttemptKey, JobId, WorkerId},
    job::JobState,
    provider::WorkerHandle,
};
use sqlx::Row;
use uuid::Uuid;

use super::{
    Store, StoreError,
    rows::read_key,
    transition::{lock_job, note},
};

/// An attempt whose worker takes its time to start.
#[derive(Debug)]
pub(crate) struct SlowStart {
    pub(crate) key: AttemptKey,
    pub(crate) provider: String,
    pub(crate) handle: WorkerHandle,
    pub(crate) registered: bool,
    /// What the job is said to wait for now.
    pub(crate) reason: String,
}

impl Store {
    /// A queued job waits for this. `refused`: because a provider that could run it takes no work now;
    /// the first such refusal is remembered.
    pub(crate) async fn note_queued(
        &self,
        id: JobId,
        reason: &str,
        refused: bool,
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some(mut job) = lock_job(&mut tx, id).await? else { return Ok(()) };
        if job.state != JobState::Queued {
            return Ok(());
        }
        if refused && job.refused_since.is_none() {
            sqlx::query("UPDATE jobs SET refused_since = now() WHERE id = $1")
                .bind(id.as_uuid())
                .execute(&mut *tx)
                .await?;
        }
        note(&mut tx, &mut job, reason).await?;
        Ok(tx.commit().await?)
    }

    /// The job of a starting attempt waits for this.
    pub(crate) async fn note_starting(
        &self,
        key: AttemptKey,
        reason: &str,
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some(mut job) = lock_job(&mut tx, key.job).await? else { return Ok(()) };
        if job.state == JobState::Starting && job.epoch == key.epoch {
            note(&mut tx, &mut job, reason).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// A worker was created for a job that was refused one before: it waits for that no more.
    pub(crate) async fn room_found(&self, key: AttemptKey) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some(mut job) = lock_job(&mut tx, key.job).await? else { return Ok(()) };
        if job.state != JobState::Starting || job.epoch != key.epoch {
            return Ok(());
        }
        sqlx::query("UPDATE jobs SET refused_since = NULL WHERE id = $1")
            .bind(key.job.as_uuid())
            .execute(&mut *tx)
            .await?;
        note(&mut tx, &mut job, "").await?;
        Ok(tx.commit().await?)
    }

    /// Attempts that start for at least `age` and whose worker was created; the oldest first.
    pub(crate) async fn slow_starts(&self, age: Duration) -> Result<Vec<SlowStart>, StoreError> {
        let rows = sqlx::query(
            "SELECT a.job_id, a.epoch, a.worker_id, a.provider, w.resource, w.resource_uid, j.reason,
                w.registered_at IS NOT NULL AS registered
             FROM attempts a JOIN workers w ON w.id = a.worker_id JOIN jobs j ON j.id = a.job_id
             WHERE a.state IN ('provisioning', 'assigned') AND j.state = 'starting'
               AND w.resource IS NOT NULL AND a.created_at <= now() - make_interval(secs => $1)
             ORDER BY a.created_at LIMIT 500",
        )
        .bind(age.as_secs_f64())
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(SlowStart {
                    key: read_key(row)?,
                    provider: row.try_get("provider")?,
                    handle: WorkerHandle {
                        worker: WorkerId::from(row.try_get::<Uuid, _>("worker_id")?),
                        resource: row.try_get("resource")?,
                        uid: row.try_get("resource_uid")?,
                    },
                    registered: row.try_get("registered")?,
                    reason: row.try_get("reason")?,
                })
            })
            .collect()
    }
}

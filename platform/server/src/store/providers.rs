//! Registered providers.

use hodei_core::id::ProviderId;
use jiff::Timestamp;
use serde_json::Value;
use sqlx::{Row, postgres::PgRow, types::Json};

use super::{
    Store, StoreError,
    notify::{Topic, notify},
    pool::close_pool,
    rows::{time, unreadable},
};
use crate::pool::Pool;

/// One registered provider.
#[derive(Debug, Clone)]
pub(crate) struct ProviderRow {
    pub(crate) id: ProviderId,
    pub(crate) kind: String,
    /// `true`: settings come from this server's environment, and `config` is empty.
    pub(crate) from_environment: bool,
    pub(crate) config: Value,
    pub(crate) pool: Option<Pool>,
    pub(crate) created_at: Timestamp,
}

/// What became of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    Removed,
    Unknown,
    /// It still has this many workers.
    InUse(i64),
    /// It had only these, all without a job: its pool was closed, and they are on their way out.
    Draining(i64),
}

fn read_provider(row: &PgRow) -> Result<ProviderRow, StoreError> {
    let name: String = row.try_get("name")?;
    Ok(ProviderRow {
        id: name.parse().map_err(|_| unreadable("provider", &name))?,
        kind: row.try_get("kind")?,
        from_environment: row.try_get::<&str, _>("source")? == "environment",
        config: row.try_get::<Json<Value>, _>("config")?.0,
        pool: row.try_get::<Option<Json<Pool>>, _>("pool")?.map(|pool| pool.0),
        created_at: time(row, "created_at")?,
    })
}

impl Store {
    /// Every registered provider, by name.
    pub(crate) async fn providers(&self) -> Result<Vec<ProviderRow>, StoreError> {
        sqlx::query("SELECT * FROM providers ORDER BY name")
            .fetch_all(&self.pool)
            .await?
            .iter()
            .map(read_provider)
            .collect()
    }

    /// Registered providers by name, after `after`.
    pub(crate) async fn list_providers(
        &self,
        after: Option<&ProviderId>,
        limit: u32,
    ) -> Result<Vec<ProviderRow>, StoreError> {
        sqlx::query("SELECT * FROM providers WHERE $1 IS NULL OR name > $1 ORDER BY name LIMIT $2")
            .bind(after.map(ProviderId::as_str))
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?
            .iter()
            .map(read_provider)
            .collect()
    }

    /// One provider.
    pub(crate) async fn provider(
        &self,
        id: &ProviderId,
    ) -> Result<Option<ProviderRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM providers WHERE name = $1")
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(read_provider).transpose()
    }

    /// Stores a provider unless there is one of that name; returns the one that is there now.
    pub(crate) async fn add_provider(
        &self,
        id: &ProviderId,
        kind: &str,
        from_environment: bool,
        config: &Value,
        pool: Option<Pool>,
    ) -> Result<ProviderRow, StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query(
            "INSERT INTO providers (name, kind, source, config, pool) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (name) DO NOTHING",
        )
        .bind(id.as_str())
        .bind(kind)
        .bind(if from_environment { "environment" } else { "api" })
        .bind(Json(config))
        .bind(pool.map(Json))
        .execute(&mut *tx)
        .await?;
        let row = sqlx::query("SELECT * FROM providers WHERE name = $1")
            .bind(id.as_str())
            .fetch_one(&mut *tx)
            .await?;
        notify(&mut *tx, Topic::Providers).await?;
        tx.commit().await?;
        read_provider(&row)
    }

    /// Removes a provider that has no worker left; where there are only idle ones of its pool, has them go
    /// first. The workers it had keep its name.
    pub(crate) async fn remove_provider(&self, id: &ProviderId) -> Result<Removal, StoreError> {
        let mut tx = self.pool.begin().await?;
        let known = sqlx::query("SELECT pool FROM providers WHERE name = $1 FOR UPDATE")
            .bind(id.as_str())
            .fetch_optional(&mut *tx)
            .await?;
        let Some(known) = known else { return Ok(Removal::Unknown) };
        let row = sqlx::query(
            "SELECT count(*) AS live, count(*) FILTER (WHERE state <> 'terminating'
                AND NOT (pooled AND (idle_since IS NOT NULL OR job_id IS NULL))) AS at_work
             FROM workers WHERE provider = $1 AND state <> 'terminated'",
        )
        .bind(id.as_str())
        .fetch_one(&mut *tx)
        .await?;
        let (live, at_work): (i64, i64) = (row.try_get("live")?, row.try_get("at_work")?);
        if live > 0 {
            if at_work > 0 || known.try_get::<Option<Json<Pool>>, _>("pool")?.is_none() {
                return Ok(Removal::InUse(live));
            }
            close_pool(&mut tx, id).await?;
            tx.commit().await?;
            return Ok(Removal::Draining(live));
        }
        sqlx::query("DELETE FROM providers WHERE name = $1")
            .bind(id.as_str())
            .execute(&mut *tx)
            .await?;
        notify(&mut *tx, Topic::Providers).await?;
        tx.commit().await?;
        Ok(Removal::Removed)
    }
}

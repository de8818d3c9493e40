//! Registered providers.

use hodei_core::id::ProviderId;
use jiff::Timestamp;
use serde_json::Value;
use sqlx::{Row, postgres::PgRow, types::Json};

use super::{
    Store, StoreError,
    notify::{Topic, notify},
    rows::{time, unreadable},
};

/// One registered provider.
#[derive(Debug, Clone)]
pub(crate) struct ProviderRow {
    pub(crate) id: ProviderId,
    pub(crate) kind: String,
    /// `true`: settings come from this server's environment, and `config` is empty.
    pub(crate) from_environment: bool,
    pub(crate) config: Value,
    pub(crate) created_at: Timestamp,
}

/// What became of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    Removed,
    Unknown,
    /// It still has this many workers.
    InUse(i64),
}

fn read_provider(row: &PgRow) -> Result<ProviderRow, StoreError> {
    let name: String = row.try_get("name")?;
    Ok(ProviderRow {
        id: name.parse().map_err(|_| unreadable("provider", &name))?,
        kind: row.try_get("kind")?,
        from_environment: row.try_get::<&str, _>("source")? == "environment",
        config: row.try_get::<Json<Value>, _>("config")?.0,
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
    ) -> Result<ProviderRow, StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query(
            "INSERT INTO providers (name, kind, source, config) VALUES ($1, $2, $3, $4)
             ON CONFLICT (name) DO NOTHING",
        )
        .bind(id.as_str())
        .bind(kind)
        .bind(if from_environment { "environment" } else { "api" })
        .bind(Json(config))
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

    /// Removes a provider that has no worker left. The workers it had keep its name.
    pub(crate) async fn remove_provider(&self, id: &ProviderId) -> Result<Removal, StoreError> {
        let mut tx = self.pool.begin().await?;
        let known = sqlx::query("SELECT 1 FROM providers WHERE name = $1 FOR UPDATE")
            .bind(id.as_str())
            .fetch_optional(&mut *tx)
            .await?;
        if known.is_none() {
            return Ok(Removal::Unknown);
        }
        let live: i64 = sqlx::query(
            "SELECT count(*) AS n FROM workers WHERE provider = $1 AND state <> 'terminated'",
        )
        .bind(id.as_str())
        .fetch_one(&mut *tx)
        .await?
        .try_get("n")?;
        if live > 0 {
            return Ok(Removal::InUse(live));
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

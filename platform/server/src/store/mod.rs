//! The control plane's state in PostgreSQL.
//!
//! Each public operation is one transaction. A job's state changes only in [`transition`], through
//! `hodei_core`'s machine, together with its row in `job_events` and a notification to every replica; so
//! does the reason it waits for.
//! Lock order: jobs, then providers, then attempts, then workers. A worker that is idle may be locked before
//! its next attempt is written: nobody else can have that one.

pub(crate) mod archive;
pub(crate) mod attempts;
pub(crate) mod audit;
pub(crate) mod claim;
pub(crate) mod deadlines;
pub(crate) mod drain;
pub(crate) mod jobs;
pub(crate) mod logs;
pub(crate) mod notify;
pub(crate) mod pool;
pub(crate) mod providers;
pub(crate) mod retention;
pub(crate) mod retry;
pub(crate) mod rows;
pub(crate) mod sessions;
mod trace;
pub(crate) mod transition;
pub(crate) mod waiting;
pub(crate) mod workers;

use std::time::Duration;

use hodei_core::job::InvalidTransition;
use sqlx::{
    PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::trace::Traces;

/// The schema, brought up to date under sqlx's advisory lock.
pub(crate) static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// How the store failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// PostgreSQL refused, or does not answer.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("migration: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A row holds what this build does not understand.
    #[error("the database holds an unknown {what}: {text:?}")]
    Unreadable { what: &'static str, text: String },
    /// The state machine does not allow it.
    #[error(transparent)]
    Transition(#[from] InvalidTransition),
    /// A value could not be written as JSON.
    #[error("cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// The database, as the rest of the server sees it.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pub(crate) pool: PgPool,
    /// What makes spans of the attempts that end here.
    pub(crate) traces: Traces,
}

impl Store {
    /// Connects with at most `connections` connections, one of which listens.
    pub(crate) async fn connect(url: &str, connections: u32) -> Result<Self, StoreError> {
        let options: PgConnectOptions = url.parse()?;
        let options = options.application_name("hodei-server");
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(Duration::from_secs(10))
            .connect_with(options)
            .await?;
        Ok(Self { pool, traces: Traces::default() })
    }

    /// Brings the schema up to date. Several replicas may do so at once.
    pub(crate) async fn migrate(&self) -> Result<(), StoreError> {
        Ok(MIGRATIONS.run(&self.pool).await?)
    }

    /// Whether the database answers.
    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }
}

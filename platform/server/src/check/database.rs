//! The database: whether it answers, and which schema it has.

use std::time::Duration;

use sqlx::Row;
use tokio::time::timeout;

use super::{Finding, Status, settings::STAND_IN};
use crate::{
    config::Config,
    store::{MIGRATIONS, Store, StoreError},
};

const NAME: &str = "database";
const SCHEMA: &str = "schema";
const LOGS: &str = "log store";
/// How long the database may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was found, and the store where there is one with today's schema.
pub(super) async fn check(config: &Config) -> (Vec<Finding>, Option<Store>) {
    let url = config.database_url.expose();
    if url == STAND_IN {
        return (vec![Finding::new(NAME, Status::Skipped, "no URL")], None);
    }
    let connecting = timeout(PATIENCE, Store::connect(url, 2)).await;
    let finding = match connecting {
        Ok(Ok(store)) => return look(store).await,
        Ok(Err(error @ StoreError::Database(sqlx::Error::Configuration(_)))) => {
            Finding::new(NAME, Status::Wrong, error)
        }
        Ok(Err(error)) => Finding::new(NAME, Status::Unavailable, error),
        Err(_) => {
            Finding::new(NAME, Status::Unavailable, format_args!("no answer within {PATIENCE:?}"))
        }
    };
    (vec![finding], None)
}

async fn look(store: Store) -> (Vec<Finding>, Option<Store>) {
    let version = sqlx::query("SELECT current_setting('server_version') AS version");
    let answers = match version.fetch_one(&store.pool).await {
        Ok(row) => {
            let version: String = row.try_get("version").unwrap_or_default();
            Finding::new(NAME, Status::Ok, format_args!("PostgreSQL {version} answers"))
        }
        Err(error) => Finding::new(NAME, Status::Unavailable, error),
    };
    if answers.status != Status::Ok {
        return (vec![answers], None);
    }
    let schema = match schema(&store).await {
        Ok((status, detail)) => Finding::new(SCHEMA, status, detail),
        Err(error) => Finding::new(SCHEMA, Status::Unavailable, error),
    };
    if schema.status != Status::Ok {
        return (vec![answers, schema], None);
    }
    let reading = sqlx::query("SELECT 1 FROM log_chunks LIMIT 1").execute(&store.pool).await;
    let logs = match reading {
        Ok(_) => Finding::new(LOGS, Status::Ok, "in the database"),
        Err(error) => Finding::new(LOGS, Status::Unavailable, error),
    };
    (vec![answers, schema, logs], Some(store))
}

/// What a server that starts would do with the schema.
async fn schema(store: &Store) -> Result<(Status, String), sqlx::Error> {
    let known = sqlx::query("SELECT to_regclass('_sqlx_migrations') IS NOT NULL AS known");
    if !known.fetch_one(&store.pool).await?.try_get::<bool, _>("known")? {
        let detail = "there is none yet; the server makes it when it starts";
        return Ok((Status::Warning, detail.to_owned()));
    }
    let rows =
        sqlx::query("SELECT version, success, checksum FROM _sqlx_migrations ORDER BY version");
    let mut applied = 0;
    for row in rows.fetch_all(&store.pool).await? {
        let version: i64 = row.try_get("version")?;
        let Some(ours) = MIGRATIONS.iter().find(|migration| migration.version == version) else {
            let detail = format!("version {version} is of a later server than this one");
            return Ok((Status::Wrong, detail));
        };
        if !row.try_get::<bool, _>("success")? {
            return Ok((Status::Wrong, format!("version {version} was left half applied")));
        }
        if row.try_get::<Vec<u8>, _>("checksum")? != *ours.checksum {
            return Ok((Status::Wrong, format!("version {version} is not the one of this server")));
        }
        applied += 1;
    }
    let all = MIGRATIONS.iter().count();
    Ok(if applied == all {
        (Status::Ok, format!("up to date: all {all} versions are applied"))
    } else {
        let left = all - applied;
        (Status::Warning, format!("{left} of {all} versions are applied when the server starts"))
    })
}

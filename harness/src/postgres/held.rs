//! What keeps a server from its database: rows that are locked, and a database that is closed.

use sqlx::{AssertSqlSafe, PgConnection};

use super::{close, connect, execute, quoted};
use crate::environment::SecretUrl;
use crate::failure::{Classify, FailureClass, HarnessError, Result};

/// Lets a database be connected to, or ends its connections and refuses new ones.
///
/// # Errors
/// The server does not answer.
pub async fn open_database(admin_url: &SecretUrl, name: &str, open: bool) -> Result<()> {
    let mut admin = connect(admin_url).await?;
    let name = quoted(name)?;
    execute(&mut admin, &format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS {open}")).await?;
    if !open {
        let name = name.replace('"', "'");
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {name}"
        );
        execute(&mut admin, &sql).await?;
    }
    close(admin).await;
    Ok(())
}

/// Rows that are held until this is released or dropped.
#[derive(Debug)]
pub struct HeldRows(PgConnection);

impl HeldRows {
    /// Lets go of the rows.
    pub async fn release(self) {
        close(self.0).await;
    }
}

/// Holds the rows that `sql` locks.
///
/// # Errors
/// The query is wrong, names no row, or the server does not answer.
pub async fn hold_rows(url: &SecretUrl, sql: &str) -> Result<HeldRows> {
    let mut connection = connect(url).await?;
    execute(&mut connection, "BEGIN").await?;
    let held = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut connection).await;
    let held = held.infrastructure("hold", format!("{sql:?}"))?;
    if held.is_empty() {
        let class = FailureClass::Harness;
        return Err(HarnessError::new(class, "hold", format!("{sql:?}"), "it names no row"));
    }
    Ok(HeldRows(connection))
}

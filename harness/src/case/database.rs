//! What a case may do to its own database: hold rows so that whoever writes them waits, and take the
//! whole of it away for a while.

use std::time::Duration;

use super::CaseEnv;
use crate::failure::Result;
use crate::postgres::{self, HeldRows};
use crate::wait::{Observed, await_until};

/// From an action to the write that it leads to.
const BLOCKED_DEADLINE: Duration = Duration::from_secs(60);

impl CaseEnv {
    /// Holds the rows that `sql` (a SELECT … FOR UPDATE) names until what is returned is released:
    /// whoever writes one waits.
    ///
    /// # Errors
    /// The query is wrong, names no row, or the database does not answer.
    pub async fn hold_rows(&self, sql: &str) -> Result<HeldRows> {
        postgres::hold_rows(&self.stack()?.database.url, sql).await
    }

    /// Waits until a statement that contains `fragment` waits for a held row.
    ///
    /// # Errors
    /// None does within a minute.
    pub async fn await_blocked(&self, fragment: &str) -> Result<()> {
        let what = format!("a statement with {fragment:?} to wait for a held row");
        await_until(what, BLOCKED_DEADLINE, async || {
            let waiting = self
                .rows(
                    "SELECT query FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event_type = 'Lock'",
                )
                .await?;
            let text = format!("{waiting:?}");
            Ok(if text.contains(fragment) { Observed::Ready(()) } else { Observed::NotYet(text) })
        })
        .await
    }

    /// Takes the case's database away: its connections break, and new ones are refused.
    ///
    /// # Errors
    /// Postgres does not answer.
    pub async fn take_database(&self) -> Result<()> {
        self.open_database(false).await
    }

    /// Gives the case's database back.
    ///
    /// # Errors
    /// Postgres does not answer.
    pub async fn give_database(&self) -> Result<()> {
        self.open_database(true).await
    }

    async fn open_database(&self, open: bool) -> Result<()> {
        let admin_url = &self.environment.postgres.admin_url;
        postgres::open_database(admin_url, &self.stack()?.database.name, open).await
    }
}

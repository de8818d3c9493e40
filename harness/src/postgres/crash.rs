//! A crash of Postgres in the middle of its work: every connection is cut, shared memory is thrown
//! away, and what was committed comes back from the write-ahead log.

use std::time::Duration;

use super::{connect, execute};
use crate::environment::SecretUrl;
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::progress::Progress;
use crate::wait::{Observed, Wait};

/// From the crash to the first answer; recovery replays at most a few checkpoints.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(60);
/// Postgres treats the end of any of its own processes by SIGKILL as a crash of all.
const CHECKPOINTER: &str = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'";

/// Makes the server crash and waits until it answers again. It needs a superuser, and `kill` on the
/// server's side; neither a container nor a local server lacks one.
///
/// # Errors
/// The role may not do that, or the server does not come back within a minute.
pub async fn crash(admin_url: &SecretUrl) -> Result<()> {
    let subject = "Postgres";
    let mut admin = connect(admin_url).await?;
    let victim = sqlx::query_scalar::<_, i32>(CHECKPOINTER).fetch_one(&mut admin).await;
    let victim = victim.infrastructure("find the checkpointer of", subject)?;
    // This connection is cut by the crash too, so its answer says nothing.
    let shot = format!("COPY (SELECT 1) TO PROGRAM 'kill -KILL {victim}'");
    if let Err(error) = execute(&mut admin, &shot).await {
        tracing::debug!(%error, "the connection that made the crash ended with it");
    }
    let wait = Wait::infrastructure("Postgres to be back after a crash", RECOVERY_DEADLINE);
    wait.until(&Progress::silent().unlisted(), async || {
        let mut admin = match connect(admin_url).await {
            Ok(admin) => admin,
            Err(error) => return Ok(Observed::NotYet(error.to_string())),
        };
        match sqlx::query_scalar::<_, i32>(CHECKPOINTER).fetch_optional(&mut admin).await {
            Ok(Some(now)) if now != victim => Ok(Observed::Ready(())),
            Ok(Some(_)) => Ok(Observed::NotYet("the killed process is still there".to_owned())),
            Ok(None) => Ok(Observed::NotYet("it has no checkpointer yet".to_owned())),
            Err(error) => Ok(Observed::NotYet(error.to_string())),
        }
    })
    .await
    .map_err(|error| HarnessError::new(FailureClass::Infrastructure, "crash", subject, error))
}

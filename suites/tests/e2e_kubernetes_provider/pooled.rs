//! What is asked of pooled workers and told to them, for the cases about pools.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};
use hodei_harness::case::{CaseEnv, PROVIDER};
use hodei_harness::wait::{Observed, await_until};
use hodei_proto::v1::{Job, JobState};
use serde_json::{Value, json};
use tokio::process::Command;

/// For pods that start or go, on a busy two-core machine.
const DEADLINE: Duration = Duration::from_secs(90);
/// The command a person types, at most.
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

/// A job that ends only when it is cancelled.
pub(crate) const ENDLESS: [&str; 2] = ["sleep", "600"];

/// Waits until a query finds these rows.
pub(crate) async fn await_rows(env: &CaseEnv, sql: &str, wanted: &[Value]) -> Result<()> {
    let found = await_until(format!("{wanted:?} of {sql}"), DEADLINE, async || {
        let rows = env.rows(sql).await?;
        let is_so = rows == wanted;
        Ok(if is_so { Observed::Ready(()) } else { Observed::NotYet(format!("{rows:?}")) })
    });
    Ok(found.await?)
}

/// Waits until the pool has so many workers, all of them idle and none of `gone`; answers their ids.
pub(crate) async fn await_idle(env: &CaseEnv, count: usize, gone: &[&str]) -> Result<Vec<String>> {
    let sql = "SELECT id, idle_since IS NOT NULL AS idle FROM workers WHERE state <> 'terminated'
               ORDER BY id";
    let idle = await_until(format!("{count} idle workers"), DEADLINE, async || {
        let rows = env.rows(sql).await?;
        let is_idle = |row: &Value| row["idle"] == json!(true);
        let ids: Vec<_> = rows.iter().filter_map(|row| row["id"].as_str()).collect();
        let is_so = rows.len() == count
            && rows.iter().all(is_idle)
            && !ids.iter().any(|id| gone.contains(id));
        let ids = ids.into_iter().map(str::to_owned).collect();
        Ok(if is_so { Observed::Ready(ids) } else { Observed::NotYet(format!("{rows:?}")) })
    });
    Ok(idle.await?)
}

/// How many workers have gone for a reason.
pub(crate) async fn await_retired(env: &CaseEnv, reason: &str, count: usize) -> Result<()> {
    let sql = format!(
        "SELECT count(*) AS n FROM workers WHERE state = 'terminated' AND reason = '{reason}'"
    );
    await_rows(env, &sql, &[json!({"n": count})]).await
}

/// Waits until a job waits for a worker of the pool, and says so.
pub(crate) async fn await_waiting(env: &CaseEnv, job: &Job) -> Result<()> {
    let reason = format!("waiting: for a worker of the pool of {PROVIDER}");
    let says_so = |job: &Job| job.state() == JobState::Queued && job.reason == reason;
    env.await_job(&job.id, "waiting for the pool", DEADLINE, says_so).await?;
    Ok(())
}

/// Runs `hodei` as a person would; answers what it printed.
pub(crate) async fn hodei(env: &mut CaseEnv, arguments: &[&str]) -> Result<String> {
    let rest = env.server()?.rest_url();
    let mut command = Command::new(&env.environment().programs.cli);
    command.args(["--rest", rest.as_str()]).args(arguments).env_clear();
    command.stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(COMMAND_DEADLINE, command.output()).await??;
    let (said, problem) =
        (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    ensure!(ended.status.success(), "hodei {arguments:?} ended {}: {problem}", ended.status);
    Ok(said.into_owned())
}

/// Takes the provider its pool, and waits until the last worker is gone.
pub(crate) async fn clear_pool(env: &mut CaseEnv) -> Result<()> {
    hodei(env, &["provider", "pool", "clear", PROVIDER]).await?;
    Ok(env.await_gone().await?)
}

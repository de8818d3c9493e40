//! Removes what was kept for long enough: first the output of jobs, then the jobs.

use std::time::Duration;

use hodei_core::id::AttemptKey;

use super::{
    archive::{ArchiveError, Pass, pass, pause_after},
    follow::Logs,
};
use crate::{
    config::LogConfig,
    store::{StoreError, archive::LogWork},
};

/// Rows that one statement marks or deletes.
const BATCH: i64 = 200;
/// Segments that one step removes.
const SEGMENTS: i64 = 32;
/// Chunks that one step removes.
const CHUNKS: u32 = 5_000;
/// How often is looked for what was kept for long enough.
const POLL: Duration = Duration::from_secs(30);

/// How long things are kept; `None`: for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Periods {
    pub(crate) logs: Option<Duration>,
    pub(crate) jobs: Option<Duration>,
}

impl From<&LogConfig> for Periods {
    /// A job takes its output with it.
    fn from(config: &LogConfig) -> Self {
        let (logs, jobs) = (config.log_retention.0, config.job_retention.0);
        Self { logs: logs.into_iter().chain(jobs).min(), jobs }
    }
}

/// Removes some of an attempt's output that is marked as removed. Objects go before the rows that name
/// them, so that none is forgotten; last come those that no row ever named.
pub(super) async fn step(logs: &Logs, key: AttemptKey) -> Result<(), ArchiveError> {
    let store = &logs.store;
    let doomed = store.some_segments(key, SEGMENTS).await?;
    for object in &doomed.objects {
        logs.archive.store_at(&object.store)?.delete(&object.name).await?;
    }
    store.forget_segments(key, &doomed.firsts).await?;
    let chunks = store.delete_chunks(key, CHUNKS).await?;
    let done = doomed.firsts.is_empty() && chunks == 0;
    if done {
        if let Some(objects) = logs.archive.target() {
            objects.sweep(key).await?;
        }
        metrics::counter!("hodei_logs_removed_total").increment(1);
    }
    Ok(store.log_removal_went_on(key, done).await?)
}

/// Marks what is to go, and deletes the jobs whose output is gone already.
pub(crate) async fn expire(logs: &Logs, periods: Periods) -> Result<Pass, StoreError> {
    let (mut more, store) = (false, &logs.store);
    if let Some(period) = periods.logs {
        more |= store.expire_logs(period, BATCH).await? > 0;
    }
    if let Some(period) = periods.jobs {
        let removed = store.remove_jobs(period, BATCH).await?;
        metrics::counter!("hodei_jobs_removed_total").increment(removed);
        let others = store.remove_workers(period, BATCH).await?;
        more |= removed + others + store.remove_audit(period, BATCH).await? > 0;
    }
    Ok(if more { Pass::Worked } else { Pass::Idle })
}

/// Removes what was kept for long enough, as long as the server runs.
pub(crate) async fn run(logs: Logs, periods: Periods) {
    let mut failures = 0;
    loop {
        let expired = expire(&logs, periods).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "what was kept for long enough could not be looked up");
            Pass::Failed
        });
        let removed = pass(&logs, LogWork::Remove, Duration::ZERO).await;
        let passed = match (expired, removed) {
            (Pass::Failed, _) | (_, Pass::Failed) => Pass::Failed,
            (Pass::Idle, Pass::Idle) => Pass::Idle,
            _ => Pass::Worked,
        };
        tokio::time::sleep(pause_after(passed, &mut failures, POLL)).await;
    }
}

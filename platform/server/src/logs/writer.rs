//! Stores the frames of one live log, a batch in a transaction, and says what is durable.

use std::{sync::Arc, time::Duration};

use super::live::{LiveLog, LiveLogs};
use crate::{
    policy::backoff,
    store::{
        Store,
        notify::{Hub, Topic},
    },
};

/// How long a small batch waits for more, unless somebody waits for it.
const GATHER: Duration = Duration::from_millis(15);
/// How often the attempt's end is looked for beside notifications.
const SLOW_POLL: Duration = Duration::from_secs(15);

/// Runs until the attempt has ended or another server has its agent.
pub(crate) async fn write(store: Store, hub: Arc<Hub>, logs: Arc<LiveLogs>, log: Arc<LiveLog>) {
    let mut arrivals = log.arrivals();
    let mut job = hub.subscribe(Topic::Job(log.key.job));
    let mut failures = 0;
    while !log.is_closed() {
        arrivals.mark_unchanged();
        let frames = log.unsaved();
        let Some(last) = frames.last().map(|frame| frame.sequence) else {
            tokio::select! {
                _ = arrivals.changed() => gather(&log).await,
                _ = job.changed() => close_if_over(&store, &log).await,
                () = tokio::time::sleep(SLOW_POLL) => close_if_over(&store, &log).await,
            }
            continue;
        };
        match store.append_logs(log.key, log.worker, frames).await {
            Ok(true) => {
                failures = 0;
                log.saved(last);
            }
            Ok(false) => {
                tracing::debug!(attempt = %log.key, "the log goes on elsewhere, or has ended");
                log.close();
            }
            Err(error) => {
                tracing::warn!(attempt = %log.key, %error, "log frames wait for the database");
                tokio::time::sleep(backoff(failures)).await;
                failures += 1;
            }
        }
    }
    logs.forget(&log);
}

async fn gather(log: &LiveLog) {
    if log.little_unsaved() {
        tokio::select! {
            () = tokio::time::sleep(GATHER) => {}
            () = log.flush_requested() => {}
        }
    }
}

async fn close_if_over(store: &Store, log: &LiveLog) {
    match store.log_position(log.key).await {
        Ok(Some(position)) if !position.state.is_final() => {}
        Ok(_) => log.close(),
        Err(error) => tracing::debug!(attempt = %log.key, %error, "the log's end is not known"),
    }
}

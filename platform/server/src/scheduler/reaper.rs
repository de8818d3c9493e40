//! Destroys the workers that are to go, again and again until the provider confirms that nothing of
//! them is left.

use std::{sync::Arc, time::Duration};

use hodei_core::provider::{WorkerHandle, WorkerProvider};
use tokio::{
    sync::Semaphore,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

use crate::{
    app::App,
    policy::backoff,
    store::{
        StoreError,
        notify::{Topic, changed_within},
        rows::WorkerRow,
    },
};

/// Destructions at once.
const AT_ONCE: usize = 32;
/// Longest time one of them may take.
const DESTROY_TIMEOUT: Duration = Duration::from_secs(170);
/// How often the claim on a worker is renewed while it is destroyed: one that a dead server left is
/// soon another's.
const CLAIM_RENEWAL: Duration = Duration::from_secs(10);
/// How often is looked for more, beside being woken: a pause that is over wakes nobody.
const POLL: Duration = Duration::from_secs(1);
/// How often a stray is tried at once; the reconciler comes back to it.
const STRAY_TRIES: u32 = 3;

pub(super) async fn run(app: Arc<App>) {
    let mut doomed = app.hub.subscribe(Topic::Doomed);
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        doomed.mark_unchanged();
        let limit = u32::try_from(room.available_permits()).unwrap_or(u32::MAX);
        match app.store.claim_doomed(limit).await {
            Ok(workers) => {
                for worker in workers {
                    let Ok(permit) = room.clone().acquire_owned().await else { return };
                    let app = app.clone();
                    app.tasks.clone().spawn(async move {
                        destroy(&app, &worker).await;
                        drop(permit);
                    });
                }
            }
            Err(error) => tracing::warn!(%error, "doomed workers could not be looked up"),
        }
        drop(room.acquire().await);
        changed_within(&mut doomed, POLL).await;
    }
}

async fn destroy(app: &App, worker: &WorkerRow) {
    let id = worker.id;
    let problem = match while_claimed(app, worker, try_destroy(app, worker)).await {
        Ok(Destroyed::Kept) => return,
        Ok(Destroyed::Gone) => match terminated(app, worker).await {
            Ok(()) => {
                tracing::info!(worker_id = %id, "destroyed");
                return;
            }
            Err(error) => error.to_string(),
        },
        Err(problem) => problem,
    };
    metrics::counter!("hodei_destroy_failures_total").increment(1);
    let tries = app.store.destroy_failed(id).await.unwrap_or(0);
    tracing::warn!(worker_id = %id, tries, problem, "a worker could not be destroyed; trying again");
}

/// Does `work` with the claim on its worker kept up.
async fn while_claimed<T>(app: &App, worker: &WorkerRow, work: impl Future<Output = T>) -> T {
    let mut renewal = interval_at(Instant::now() + CLAIM_RENEWAL, CLAIM_RENEWAL);
    renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = renewal.tick() => {
                if let Err(error) = app.store.renew_destruction(worker.id).await {
                    tracing::warn!(%error, worker_id = %worker.id, "its claim could not be renewed");
                }
            }
        }
    }
}

enum Destroyed {
    Gone,
    /// It stays for somebody to look at; its time comes.
    Kept,
}

async fn try_destroy(app: &App, worker: &WorkerRow) -> Result<Destroyed, String> {
    let provider = worker.provider_id().map_err(|error| error.to_string())?;
    let entry = app.registry.get(&provider);
    let entry = entry.ok_or_else(|| format!("provider {provider} is not connected"))?;
    if let Some(period) = entry.provider.keeps_finished()
        && app.store.keep_finished(worker.id, period).await.map_err(|error| error.to_string())?
    {
        return Ok(Destroyed::Kept);
    }
    let destroyed = match worker.handle() {
        Some(handle) => timeout(DESTROY_TIMEOUT, entry.provider.destroy_worker(&handle)).await,
        None => timeout(DESTROY_TIMEOUT, entry.provider.destroy_unknown(worker.id)).await,
    };
    match destroyed {
        Ok(result) => result.map(|()| Destroyed::Gone).map_err(|error| error.to_string()),
        Err(_) => Err(format!("not confirmed within {DESTROY_TIMEOUT:?}")),
    }
}

async fn terminated(app: &App, worker: &WorkerRow) -> Result<(), StoreError> {
    // A worker that was never made leaves no room behind it: its quota is as full as before.
    if let (Ok(provider), Some(_)) = (worker.provider_id(), worker.handle()) {
        app.registry.resume(&provider);
    }
    app.store.worker_terminated(worker.id).await
}

/// Destroys what belongs to no worker of the database.
pub(super) async fn remove_stray(
    app: &App,
    provider: &Arc<dyn WorkerProvider>,
    handle: &WorkerHandle,
) {
    for tries in 0..STRAY_TRIES {
        match timeout(DESTROY_TIMEOUT, provider.destroy_worker(handle)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::warn!(worker_id = %handle.worker, %error, "a stray stays"),
            Err(_) => tracing::warn!(worker_id = %handle.worker, "a stray stays: no confirmation"),
        }
        if app.stop.run_until_cancelled(tokio::time::sleep(backoff(tries))).await.is_none() {
            return;
        }
    }
}

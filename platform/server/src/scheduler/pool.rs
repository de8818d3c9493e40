//! Keeps pools within their bounds: makes idle workers below the minimum, lets those go that are idle for
//! too long, too old, or not heard of. All replicas do so side by side; the provider's row says who is at it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use hodei_core::{
    id::ProviderId,
    provider::{Fulfilment, Requirements},
    secret::{Secret, SecretHash},
    spec::Timeouts,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::launch::launch_idle;
use crate::{
    app::App,
    pool::Pool,
    registry::Entry,
    store::{
        StoreError,
        notify::{Topic, changed_within},
    },
};

/// Workers without a job that may be in creation at once.
const LAUNCHES: usize = 8;
/// How often the pools are looked at, beside being woken.
const POLL: Duration = Duration::from_secs(1);
/// How often is looked for workers that have no pool any more, where there is none.
const SWEEP: Duration = Duration::from_secs(10);
/// How long a provider may take to say whether it has room.
const CAN_FULFILL_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn run(app: Arc<App>) {
    let mut changed = app.hub.subscribe(Topic::Providers);
    let launches = Arc::new(Semaphore::new(LAUNCHES));
    let mut swept: Option<Instant> = None;
    let mut said = HashMap::new();
    loop {
        changed.mark_unchanged();
        let pools: Vec<_> = app.registry.all();
        let pools: Vec<_> =
            pools.into_iter().filter_map(|entry| Some((entry.row.pool?, entry))).collect();
        if !pools.is_empty() || swept.is_none_or(|at| at.elapsed() >= SWEEP) {
            swept = Some(Instant::now());
            if let Err(error) = sweep(&app).await {
                tracing::warn!(%error, "idle workers could not be looked up");
            }
        }
        for (pool, entry) in pools {
            if let Err(error) = tend(&app, &launches, &mut said, pool, entry).await {
                tracing::warn!(%error, "a pool could not be looked after");
            }
        }
        changed_within(&mut changed, POLL).await;
    }
}

async fn sweep(app: &App) -> Result<(), StoreError> {
    for (worker, provider, why) in app.store.doom_useless(Timeouts::default().startup).await? {
        tracing::warn!(worker_id = %worker, provider, why, "an idle worker goes");
        // Without a pool that is no failure, and nothing is written.
        app.store.pool_failed(&provider).await?;
    }
    Ok(())
}

async fn tend(
    app: &Arc<App>,
    launches: &Arc<Semaphore>,
    said: &mut HashMap<ProviderId, String>,
    pool: Pool,
    entry: Entry,
) -> Result<(), StoreError> {
    let full = no_room(app, &entry).await;
    let room = if full.is_some() { 0 } else { launches.available_permits() };
    let mut otps: Vec<_> =
        (0..room.min(pool.minimum as usize)).map(|_| Secret::generate()).collect();
    let hashes: Vec<SecretHash> = otps.iter().map(Secret::hash).collect();
    let startup = Timeouts::default().startup;
    let tended = app.store.tend_pool(&entry.row.id, &hashes, startup).await?;
    if tended.retired > 0 {
        tracing::info!(provider = %entry.row.id, retired = tended.retired, "idle workers go");
    }
    match full.filter(|_| tended.missing > 0) {
        Some(reason) if said.get(&entry.row.id) != Some(&reason) => {
            tracing::warn!(provider = %entry.row.id, missing = tended.missing, reason, "the pool is too small");
            said.insert(entry.row.id.clone(), reason);
        }
        Some(_) => {}
        None => drop(said.remove(&entry.row.id)),
    }
    for (worker, otp) in tended.made.into_iter().zip(otps.drain(..)) {
        let Ok(permit) = launches.clone().acquire_owned().await else { return Ok(()) };
        let work = launch_idle(app.clone(), entry.clone(), pool, worker, otp);
        app.tasks.spawn(async move {
            work.await;
            drop(permit);
        });
    }
    Ok(())
}

/// Why a provider makes no worker now, as far as that is known without asking for one.
async fn no_room(app: &App, entry: &Entry) -> Option<String> {
    if app.registry.is_paused(&entry.row.id) {
        return Some("its quota is full".to_owned());
    }
    let needs = Requirements::default();
    match timeout(CAN_FULFILL_TIMEOUT, entry.provider.can_fulfill(&needs)).await {
        Ok(Ok(Fulfilment::Yes)) => None,
        Ok(Ok(Fulfilment::NotNow(reason) | Fulfilment::Never(reason))) => Some(reason),
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {CAN_FULFILL_TIMEOUT:?}")),
    }
}

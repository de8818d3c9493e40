//! Ends what has run out of time: waiting, starting, running, stopping, leases.

use std::{sync::Arc, time::Duration};

use hodei_core::{
    attempt::AttemptEnd,
    failure::{Failure, FailureCause},
    id::{AttemptKey, WorkerId},
};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    app::App,
    store::{StoreError, deadlines::Overdue},
};

const PERIOD: Duration = Duration::from_millis(500);

pub(super) async fn run(app: Arc<App>) {
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_good: Option<Instant> = None;
    loop {
        tick.tick().await;
        // After a start, a pause or a database that was away, agents could not renew their leases.
        let deaf = last_good.is_none_or(|at| at.elapsed() > app.timing.lease / 2);
        match pass(&app, deaf).await {
            Ok(()) => last_good = Some(Instant::now()),
            Err(error) => tracing::warn!(%error, "deadlines could not be looked up"),
        }
    }
}

async fn pass(app: &App, deaf: bool) -> Result<(), StoreError> {
    if deaf {
        app.store.extend_leases(app.timing.lease).await?;
    }
    app.store.expire_queue().await?;
    for (key, worker, overdue) in app.store.overdue().await? {
        match overdue {
            Overdue::Run => {
                tracing::info!(job_id = %key.job, epoch = key.epoch.0, "its run time is over");
                app.store.time_out(key, app.timing.cancel_grace).await?;
            }
            _ => lose(app, key, worker, overdue).await?,
        }
    }
    for worker in app.store.stale_workers().await? {
        app.store.doom_worker(worker, "its attempt has ended").await?;
    }
    Ok(())
}

async fn lose(
    app: &App,
    key: AttemptKey,
    worker: WorkerId,
    overdue: Overdue,
) -> Result<(), StoreError> {
    let (cause, message) = match overdue {
        Overdue::Lease => {
            let lease = app.timing.lease;
            (FailureCause::LeaseExpired, format!("nothing was heard of the worker for {lease:?}"))
        }
        Overdue::Stop => {
            (FailureCause::Deadline, "it was told to stop and gave no result".to_owned())
        }
        Overdue::Startup | Overdue::Run => {
            (FailureCause::StartupTimeout, startup_message(app, worker).await?)
        }
    };
    tracing::warn!(job_id = %key.job, epoch = key.epoch.0, worker_id = %worker, %cause, message, "lost");
    let lost = AttemptEnd::Lost(Failure { cause, message });
    app.store.end_attempt(key, worker, &lost).await?;
    Ok(())
}

/// What the provider sees of a worker that did not come up.
async fn startup_message(app: &App, worker: WorkerId) -> Result<String, StoreError> {
    let row = app.store.worker(worker).await?;
    let seen = match row.as_ref().and_then(|row| Some((row.provider_id().ok()?, row.handle()?))) {
        None => "the provider never confirmed it".to_owned(),
        Some((provider, handle)) => match app.registry.get(&provider) {
            None => format!("provider {provider} is not connected"),
            Some(entry) => match entry.provider.worker_status(&handle).await {
                Ok(status) => format!("last seen: {:?}", status.observed.phase),
                Err(error) => error.to_string(),
            },
        },
    };
    let registered = row.is_some_and(|row| row.registered_at.is_some());
    let what = if registered { "registered, but started nothing" } else { "did not register" };
    Ok(format!("the worker {what} in time; {seen}"))
}

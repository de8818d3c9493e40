//! What a provider sees of its workers, and what follows from it: from its events as they come, and by
//! comparing whole lists at start, after a gap, and now and then.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::StreamExt;
use hodei_core::{
    attempt::AttemptEnd,
    failure::{Failure, FailureCause},
    id::WorkerId,
    provider::{ObservedWorker, ProviderEvent, WorkerPhase, WorkerProvider},
    worker::WorkerState,
};
use jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{otp::discard_otp, reaper::remove_stray};
use crate::{
    app::App,
    store::{
        StoreError,
        audit::{self, AuditKind},
        rows::WorkerRow,
    },
};

/// A worker younger than this may be missing from a list: its creation or the watch may be on the way.
const SETTLED: Duration = Duration::from_secs(40);
/// What no database row explains is left alone for this long.
const STRAY_AGE: Duration = Duration::from_secs(120);
/// How often a worker may get another job while it is being ended.
const LOSE_TRIES: usize = 8;
const RESUBSCRIBE: Duration = Duration::from_secs(1);

/// What follows from seeing a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reaction {
    Nothing,
    /// It is on a node, and perhaps its container runs.
    Alive {
        running: bool,
    },
    /// It will do nothing more.
    Lost(Failure),
    /// It should not be there.
    Stray,
}

/// What follows from seeing a worker in `phase` that the database has in `state`.
fn react(state: WorkerState, phase: &WorkerPhase) -> Reaction {
    let lost =
        |cause, message: &str| Reaction::Lost(Failure { cause, message: message.to_owned() });
    match (state, phase) {
        (WorkerState::Terminated, WorkerPhase::Gone | WorkerPhase::Terminating) => {
            Reaction::Nothing
        }
        (WorkerState::Terminated, _) => Reaction::Stray,
        // The reaper is at it.
        (WorkerState::Terminating, _) => Reaction::Nothing,
        (_, WorkerPhase::Pending | WorkerPhase::Terminating) => Reaction::Nothing,
        (_, WorkerPhase::Starting) => Reaction::Alive { running: false },
        (_, WorkerPhase::Running) => Reaction::Alive { running: true },
        (_, WorkerPhase::Succeeded) => {
            lost(FailureCause::AgentExited, "the agent ended before its attempt had a result")
        }
        // Its agent is here, whatever the cluster has missed of its start.
        (
            WorkerState::Ready | WorkerState::Busy | WorkerState::Draining,
            WorkerPhase::Failed(failure),
        ) if failure.cause == FailureCause::StartupTimeout => Reaction::Nothing,
        (_, WorkerPhase::Failed(failure)) => Reaction::Lost(failure.clone()),
        (_, WorkerPhase::Gone) => lost(
            FailureCause::DeletedExternally,
            "the worker is gone and this server did not remove it",
        ),
    }
}

/// Watches one provider until `stop`.
pub(crate) async fn run(app: Arc<App>, provider: Arc<dyn WorkerProvider>, stop: CancellationToken) {
    stop.run_until_cancelled(watch(&app, &provider)).await;
}

async fn watch(app: &Arc<App>, provider: &Arc<dyn WorkerProvider>) {
    let mut tick = interval(app.timing.reconcile);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut events = provider.subscribe();
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(ProviderEvent::Changed(observed)) => {
                    if let Err(error) = seen(app, provider, &observed, false).await {
                        tracing::warn!(%error, worker_id = %observed.handle.worker, "an observation was missed");
                    }
                }
                Some(ProviderEvent::Resynced) => reconcile(app, provider).await,
                None => {
                    tokio::time::sleep(RESUBSCRIBE).await;
                    events = provider.subscribe();
                    reconcile(app, provider).await;
                }
            },
            _ = tick.tick() => {
                let health = provider.health_check().await.map_err(|unhealthy| unhealthy.to_string());
                app.registry.set_health(provider.id(), health);
                reconcile(app, provider).await;
            }
        }
    }
}

async fn seen(
    app: &Arc<App>,
    provider: &Arc<dyn WorkerProvider>,
    observed: &ObservedWorker,
    whole_list: bool,
) -> Result<(), StoreError> {
    let id = observed.handle.worker;
    let Some(row) = app.store.worker(id).await? else {
        if whole_list && is_old(observed) {
            stray(app, provider, observed, "no worker of this database").await?;
        }
        return Ok(());
    };
    let foreign = row.resource_uid.as_ref().is_some_and(|uid| *uid != observed.handle.uid);
    if row.provider != provider.id().as_str() || foreign {
        return Ok(());
    }
    let gone = matches!(observed.phase, WorkerPhase::Gone);
    if whole_list && row.resource.is_none() && !gone {
        // Created by a server that ended before it could write the name down.
        app.store.store_handle(&observed.handle).await?;
    }
    match react(row.state, &observed.phase) {
        Reaction::Nothing => Ok(()),
        Reaction::Alive { running } => {
            let node = observed.node.as_deref();
            app.store.worker_scheduled(id, node, running, app.timing.otp_ttl).await?;
            if running && row.state == WorkerState::Creating {
                app.store.advance_worker(id, WorkerState::Connecting).await?;
            }
            Ok(())
        }
        Reaction::Lost(failure) => lose(app, &row, failure).await,
        // Listed before it was destroyed, and read after: it is gone by now.
        Reaction::Stray if whole_list && is_there(&**provider, observed).await => {
            stray(app, provider, observed, "terminated").await
        }
        Reaction::Stray => Ok(()),
    }
}

/// Whether the provider sees the worker even now. One that can't say is asked again by the next look.
async fn is_there(provider: &dyn WorkerProvider, observed: &ObservedWorker) -> bool {
    let status = provider.worker_status(&observed.handle).await;
    status.is_ok_and(|status| status.observed.phase != WorkerPhase::Gone)
}

fn is_old(observed: &ObservedWorker) -> bool {
    observed.created_at.is_some_and(|created| {
        Timestamp::now().duration_since(created).as_secs() > STRAY_AGE.as_secs() as i64
    })
}

async fn lose(app: &App, row: &WorkerRow, failure: Failure) -> Result<(), StoreError> {
    let attempt = row.attempt;
    tracing::warn!(worker_id = %row.id, job_id = attempt.map(|key| tracing::field::display(key.job)),
        epoch = attempt.map(|key| key.epoch.0), cause = failure.cause.as_str(), message = failure.message,
        "a worker failed");
    if row.idle_since.is_some() || attempt.is_none() {
        app.store.pool_failed(&row.provider).await?;
    }
    let lost = AttemptEnd::Lost(failure);
    let mut latest = attempt;
    for _ in 0..LOSE_TRIES {
        if let Some(key) = latest {
            app.store.end_attempt(key, row.id, &lost).await?;
        }
        // Where the attempt had ended before, the worker still has to go.
        if app.store.doom_if_latest(row.id, latest, "it failed").await? {
            break;
        }
        // An idle one was given a job meanwhile, which is lost with it.
        latest = app.store.worker(row.id).await?.and_then(|row| row.attempt);
    }
    Ok(())
}

async fn stray(
    app: &Arc<App>,
    provider: &Arc<dyn WorkerProvider>,
    observed: &ObservedWorker,
    why: &str,
) -> Result<(), StoreError> {
    let id = observed.handle.worker;
    tracing::warn!(worker_id = %id, why, "removing a stray worker");
    audit::record(&app.store.pool, AuditKind::StrayDestroyed, Some(id), observed.attempt, why)
        .await?;
    let (app, provider, handle) = (app.clone(), provider.clone(), observed.handle.clone());
    app.tasks.clone().spawn(async move { remove_stray(&app, &provider, &handle).await });
    Ok(())
}

/// Compares the provider's list with the database, both ways.
async fn reconcile(app: &Arc<App>, provider: &Arc<dyn WorkerProvider>) {
    if let Err(problem) = try_reconcile(app, provider).await {
        tracing::warn!(provider = %provider.id(), problem, "not reconciled; trying again later");
    }
}

async fn try_reconcile(app: &Arc<App>, provider: &Arc<dyn WorkerProvider>) -> Result<(), String> {
    let known = app.store.provider_workers(provider.id(), SETTLED).await;
    let known = known.map_err(|error| error.to_string())?;
    let observed = provider.list_workers().await.map_err(|error| error.to_string())?;
    for worker in &observed {
        seen(app, provider, worker, true).await.map_err(|error| error.to_string())?;
    }
    let present: HashSet<WorkerId> = observed.iter().map(|worker| worker.handle.worker).collect();
    for row in known.iter().filter(|row| !present.contains(&row.id)) {
        if row.state == WorkerState::Terminating {
            continue;
        }
        let (cause, message) = match row.resource {
            Some(_) => (FailureCause::DeletedExternally, "the worker is gone"),
            None => (FailureCause::ApiUnavailable, "its creation was never confirmed"),
        };
        let failure = Failure { cause, message: message.to_owned() };
        lose(app, row, failure).await.map_err(|error| error.to_string())?;
    }
    let undiscarded = app.store.undiscarded_otps(provider.id()).await;
    for worker in undiscarded.map_err(|error| error.to_string())? {
        app.tasks.spawn(discard_otp(app.clone(), worker, provider.id().to_string()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(state: WorkerState, phase: WorkerPhase, expect: &str) {
        let reaction = match react(state, &phase) {
            Reaction::Lost(failure) => format!("lost:{}", failure.cause),
            other => format!("{other:?}"),
        };
        assert_eq!(reaction, expect, "{state} {phase:?}");
    }

    #[test]
    fn the_table_of_reactions() {
        use WorkerPhase as P;
        use WorkerState as S;
        let failed = P::Failed(Failure { cause: FailureCause::Evicted, message: "disk".into() });
        check(S::Creating, P::Pending, "Nothing");
        check(S::Creating, P::Starting, "Alive { running: false }");
        check(S::Creating, P::Running, "Alive { running: true }");
        check(S::Busy, P::Running, "Alive { running: true }");
        check(S::Busy, P::Succeeded, "lost:agent_exited");
        check(S::Busy, failed.clone(), "lost:evicted");
        check(S::Ready, P::Gone, "lost:deleted_externally");
        let late =
            P::Failed(Failure { cause: FailureCause::StartupTimeout, message: "slow".into() });
        check(S::Connecting, late.clone(), "lost:startup_timeout");
        check(S::Busy, late, "Nothing");
        check(S::Busy, P::Terminating, "Nothing");
        check(S::Terminating, failed, "Nothing");
        check(S::Terminating, P::Gone, "Nothing");
        check(S::Terminated, P::Gone, "Nothing");
        check(S::Terminated, P::Running, "Stray");
    }
}

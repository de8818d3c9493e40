//! Says what a starting job waits for, once that lasts: a node, its image, the agent's first word. It
//! looks at the provider's view now and then and makes no API request; a job that starts as it should
//! costs no write.

use std::{sync::Arc, time::Duration};

use hodei_core::{
    id::ProviderId,
    provider::{ObservedWorker, WorkerPhase},
};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    app::App,
    store::{StoreError, waiting::SlowStart},
};

/// A start that is younger needs no explanation.
const LASTS: Duration = Duration::from_secs(2);
const PERIOD: Duration = Duration::from_secs(1);

pub(super) async fn run(app: Arc<App>) {
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = pass(&app).await {
            tracing::warn!(%error, "slow starts could not be looked up");
        }
    }
}

async fn pass(app: &App) -> Result<(), StoreError> {
    for start in app.store.slow_starts(LASTS).await? {
        let Some(reason) = reason(app, &start).await else { continue };
        if reason != start.reason {
            app.store.note_starting(start.key, &reason).await?;
        }
    }
    Ok(())
}

/// `None` where nothing is known, or somebody else acts on it.
async fn reason(app: &App, start: &SlowStart) -> Option<String> {
    if start.registered {
        return Some(String::new());
    }
    let provider: ProviderId = start.provider.parse().ok()?;
    let entry = app.registry.get(&provider)?;
    // The view may never have been in step with the cluster; the health check says so.
    let status = entry.provider.worker_status(&start.handle).await.ok()?;
    waits_for(&status.observed)
}

fn waits_for(worker: &ObservedWorker) -> Option<String> {
    let node = worker.node.as_deref().map(|node| format!(" on node {node}")).unwrap_or_default();
    let words = |otherwise| worker.waiting_for.as_deref().unwrap_or(otherwise);
    match worker.phase {
        WorkerPhase::Pending => Some(format!("worker pending: {}", words("it is on no node yet"))),
        WorkerPhase::Starting => {
            let words = words("its image or its container is not ready yet");
            Some(format!("worker starting{node}: {words}"))
        }
        WorkerPhase::Running => {
            Some(format!("worker running{node}: its agent has not registered yet"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use hodei_core::{id::WorkerId, provider::WorkerHandle};

    use super::*;

    fn check(phase: WorkerPhase, node: Option<&str>, said: Option<&str>, expect: Option<&str>) {
        let handle =
            WorkerHandle { worker: WorkerId::new(), resource: String::new(), uid: String::new() };
        let worker = ObservedWorker {
            phase,
            node: node.map(str::to_owned),
            waiting_for: said.map(str::to_owned),
            ..ObservedWorker::gone(handle)
        };
        assert_eq!(waits_for(&worker).as_deref(), expect);
    }

    #[test]
    fn the_table_of_waits() {
        use WorkerPhase as P;
        check(P::Pending, None, None, Some("worker pending: it is on no node yet"));
        let full = "Unschedulable: 0/3 nodes are available";
        check(P::Pending, None, Some(full), Some(&format!("worker pending: {full}")));
        let starting = "worker starting on node n1: its image or its container is not ready yet";
        check(P::Starting, Some("n1"), None, Some(starting));
        check(P::Running, None, None, Some("worker running: its agent has not registered yet"));
        check(P::Gone, Some("n1"), None, None);
        check(P::Succeeded, Some("n1"), Some("x"), None);
    }
}

//! The one watch a provider keeps on its pods. It feeds the [`View`], tells subscribers, and lets
//! others wait for a state without asking the API.
//!
//! Listing again after a 410, bookmarks and back-off are those of `kube::runtime::watcher`. A watch
//! is asked for [`WATCH_SECONDS`] at a time, so that a connection that died without a word (a
//! half-open one) is noticed soon, and so that a quiet cluster still gives a sign of life.

mod view;

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::BoxStream};
use hodei_core::{
    id::{ProviderId, WorkerId},
    provider::{ObservedWorker, ProviderEvent, Staleness, WorkerHandle, WorkerPhase},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
    time::MissedTickBehavior,
};

pub(crate) use self::view::Presence;
use self::view::View;
use crate::{measure, names, startup::Startups};

/// How long one watch request lasts. The client gives up 5 s later by itself.
pub(crate) const WATCH_SECONDS: u32 = 30;
/// A view older than this is not trusted: one whole watch request went by without a sign.
pub(crate) const STALE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 15);
/// How often states that may last too long are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How many events a subscriber may lag behind.
const EVENTS: usize = 4096;

/// When the API was last heard of by the watch; also set by the client when a watch is accepted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Option<Instant>>>);

impl Heard {
    pub(crate) fn now(&self) {
        *self.0.lock().expect("no one panics while noting a time") = Some(Instant::now());
    }

    pub(crate) fn ago(&self) -> Option<Duration> {
        self.0.lock().expect("no one panics while noting a time").map(|at| at.elapsed())
    }
}

struct Shared {
    view: Mutex<View>,
    /// Sent whenever the view has changed.
    changed: watch::Sender<()>,
    events: broadcast::Sender<ProviderEvent>,
    heard: Heard,
    startups: Arc<Startups>,
    /// The last error, while there is one.
    trouble: Mutex<Option<String>>,
}

/// The running watch; it ends when this is dropped.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Begins to watch.
    pub(crate) fn start(
        provider: &ProviderId,
        pods: kube::Api<Pod>,
        patience: SignedDuration,
        heard: Heard,
        startups: Arc<Startups>,
    ) -> Self {
        let shared = Arc::new(Shared {
            view: Mutex::new(View::new(provider.clone(), patience)),
            changed: watch::Sender::new(()),
            events: broadcast::Sender::new(EVENTS),
            heard,
            startups,
            trouble: Mutex::new(None),
        });
        let task = tokio::spawn(run(Arc::clone(&shared), provider.clone(), pods));
        Self { shared, task }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.shared.view()
    }

    /// What is known of a worker, with the age of that knowledge; `None` before the first list.
    pub(crate) fn find(&self, handle: &WorkerHandle) -> Option<(Presence, Staleness)> {
        let view = self.view();
        view.is_synced().then(|| (view.find(handle, Timestamp::now()), self.staleness()))
    }

    /// What stands under a worker's id.
    pub(crate) fn handle_of(&self, worker: WorkerId) -> Option<WorkerHandle> {
        self.view().handle_of(worker)
    }

    /// Every worker; `None` before the first list.
    pub(crate) fn list(&self) -> Option<Vec<ObservedWorker>> {
        let view = self.view();
        view.is_synced().then(|| view.list(Timestamp::now()))
    }

    /// See [`View::lists`].
    pub(crate) fn lists(&self) -> u64 {
        self.view().lists()
    }

    /// See [`View::answered`]: whether the view could take the pod in.
    pub(crate) fn answered(&self, pod: &Pod, lists: u64) -> bool {
        let events = self.view().answered(pod, lists, Timestamp::now());
        let certain = events.is_some();
        self.shared.tell(events.unwrap_or_default());
        certain
    }

    /// Notes that a resource is gone, as the API said.
    pub(crate) fn forget(&self, handle: &WorkerHandle) {
        let events = self.view().forget(handle.worker, &handle.uid);
        self.shared.tell(events);
    }

    /// How old the view is.
    pub(crate) fn staleness(&self) -> Staleness {
        Staleness(self.shared.heard.ago().unwrap_or(Duration::MAX))
    }

    /// Whether the view can be trusted.
    pub(crate) fn is_fresh(&self) -> bool {
        self.view().is_synced() && self.staleness().0 < STALE
    }

    /// The last error of the watch, while it lasts.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.shared.trouble().clone()
    }

    /// A receiver that is marked changed whenever the view has changed.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    /// Waits until a list has been seen, but no longer than `deadline`.
    pub(crate) async fn await_synced(&self, deadline: Duration) -> bool {
        let mut changes = self.changes();
        let synced = async {
            while !self.view().is_synced() {
                if changes.changed().await.is_err() {
                    break;
                }
            }
        };
        tokio::time::timeout(deadline, synced).await.is_ok()
    }

    /// Changes from now on.
    pub(crate) fn subscribe(&self) -> BoxStream<'static, ProviderEvent> {
        let receiver = self.shared.events.subscribe();
        futures::stream::unfold(receiver, |mut receiver| async move {
            match receiver.recv().await {
                Ok(event) => Some((event, receiver)),
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    Some((ProviderEvent::Resynced, receiver))
                }
                Err(broadcast::error::RecvError::Closed) => None,
            }
        })
        .boxed()
    }
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().expect("the view must not be poisoned")
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().expect("no one panics while noting an error")
    }

    /// Without subscribers there is no one to tell.
    fn tell(&self, events: Vec<ProviderEvent>) {
        if !events.is_empty() {
            for event in events {
                _ = self.events.send(event);
            }
            self.changed.send_replace(());
        }
    }

    fn take(&self, provider: &ProviderId, event: watcher::Result<watcher::Event<Pod>>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                // The error may be that of a whole response: only its own words, no objects.
                let error = crate::api::describe(&error);
                tracing::warn!(provider_id = %provider, %error, "the watch was interrupted");
                measure::watch_interrupted(provider);
                *self.trouble() = Some(error);
                return;
            }
        };
        self.heard.now();
        self.startups.heard(&event);
        *self.trouble() = None;
        let now = Timestamp::now();
        let live = matches!(event, watcher::Event::Apply(_));
        let mut view = self.view();
        let events = match event {
            watcher::Event::Init => {
                tracing::debug!(provider_id = %provider, "listing workers");
                view.list_began();
                Vec::new()
            }
            watcher::Event::InitApply(pod) | watcher::Event::Apply(pod) => view.saw(&pod, now),
            watcher::Event::Delete(pod) => view.removed(&pod),
            watcher::Event::InitDone => view.list_ended(),
        };
        measure::live_workers(provider, view.len());
        drop(view);
        for event in &events {
            if let ProviderEvent::Changed(seen) = event {
                note(provider, seen, live.then_some(now));
            }
        }
        self.tell(events);
    }
}

/// Logs a change; what was seen as it happened, not in a list, is measured too.
fn note(provider: &ProviderId, seen: &ObservedWorker, at: Option<Timestamp>) {
    let worker_id = seen.handle.worker;
    tracing::debug!(provider_id = %provider, %worker_id, phase = ?seen.phase, "worker changed");
    let Some(at) = at else { return };
    match &seen.phase {
        WorkerPhase::Running if seen.restarts == 0 => {
            let took = seen.created_at.map(|created| at.duration_since(created));
            if let Some(took) = took.and_then(|took| Duration::try_from(took).ok()) {
                measure::worker_ready(provider, took);
            }
        }
        WorkerPhase::Failed(failure) => measure::worker_failed(provider, failure.cause),
        _ => {}
    }
}

async fn run(shared: Arc<Shared>, provider: ProviderId, pods: kube::Api<Pod>) {
    let config =
        watcher::Config::default().labels(&names::selector(&provider)).timeout(WATCH_SECONDS);
    let mut events = std::pin::pin!(watcher(pods, config).default_backoff());
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(event) => shared.take(&provider, event),
                None => return,
            },
            _ = tick.tick() => {
                let events = shared.view().passed(Timestamp::now());
                measure::view_age(&provider, shared.heard.ago());
                shared.tell(events);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hodei_core::provider::WorkerProvider;
    use serde_json::json;

    use super::*;
    use crate::{
        KubernetesConfig,
        testing::{FakeCluster, Fault, make_spec},
    };

    const DEADLINE: Duration = Duration::from_secs(20);

    /// The next `count` resyncs; what else is told is passed over.
    async fn await_resyncs(events: &mut BoxStream<'static, ProviderEvent>, count: usize) {
        let resyncs = events.filter(|event| {
            let wanted = *event == ProviderEvent::Resynced;
            async move { wanted }
        });
        let seen = tokio::time::timeout(DEADLINE, resyncs.take(count).count()).await;
        assert_eq!(seen.expect("the watch must list in time"), count);
    }

    #[tokio::test]
    async fn a_watch_that_is_too_old_lists_again() {
        let cluster = FakeCluster::new();
        let gone = json!({"type": "ERROR", "object": {"kind": "Status", "code": 410,
            "reason": "Expired", "message": "too old resource version"}});
        cluster.fail_next(
            "WATCH pods",
            Fault::Answer { code: 200, body: format!("{gone}\n"), retry_after: None },
        );
        let provider = cluster.provider(KubernetesConfig::default());
        let mut events = provider.subscribe();
        await_resyncs(&mut events, 2).await;
        provider.create_worker(&make_spec()).await.unwrap();
        assert_eq!(provider.list_workers().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_list_that_fails_is_tried_again_and_told() {
        let cluster = FakeCluster::new();
        let forbidden = "cannot list resource \"pods\"";
        cluster.fail_next("LIST pods", Fault::status(403, "Forbidden", forbidden));
        let provider = cluster.provider(KubernetesConfig::default());
        assert_eq!(provider.watch.list(), None, "nothing is known before the first list");
        let mut events = provider.subscribe();
        await_resyncs(&mut events, 1).await;
        assert!(provider.watch.is_fresh());
        assert_eq!(provider.watch.trouble(), None, "trouble is over");
    }

    #[tokio::test]
    async fn a_restarted_provider_finds_its_workers_and_no_others() {
        let cluster = FakeCluster::new();
        let spec = make_spec();
        let handle =
            cluster.provider(KubernetesConfig::default()).create_worker(&spec).await.unwrap();
        cluster.put(
            "pods",
            json!({"metadata": {"name": "x", "labels": {
            "hodei.io/managed": "true", "hodei.io/provider-id": "other",
            "hodei.io/worker-id": spec.worker.to_string()}}}),
        );
        let restarted = cluster.provider(KubernetesConfig::default());
        let found = restarted.list_workers().await.unwrap();
        assert_eq!(found.into_iter().map(|seen| seen.handle).collect::<Vec<_>>(), [handle]);
    }

    #[tokio::test]
    async fn a_slow_subscriber_is_told_to_compare() {
        let cluster = FakeCluster::new();
        let provider = cluster.provider(KubernetesConfig::default());
        provider.list_workers().await.unwrap();
        let mut events = provider.subscribe();
        for _ in 0..=EVENTS {
            provider.watch.shared.tell(vec![ProviderEvent::Resynced]);
        }
        assert_eq!(events.next().await, Some(ProviderEvent::Resynced));
    }
}

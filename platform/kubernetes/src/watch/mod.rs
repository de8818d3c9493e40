//! The one watch a provider keeps on its pods. It feeds the [`View`], tells subscribers, and lets
//! others wait for a state without asking the API.
//!
//! Listing again after a 410, bookmarks and back-off are those of `kube::runtime::watcher`. A watch
//! is asked for [`WATCH_SECONDS`] at a time, so that a connection that died without a word (a
//! half-open one) is noticed soon, and so that a quiet cluster still gives a sign of life.

mod outbox;
mod progress;
mod reader;
mod view;

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures::{
    StreamExt,
    stream::{BoxStream, FuturesUnordered},
};
use hodei_core::{
    failure::Failure,
    id::{ProviderId, WorkerId},
    provider::{ObservedWorker, ProviderEvent, Staleness, WorkerHandle, WorkerPhase},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher;
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, timeout_at},
};

use self::{outbox::Outbox, progress::Took, view::View};
pub(crate) use self::{
    reader::WatchReader,
    view::{LogView, Presence},
};
use crate::{api::ClusterApi, events, measure, names, startup::Startups, stream::events_of};

/// How long one watch request lasts. The client gives up 5 s later by itself.
pub(crate) const WATCH_SECONDS: u32 = 30;
/// A view older than this is not trusted: one whole watch request went by without a sign.
pub(crate) const STALE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 15);
/// How often states that may last too long are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How many events a subscriber may lag behind.
const EVENTS: usize = 4096;
/// How many failures are looked into at once.
const LOOKUPS: usize = 8;

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

/// A failure whose events are wanted.
struct Ask {
    handle: WorkerHandle,
    failure: Failure,
    deadline: Instant,
}

struct Shared {
    provider: ProviderId,
    view: Mutex<View>,
    /// Locked after the view, and while it is locked: events are told in the view's order.
    outbox: Mutex<Outbox>,
    /// No more than one for each worker at a time.
    asks: mpsc::UnboundedSender<Ask>,
    started: Instant,
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
        api: ClusterApi,
        patience: SignedDuration,
        heard: Heard,
        startups: Arc<Startups>,
    ) -> Self {
        let (asks, asked) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            provider: provider.clone(),
            outbox: Mutex::default(),
            asks,
            started: Instant::now(),
            view: Mutex::new(View::new(provider.clone(), patience)),
            changed: watch::Sender::new(()),
            events: broadcast::Sender::new(EVENTS),
            heard,
            startups,
            trouble: Mutex::new(None),
        });
        let task = tokio::spawn(run(Arc::clone(&shared), api, asked));
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
        let mut certain = false;
        self.shared.update(|view| {
            let events = view.answered(pod, lists, Timestamp::now());
            certain = events.is_some();
            events.unwrap_or_default()
        });
        certain
    }

    /// Notes that a resource is gone, as the API said.
    pub(crate) fn forget(&self, handle: &WorkerHandle) {
        self.shared.update(|view| view.forget(handle.worker, &handle.uid));
    }

    /// The finalizers that keep a resource.
    pub(crate) fn finalizers_of(&self, handle: &WorkerHandle) -> Vec<String> {
        self.view().finalizers_of(handle)
    }

    /// Reads the view without keeping the watch.
    pub(crate) fn reader(&self) -> WatchReader {
        WatchReader::new(&self.shared)
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

    /// Changes the view, tells what follows from it, and measures it.
    fn update(&self, change: impl FnOnce(&mut View) -> Vec<ProviderEvent>) {
        let mut view = self.view();
        let events = change(&mut view);
        measure::live_workers(&self.provider, view.len());
        for took in view.take_measures() {
            match took {
                Took::Stage(stage, took) => measure::worker_stage(&self.provider, stage, took),
                Took::Ready(took) => measure::worker_ready(&self.provider, took),
            }
        }
        self.tell(&mut view, events);
    }

    /// Without subscribers there is no one to tell.
    fn tell(&self, view: &mut View, events: Vec<ProviderEvent>) {
        let changed = view.take_silent_change() || !events.is_empty();
        let mut outbox = self.outbox();
        for event in events {
            let Some(event) = outbox.pass(event) else { continue };
            match event {
                ProviderEvent::Changed(seen) if view.shall_explain(&seen) => {
                    self.ask(&seen);
                    outbox.hold(seen);
                }
                event => _ = self.events.send(event),
            }
        }
        if changed {
            self.changed.send_replace(());
        }
    }

    fn ask(&self, seen: &ObservedWorker) {
        if let WorkerPhase::Failed(failure) = &seen.phase {
            let deadline = Instant::now() + events::PATIENCE;
            let (handle, failure) = (seen.handle.clone(), failure.clone());
            // Without its receiver the watch has ended, and no one is told anything.
            _ = self.asks.send(Ask { handle, failure, deadline });
        }
    }

    /// Tells what waited for the events behind a failure.
    fn explained(&self, handle: &WorkerHandle, words: Option<&str>) {
        let mut view = self.view();
        if let Some(words) = words {
            view.explained(handle, words);
        }
        let events = self.outbox().release(handle.worker, words);
        self.tell(&mut view, events);
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().expect("no one panics while telling")
    }

    fn take(&self, event: watcher::Result<watcher::Event<Pod>>) {
        let provider = &self.provider;
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
        // That a list begins is what the watcher says by itself, not the API.
        if !matches!(event, watcher::Event::Init) {
            self.heard.now();
            *self.trouble() = None;
        }
        self.startups.heard(&event);
        let now = Timestamp::now();
        let live = matches!(event, watcher::Event::Apply(_));
        self.update(|view| {
            let events = match event {
                watcher::Event::Init => {
                    tracing::debug!(provider_id = %provider, "listing workers");
                    if view.lists() > 0 {
                        measure::watch_restarted(provider);
                    }
                    view.list_began();
                    Vec::new()
                }
                watcher::Event::InitApply(pod) | watcher::Event::Apply(pod) => view.saw(&pod, now),
                watcher::Event::Delete(pod) => view.removed(&pod),
                watcher::Event::InitDone => view.list_ended(),
            };
            for event in &events {
                if let ProviderEvent::Changed(seen) = event {
                    note(provider, seen, live);
                }
            }
            events
        });
    }
}

/// Logs a change; a failure that was seen as it happened, not in a list, is counted too.
fn note(provider: &ProviderId, seen: &ObservedWorker, live: bool) {
    let worker_id = seen.handle.worker;
    tracing::debug!(provider_id = %provider, %worker_id, phase = ?seen.phase, "worker changed");
    if let (WorkerPhase::Failed(failure), true) = (&seen.phase, live) {
        measure::worker_failed(provider, failure.cause);
    }
}

/// The words of the events behind a failure, if they can be had in time.
async fn look_up(api: &ClusterApi, ask: Ask) -> (WorkerHandle, Option<String>) {
    let Ask { handle, failure, deadline } = ask;
    let words = match timeout_at(deadline, events::explain(api, &handle, &failure)).await {
        Ok(Ok(words)) => words,
        Ok(Err(error)) => {
            tracing::debug!(worker_id = %handle.worker, %error, "can't read the events");
            None
        }
        Err(_) => {
            tracing::debug!(worker_id = %handle.worker, "the events were not read in time");
            None
        }
    };
    (handle, words)
}

async fn run(shared: Arc<Shared>, api: ClusterApi, mut asks: mpsc::UnboundedReceiver<Ask>) {
    let config = watcher::Config::default()
        .labels(&names::selector(&shared.provider))
        .timeout(WATCH_SECONDS);
    let mut events = std::pin::pin!(events_of(api.typed::<Pod>(), config));
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut lookups = FuturesUnordered::new();
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(event) => shared.take(event),
                None => return,
            },
            Some(ask) = asks.recv(), if lookups.len() < LOOKUPS => {
                lookups.push(look_up(&api, ask));
            }
            Some((handle, words)) = lookups.next() => {
                shared.explained(&handle, words.as_deref());
            }
            _ = tick.tick() => {
                let age = shared.heard.ago().unwrap_or_else(|| shared.started.elapsed());
                measure::view_age(&shared.provider, age);
                shared.update(|view| view.passed(Timestamp::now()));
            }
        }
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;

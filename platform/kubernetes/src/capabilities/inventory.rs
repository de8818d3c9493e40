//! What is known of nodes, quotas and limit ranges: one watch of each, shared by all questions.
//!
//! The watches begin with the first question and end with the provider. They cost three lists once
//! (nodes in pages of 500) and then three requests every [`WATCH_SECONDS`], whatever the number of
//! jobs and nodes. Listing again after a 410 in a watch, bookmarks and back-off are those of
//! `kube::runtime::watcher`; what may not be read is asked for again every [`FORBIDDEN_RETRY`].

use std::{
    fmt::Debug,
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
    time::{Duration, Instant},
};

use futures::StreamExt;
use hodei_core::id::ProviderId;
use k8s_openapi::api::core::v1::{LimitRange, Node as ApiNode, ResourceQuota};
use kube::{Api, Client, Resource, ResourceExt, runtime::watcher};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, task::JoinSet};

use super::{
    bounds::{Limits, Quota},
    node::Node,
    placement::Placement,
    state::{Source, State},
};
use crate::{measure, stream::events_of};

/// How long one watch request lasts. The client gives up 5 s later by itself, so that a connection
/// that died without a word is noticed.
const WATCH_SECONDS: u32 = 60;
/// A view older than this is not trusted: one whole watch request went by without a sign.
const STALE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 15);
/// When what may not be read is asked for again: a permission may be granted later.
const FORBIDDEN_RETRY: Duration = Duration::from_secs(300);

/// A kind of resource that is watched.
trait Tracked: Send + Sized + 'static {
    type Object: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static;
    const NAME: &'static str;

    /// What is kept of an object; `None` where it bounds no worker.
    fn read(object: &Self::Object, placement: &Placement) -> Option<Self>;
    fn source(state: &mut State) -> &mut Source<Self>;
    /// What is done with those that are gone.
    fn depart(_state: &mut State, _gone: Vec<Self>) {}
}

impl Tracked for Node {
    type Object = ApiNode;
    const NAME: &'static str = "nodes";

    fn read(node: &ApiNode, placement: &Placement) -> Option<Self> {
        Some(Self::read(node, placement))
    }

    fn source(state: &mut State) -> &mut Source<Self> {
        &mut state.nodes
    }

    fn depart(state: &mut State, gone: Vec<Self>) {
        state.left(gone, Instant::now());
    }
}

impl Tracked for Quota {
    type Object = ResourceQuota;
    const NAME: &'static str = "resourcequotas";

    fn read(quota: &ResourceQuota, placement: &Placement) -> Option<Self> {
        Self::read(quota, placement)
    }

    fn source(state: &mut State) -> &mut Source<Self> {
        &mut state.quotas
    }
}

impl Tracked for Limits {
    type Object = LimitRange;
    const NAME: &'static str = "limitranges";

    fn read(range: &LimitRange, _placement: &Placement) -> Option<Self> {
        Some(Self::read(range))
    }

    fn source(state: &mut State) -> &mut Source<Self> {
        &mut state.ranges
    }
}

/// What the watches share with those who ask.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("what is known of the cluster must not be poisoned")
    }

    /// Whether a node is known to have an image.
    pub(crate) fn has_image(&self, node: &str, image: &str) -> bool {
        self.state().node(node).is_some_and(|node| node.has_image(image))
    }

    /// Takes in what a watch said; it breaks off where nothing may be read.
    fn take<T: Tracked>(
        &self,
        provider: &ProviderId,
        placement: &Placement,
        event: watcher::Result<watcher::Event<T::Object>>,
    ) -> ControlFlow<()> {
        let mut state = self.state();
        let mut forbidden = false;
        match event {
            Ok(event) => {
                let silent = matches!(event, watcher::Event::InitApply(_));
                let gone = T::source(&mut state).take(read::<T>(event, placement));
                T::depart(&mut state, gone);
                if silent {
                    return ControlFlow::Continue(());
                }
            }
            Err(error) => {
                let words = crate::api::describe(&error);
                let source = T::source(&mut state);
                forbidden = code(&error) == Some(403);
                tracing::warn!(provider_id = %provider, resource = T::NAME, error = %words,
                    "a watch for capabilities was interrupted");
                source.failed(words, forbidden);
            }
        }
        drop(state);
        self.changed.send_replace(());
        if forbidden { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn read<T: Tracked>(
    event: watcher::Event<T::Object>,
    placement: &Placement,
) -> watcher::Event<(String, Option<T>)> {
    let keep = |object: T::Object| (object.name_any(), T::read(&object, placement));
    match event {
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitApply(object) => watcher::Event::InitApply(keep(object)),
        watcher::Event::InitDone => watcher::Event::InitDone,
        watcher::Event::Apply(object) => watcher::Event::Apply(keep(object)),
        watcher::Event::Delete(object) => watcher::Event::Delete(keep(object)),
    }
}

/// The HTTP code of a refusal.
fn code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

/// The watches of one provider; they end when this is dropped.
pub(crate) struct Inventory {
    shared: Arc<Shared>,
    provider: ProviderId,
    client: Client,
    namespace: String,
    placement: Arc<Placement>,
    /// When what may not be read is asked for again.
    pub(super) forbidden_retry: Duration,
    /// The age from which what is known is not trusted.
    pub(super) stale: Duration,
    tasks: OnceLock<JoinSet<()>>,
}

impl Inventory {
    /// What will be watched with this client once someone asks.
    pub(crate) fn new(
        provider: &ProviderId,
        client: Client,
        config: &crate::KubernetesConfig,
    ) -> Self {
        Self {
            shared: Arc::default(),
            provider: provider.clone(),
            client,
            namespace: config.namespace.clone(),
            placement: Arc::new(Placement::of(config)),
            forbidden_retry: FORBIDDEN_RETRY,
            stale: STALE,
            tasks: OnceLock::new(),
        }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// A receiver that is marked changed whenever something is known anew.
    #[cfg(test)]
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    /// Begins to watch, if that is not done, and waits until something is known of each source, but
    /// no longer than `deadline`.
    pub(super) async fn await_known(&self, deadline: Duration) {
        self.tasks.get_or_init(|| self.start());
        let mut changes = self.shared.changed.subscribe();
        let known = async {
            while self.state().missing().is_some() {
                if changes.changed().await.is_err() {
                    break;
                }
            }
        };
        // Whoever asks looks at what is missing.
        _ = tokio::time::timeout(deadline, known).await;
    }

    fn start(&self) -> JoinSet<()> {
        let namespace = self.namespace.as_str();
        let mut tasks = JoinSet::new();
        tasks.spawn(self.follow::<Node>(Api::all));
        tasks.spawn(self.follow::<Quota>(|client| Api::namespaced(client, namespace)));
        tasks.spawn(self.follow::<Limits>(|client| Api::namespaced(client, namespace)));
        tasks
    }

    fn follow<T: Tracked>(
        &self,
        api: impl FnOnce(Client) -> Api<T::Object>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let heard = T::source(&mut self.state()).heard();
        let api = api(measure::instrument(self.client.clone(), &self.provider, heard));
        let shared = self.shared();
        let provider = self.provider.clone();
        let placement = Arc::clone(&self.placement);
        let forbidden_retry = self.forbidden_retry;
        async move {
            let config = watcher::Config::default().timeout(WATCH_SECONDS);
            loop {
                let mut events = std::pin::pin!(events_of(api.clone(), config.clone()));
                while let Some(event) = events.next().await {
                    if shared.take::<T>(&provider, &placement, event).is_break() {
                        break;
                    }
                }
                // Nothing tells that a permission was granted, so it is asked for again.
                tokio::time::sleep(forbidden_retry).await;
            }
        }
    }
}

#[cfg(test)]
#[path = "property_tests.rs"]
mod tests;

//! A provider in memory: it makes no agents, only says that workers are there.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use hodei_core::{
    failure::{Failure, FailureCause},
    id::{ProviderId, WorkerId},
    provider::{
        Fulfilment, LogEntry, LogQuery, ObservedWorker, ProviderCapabilities, ProviderError,
        ProviderEvent, Requirements, Staleness, StartupEstimate, Unhealthy, WorkerHandle,
        WorkerPhase, WorkerProvider, WorkerSpec, WorkerStatus,
    },
};
use serde_json::Value;
use tokio::sync::{broadcast, mpsc};

use crate::{ConnectError, ProviderFactory};

/// What the fake remembers; shared by all handles of one test.
#[derive(Debug)]
pub(super) struct World {
    workers: Mutex<HashMap<WorkerId, ObservedWorker>>,
    refusals: Mutex<VecDeque<FailureCause>>,
    created: mpsc::UnboundedSender<WorkerSpec>,
    events: broadcast::Sender<ProviderEvent>,
    pub(super) unhealthy: Mutex<Option<Unhealthy>>,
    /// Why there is no room now.
    pub(super) full: Mutex<Option<String>>,
    /// How long finished workers are kept.
    pub(super) kept: Mutex<Option<Duration>>,
    pub(super) discarded: Mutex<Vec<WorkerId>>,
    pub(super) destroyed: Mutex<Vec<WorkerId>>,
}

impl World {
    /// A world, and the workers that will be asked for in it.
    pub(super) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<WorkerSpec>) {
        let (created, receiver) = mpsc::unbounded_channel();
        let world = Self {
            workers: Mutex::default(),
            refusals: Mutex::default(),
            created,
            events: broadcast::Sender::new(1000),
            unhealthy: Mutex::default(),
            full: Mutex::default(),
            kept: Mutex::default(),
            discarded: Mutex::default(),
            destroyed: Mutex::default(),
        };
        (Arc::new(world), receiver)
    }

    /// The next creation fails so.
    pub(super) fn refuse_next(&self, cause: FailureCause) {
        self.refusals.lock().unwrap().push_back(cause);
    }

    /// A worker is seen in another phase.
    pub(super) fn turn(&self, worker: WorkerId, phase: WorkerPhase) {
        let mut workers = self.workers.lock().unwrap();
        let observed = workers.get_mut(&worker).unwrap();
        observed.phase = phase.clone();
        let event = ProviderEvent::Changed(observed.clone());
        if phase == WorkerPhase::Gone {
            workers.remove(&worker);
        }
        let _ = self.events.send(event);
    }

    /// How many workers there are.
    pub(super) fn count(&self) -> usize {
        self.workers.lock().unwrap().len()
    }

    /// The UID its pod would have.
    pub(super) fn uid(worker: WorkerId) -> String {
        format!("uid-{worker}")
    }

    fn remove(&self, worker: WorkerId) {
        self.destroyed.lock().unwrap().push(worker);
        if self.workers.lock().unwrap().contains_key(&worker) {
            self.turn(worker, WorkerPhase::Gone);
        }
    }
}

/// Connects the same world under any name.
#[derive(Debug)]
pub(super) struct FakeFactory(pub(super) Arc<World>);

#[async_trait]
impl ProviderFactory for FakeFactory {
    async fn connect(
        &self,
        id: &ProviderId,
        kind: &str,
        _config: Option<&Value>,
    ) -> Result<Arc<dyn WorkerProvider>, ConnectError> {
        match kind {
            "fake" => Ok(Arc::new(FakeProvider { id: id.clone(), world: self.0.clone() })),
            other => Err(ConnectError::UnknownKind(other.to_owned())),
        }
    }
}

/// The only node.
pub(super) const NODE: &str = "node-1";

struct FakeProvider {
    id: ProviderId,
    world: Arc<World>,
}

#[async_trait]
impl WorkerProvider for FakeProvider {
    fn id(&self) -> &ProviderId {
        &self.id
    }

    async fn health_check(&self) -> Result<(), Unhealthy> {
        self.world.unhealthy.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    async fn create_worker(&self, spec: &WorkerSpec) -> Result<WorkerHandle, ProviderError> {
        if let Some(cause) = self.world.refusals.lock().unwrap().pop_front() {
            return Err(ProviderError {
                operation: "create worker",
                subject: spec.worker.to_string(),
                failure: Failure { cause, message: "as the test wants".into() },
                retry_after: None,
                source: None,
            });
        }
        let handle = WorkerHandle {
            worker: spec.worker,
            resource: format!("hodei-worker-{}", spec.worker),
            uid: World::uid(spec.worker),
        };
        let observed = ObservedWorker {
            phase: WorkerPhase::Pending,
            attempt: spec.attempt,
            node: Some(NODE.to_owned()),
            created_at: Some(jiff::Timestamp::now()),
            ..ObservedWorker::gone(handle.clone())
        };
        self.world.workers.lock().unwrap().insert(spec.worker, observed);
        self.world.turn(spec.worker, WorkerPhase::Running);
        let _ = self.world.created.send(spec.clone());
        Ok(handle)
    }

    async fn discard_otp(&self, worker: WorkerId) -> Result<(), ProviderError> {
        self.world.discarded.lock().unwrap().push(worker);
        Ok(())
    }

    async fn worker_status(&self, handle: &WorkerHandle) -> Result<WorkerStatus, ProviderError> {
        let known = self.world.workers.lock().unwrap().get(&handle.worker).cloned();
        let observed = known.unwrap_or_else(|| ObservedWorker::gone(handle.clone()));
        Ok(WorkerStatus { observed, staleness: Staleness(Duration::ZERO) })
    }

    async fn destroy_worker(&self, handle: &WorkerHandle) -> Result<(), ProviderError> {
        self.world.remove(handle.worker);
        Ok(())
    }

    async fn destroy_unknown(&self, worker: WorkerId) -> Result<(), ProviderError> {
        self.world.remove(worker);
        Ok(())
    }

    async fn worker_logs(
        &self,
        _handle: &WorkerHandle,
        _query: LogQuery,
    ) -> Result<Vec<LogEntry>, ProviderError> {
        Ok(Vec::new())
    }

    fn follow_worker_logs(
        &self,
        _handle: &WorkerHandle,
        _query: LogQuery,
    ) -> BoxStream<'static, Result<LogEntry, ProviderError>> {
        futures::stream::empty().boxed()
    }

    async fn list_workers(&self) -> Result<Vec<ObservedWorker>, ProviderError> {
        Ok(self.world.workers.lock().unwrap().values().cloned().collect())
    }

    async fn capabilities(&self) -> Result<ProviderCapabilities, ProviderError> {
        Ok(ProviderCapabilities::default())
    }

    async fn can_fulfill(&self, needs: &Requirements) -> Result<Fulfilment, ProviderError> {
        if needs.resources.cpu_request.as_deref() == Some("999") {
            return Ok(Fulfilment::Never("no node has 999 cores".to_owned()));
        }
        let full = self.world.full.lock().unwrap().clone();
        Ok(full.map_or(Fulfilment::Yes, Fulfilment::NotNow))
    }

    fn estimated_startup_time(&self, _image: Option<&str>) -> StartupEstimate {
        StartupEstimate::default()
    }

    fn keeps_finished(&self) -> Option<Duration> {
        *self.world.kept.lock().unwrap()
    }

    fn subscribe(&self) -> BoxStream<'static, ProviderEvent> {
        let events = tokio_stream::wrappers::BroadcastStream::new(self.world.events.subscribe());
        events.map(|event| event.unwrap_or(ProviderEvent::Resynced)).boxed()
    }
}

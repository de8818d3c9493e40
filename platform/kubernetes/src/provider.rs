//! [`KubernetesProvider`]: the parts of this crate put together behind the port.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use hodei_core::{
    failure::{Failure, FailureCause},
    id::{ProviderId, WorkerId},
    provider::{
        Fulfilment, LogEntry, LogQuery, ObservedWorker, ProviderCapabilities, ProviderError,
        ProviderEvent, Requirements, StartupEstimate, Unhealthy, WorkerHandle, WorkerProvider,
        WorkerSpec, WorkerStatus,
    },
};
use jiff::SignedDuration;
use kube::Client;

use crate::{
    api::{ClusterApi, Pace, RetryPolicy},
    capabilities::Inventory,
    config::KubernetesConfig,
    connect::{Endpoint, connect},
    measure,
    names::secret_name,
    startup::Startups,
    watch::{Heard, Presence, Watch},
};

/// How long an operation waits for the first list of the watch.
pub(crate) const SYNC_DEADLINE: Duration = Duration::from_secs(10);

/// Hodei workers as pods in one namespace of one cluster.
///
/// It keeps one watch for all its workers, and from the first question for what it can offer one each
/// of nodes, quotas and limit ranges. They end when the provider is dropped.
pub struct KubernetesProvider {
    pub(crate) id: ProviderId,
    pub(crate) config: Arc<KubernetesConfig>,
    pub(crate) api: ClusterApi,
    pub(crate) watch: Watch,
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) inventory: Inventory,
    startups: Arc<Startups>,
    /// Workers whose Secret is known to be gone.
    discarded: Mutex<HashSet<WorkerId>>,
}

impl std::fmt::Debug for KubernetesProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubernetesProvider")
            .field("id", &self.id)
            .field("namespace", &self.config.namespace)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl KubernetesProvider {
    /// Reaches the cluster of the configuration and begins to watch. That the cluster answers is not
    /// waited for; ask [`WorkerProvider::health_check`].
    ///
    /// # Errors
    /// When the configuration breaks a rule, or names no cluster.
    pub async fn connect(id: ProviderId, config: KubernetesConfig) -> Result<Self, ProviderError> {
        config.validate().map_err(|invalid| ProviderError {
            operation: "configure",
            subject: format!("provider {id}"),
            failure: Failure { cause: FailureCause::ContainerConfig, message: invalid.to_string() },
            retry_after: None,
            source: Some(Box::new(invalid)),
        })?;
        let (client, endpoint) = connect(&id, &config).await?;
        Ok(Self::assemble(id, config, client, Some(endpoint), RetryPolicy::default()))
    }

    /// A provider on a client that was made elsewhere. It must be called inside a tokio runtime.
    #[must_use]
    pub fn with_client(id: ProviderId, config: KubernetesConfig, client: Client) -> Self {
        Self::assemble(id, config, client, None, RetryPolicy::default())
    }

    /// A builder, for a provider with a part made elsewhere.
    #[must_use]
    pub fn builder(id: ProviderId) -> KubernetesProviderBuilder {
        KubernetesProviderBuilder { id, config: KubernetesConfig::default(), client: None }
    }

    pub(crate) fn assemble(
        id: ProviderId,
        config: KubernetesConfig,
        client: Client,
        endpoint: Option<Endpoint>,
        retry: RetryPolicy,
    ) -> Self {
        let heard = Heard::default();
        let inventory = Inventory::new(&id, client.clone(), &config);
        let startups = Arc::new(Startups::new(inventory.shared()));
        let client = measure::instrument(client, &id, heard.clone());
        let pace = Pace::new(id.clone(), config.api_requests_per_second, config.api_burst);
        let api = ClusterApi::new(client, config.namespace.clone(), retry, pace);
        measure::describe();
        let patience = SignedDuration::from_secs(config.startup_timeout_seconds.into());
        let watch = Watch::start(&id, api.clone(), patience, heard, Arc::clone(&startups));
        Self {
            id,
            config: Arc::new(config),
            api,
            watch,
            endpoint,
            inventory,
            startups,
            discarded: Mutex::new(HashSet::new()),
        }
    }

    /// The configuration it works by.
    #[must_use]
    pub fn config(&self) -> &KubernetesConfig {
        &self.config
    }

    pub(crate) fn discarded(&self) -> MutexGuard<'_, HashSet<WorkerId>> {
        self.discarded.lock().expect("the set of discarded Secrets must not be poisoned")
    }

    async fn require_view(&self, operation: &'static str) -> Result<(), ProviderError> {
        if self.watch.await_synced(SYNC_DEADLINE).await {
            return Ok(());
        }
        let trouble = self.watch.trouble().unwrap_or_else(|| "no answer yet".to_owned());
        Err(ProviderError {
            operation,
            subject: format!("namespace {}", self.config.namespace),
            failure: Failure {
                cause: FailureCause::ApiUnavailable,
                message: format!("the pods have not been listed in {SYNC_DEADLINE:?}: {trouble}"),
            },
            retry_after: None,
            source: None,
        })
    }
}

/// Makes a [`KubernetesProvider`].
pub struct KubernetesProviderBuilder {
    id: ProviderId,
    config: KubernetesConfig,
    client: Option<Client>,
}

impl KubernetesProviderBuilder {
    /// Sets the configuration.
    #[must_use]
    pub fn config(mut self, config: KubernetesConfig) -> Self {
        self.config = config;
        self
    }

    /// Uses this client instead of the cluster that the configuration names.
    #[must_use]
    pub fn client(mut self, client: Client) -> Self {
        self.client = Some(client);
        self
    }

    /// The provider.
    ///
    /// # Errors
    /// As for [`KubernetesProvider::connect`].
    pub async fn build(self) -> Result<KubernetesProvider, ProviderError> {
        match self.client {
            Some(client) => Ok(KubernetesProvider::with_client(self.id, self.config, client)),
            None => KubernetesProvider::connect(self.id, self.config).await,
        }
    }
}

#[async_trait]
impl WorkerProvider for KubernetesProvider {
    fn id(&self) -> &ProviderId {
        &self.id
    }

    async fn health_check(&self) -> Result<(), Unhealthy> {
        self.check_health().await
    }

    async fn create_worker(&self, spec: &WorkerSpec) -> Result<WorkerHandle, ProviderError> {
        self.create(spec).await
    }

    async fn discard_otp(&self, worker: WorkerId) -> Result<(), ProviderError> {
        self.discard(worker)
            .await
            .map_err(|failure| failure.into_error("discard password", secret_name(worker)))
    }

    async fn worker_status(&self, handle: &WorkerHandle) -> Result<WorkerStatus, ProviderError> {
        self.require_view("read worker status").await?;
        let observed = match self.watch.find(handle) {
            Some((Presence::Here(observed), _)) => observed,
            _ => ObservedWorker::gone(handle.clone()),
        };
        Ok(WorkerStatus { observed, staleness: self.watch.staleness() })
    }

    async fn destroy_worker(&self, handle: &WorkerHandle) -> Result<(), ProviderError> {
        self.destroy("destroy worker", handle).await
    }

    async fn destroy_unknown(&self, worker: WorkerId) -> Result<(), ProviderError> {
        self.destroy_any(worker).await
    }

    async fn worker_logs(
        &self,
        handle: &WorkerHandle,
        query: LogQuery,
    ) -> Result<Vec<LogEntry>, ProviderError> {
        self.read_logs(handle, query).await
    }

    fn follow_worker_logs(
        &self,
        handle: &WorkerHandle,
        query: LogQuery,
    ) -> BoxStream<'static, Result<LogEntry, ProviderError>> {
        self.follow_logs(handle, query)
    }

    async fn list_workers(&self) -> Result<Vec<ObservedWorker>, ProviderError> {
        self.require_view("list workers").await?;
        Ok(self.watch.list().unwrap_or_default())
    }

    async fn capabilities(&self) -> Result<ProviderCapabilities, ProviderError> {
        self.offer().await
    }

    async fn can_fulfill(&self, needs: &Requirements) -> Result<Fulfilment, ProviderError> {
        self.judge(needs).await
    }

    fn estimated_startup_time(&self, image: Option<&str>) -> StartupEstimate {
        self.startups.estimate(image.unwrap_or(&self.config.image))
    }

    fn keeps_finished(&self) -> Option<Duration> {
        self.config.ttl_seconds_after_finished.map(|seconds| Duration::from_secs(seconds.into()))
    }

    fn subscribe(&self) -> BoxStream<'static, ProviderEvent> {
        self.watch.subscribe()
    }
}

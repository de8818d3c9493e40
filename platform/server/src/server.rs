//! One server from its settings to its end.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use hodei_core::id::ProviderId;
use serde_json::json;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::App,
    auth::Access,
    authorities::{self, Authorities},
    config::Config,
    grpc,
    limits::Limits,
    logs::{archive::Archive, follow::Logs, retention::Periods},
    net::{bind, grpc_identity, rest_acceptor, write_port_file},
    pool::Pool,
    registry::{ProviderFactory, Registry},
    rest, scheduler,
    session::live::Sessions,
    store::{Store, notify::Hub},
    telemetry,
    trace::Traces,
};

/// Name of the provider that the environment describes.
pub const ENVIRONMENT_PROVIDER: &str = "kubernetes";
/// How long tasks have to end at a shutdown: log frames get to the database, streams get their last word.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A server that runs. Workers outlive it: they connect to the next one.
#[derive(Debug)]
pub struct Server {
    pub(crate) app: Arc<App>,
    /// Where gRPC is served, in the order of the settings.
    pub grpc: Vec<SocketAddr>,
    /// Where REST is served.
    pub rest: SocketAddr,
}

/// Connects to the database and brings its schema up to date.
///
/// # Errors
/// When it does not answer, or holds a schema of a later version.
pub async fn migrate(config: &Config) -> anyhow::Result<()> {
    connect(config).await.map(drop)
}

async fn connect(config: &Config) -> anyhow::Result<Store> {
    let store = Store::connect(config.database_url.expose(), config.database_connections).await;
    let store = store.context("HODEI_DATABASE_URL: the database cannot be used")?;
    store.migrate().await.context("the schema could not be brought up to date")?;
    Ok(store)
}

impl Server {
    /// Starts everything; returns when all listeners are up.
    ///
    /// # Errors
    /// When a setting is wrong, a port is in use, or the database cannot be used.
    pub async fn start(config: &Config, factory: Arc<dyn ProviderFactory>) -> anyhow::Result<Self> {
        config.validate().map_err(|problem| anyhow!(problem))?;
        let identity = grpc_identity(&config.tls)?;
        let acceptor = rest_acceptor(&config.tls)?;
        let authorities = Authorities::from_config(&config.tls)?;
        let mut listeners = Vec::new();
        for address in &config.grpc_listen {
            listeners.push(bind(*address, "--grpc-listen").await?);
        }
        let rest_listener = bind(config.rest_listen, "--rest-listen").await?;
        let grpc = listeners.iter().map(|listener| listener.local_addr());
        let grpc: Vec<SocketAddr> = grpc.collect::<Result<_, _>>()?;
        let rest = rest_listener.local_addr()?;
        let first = grpc.first().context("--grpc-listen is empty")?;
        let advertised = config.advertised(*first);
        let authorities = handed_on(config, authorities, &advertised)?;
        let app = assemble(config, factory, advertised, authorities).await?;
        let (hub, store, stop) = (app.hub.clone(), app.store.clone(), app.stop.clone());
        app.tasks.spawn(async move { hub.listen(&store, stop).await });
        if config.k8s_enabled {
            add_environment_provider(&app).await?;
        }
        scheduler::start(&app);
        grpc::serve::serve(&app, listeners, identity).await?;
        rest::serve::serve(&app, rest_listener, acceptor)?;
        if let Some(path) = &config.port_file {
            write_port_file(path, &grpc, rest).await?;
        }
        if config.insecure_no_auth {
            tracing::warn!("--insecure-no-auth: whoever reaches this server may run jobs on it");
        }
        tracing::info!(?grpc, %rest, advertised = app.advertised, "hodei-server is up");
        Ok(Self { app, grpc, rest })
    }

    /// Resolves when the server ends by itself because a listener failed.
    pub async fn failed(&self) {
        self.app.stop.cancelled().await;
    }

    /// Takes nothing new, lets what is on its way get to the database, and ends. Workers are left alone.
    pub async fn shut_down(self) {
        self.app.stop.cancel();
        self.app.tasks.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.app.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.app.tasks.len(), "not everything ended in time");
        }
        self.app.traces.shut_down().await;
        self.app.store.pool.close().await;
    }
}

/// The authorities that workers are given, and a warning where they would be of no use.
fn handed_on(
    config: &Config,
    authorities: Option<Authorities>,
    advertised: &str,
) -> anyhow::Result<Option<String>> {
    if !advertised.starts_with("https://") {
        return Ok(None);
    }
    let Some(authorities) = authorities else {
        tracing::warn!(advertised, "{}", authorities::NONE_GIVEN);
        return Ok(None);
    };
    if let Some(problem) = authorities.objection(&config.tls, advertised)? {
        tracing::warn!(advertised, problem, "workers will not accept the gRPC certificate");
    }
    Ok(Some(authorities.to_pem()))
}

async fn assemble(
    config: &Config,
    factory: Arc<dyn ProviderFactory>,
    advertised: String,
    authorities: Option<String>,
) -> anyhow::Result<Arc<App>> {
    let access = Access::from_config(config)?;
    let traces = Traces::start(&config.traces)?;
    let store = Store { traces: traces.clone(), ..connect(config).await? };
    let archive = Arc::new(
        Archive::open(&config.logs.log_store.read().map_err(|problem| anyhow!(problem))?).await?,
    );
    let hub = Arc::new(Hub::default());
    Ok(Arc::new(App {
        logs: Logs { archive, store: store.clone(), hub: hub.clone(), live: Arc::default() },
        store,
        hub,
        sessions: Sessions::default(),
        registry: Registry::new(factory),
        timing: config.timing,
        periods: Periods::from(&config.logs),
        access,
        limits: Limits::new(&config.limits),
        advertised,
        authorities,
        metrics: telemetry::metrics()?,
        traces,
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
    }))
}

async fn add_environment_provider(app: &App) -> anyhow::Result<()> {
    let id: ProviderId = ENVIRONMENT_PROVIDER.parse()?;
    let pool = Pool::from_env(|name| std::env::var(name).ok())?;
    let row = app.store.add_provider(&id, "kubernetes", true, &json!({}), pool).await?;
    if !row.from_environment {
        tracing::warn!(provider = %id, "registered by REST already; HODEI_K8S_* are not used");
    } else if row.pool != pool {
        app.store.set_pool(&id, pool).await?;
    }
    Ok(())
}

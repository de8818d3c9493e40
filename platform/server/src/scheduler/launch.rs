//! One claimed attempt to one created worker. Outside of any transaction: creating is idempotent, and
//! what is written down before and after it says what is left to do after a crash.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hodei_core::{
    attempt::AttemptEnd,
    failure::{Failure, FailureCause},
    id::{Epoch, WorkerId},
    provider::{ProviderError, WorkerHandle, WorkerProvider, WorkerSpec},
    secret::Secret,
    spec::Resources,
    worker::WorkerState,
};
use jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    app::App,
    policy::backoff,
    pool::Pool,
    registry::Entry,
    store::{
        StoreError,
        claim::{CREATE_TIMEOUT, Claim},
    },
    telemetry::{Stage, worker_stage},
};

/// Beyond start-up and run time, how long the cluster lets a worker live without the control plane.
const DEADLINE_MARGIN: Duration = Duration::from_secs(600);
/// How long a provider whose quota is full gets no work, unless it says how long.
const QUOTA_PAUSE: Duration = Duration::from_secs(2);
/// How often a write is tried again that must not be lost.
const WRITE_TRIES: u32 = 8;

pub(super) async fn launch(
    app: Arc<App>,
    claim: Claim,
    otp: Secret,
    provider: Arc<dyn WorkerProvider>,
) {
    let (worker, key) = (claim.worker, claim.key);
    if key.epoch == Epoch::FIRST {
        let waited = seconds_since(claim.job.submitted_at);
        metrics::histogram!("hodei_stage_seconds", "stage" => "queue").record(waited);
    }
    tracing::info!(job_id = %key.job, epoch = key.epoch.0, worker_id = %worker, provider = %claim.provider,
        correlation_id = claim.job.correlation_id, "creating a worker");
    let begun = Instant::now();
    let created = create(&*provider, &worker_spec(&app, &claim, otp), begun + CREATE_TIMEOUT).await;
    let took = begun.elapsed().as_secs_f64();
    metrics::histogram!("hodei_stage_seconds", "stage" => "create").record(took);
    let written = match created {
        Ok(handle) => {
            if let Some(refused_for) = claim.refused_for {
                worker_stage(claim.provider.as_str(), Stage::Quota, refused_for + took);
            }
            let created = created_as(&app, &provider, &handle).await;
            if claim.refused_for.is_some() {
                let noted = persist(|| app.store.room_found(claim.key)).await;
                created.and(noted)
            } else {
                created
            }
        }
        Err(failure) => failed(&app, &claim, failure).await,
    };
    if let Err(error) = written {
        // The reconciler adopts or removes whatever is there once the creation's time is over.
        tracing::error!(%error, worker_id = %worker, "a creation could not be written down");
    }
}

/// Creates a worker of a pool for which there is no job yet.
pub(super) async fn launch_idle(
    app: Arc<App>,
    entry: Entry,
    pool: Pool,
    worker: WorkerId,
    otp: Secret,
) {
    let id = entry.row.id.as_str();
    tracing::info!(worker_id = %worker, provider = id, "creating a worker for the pool");
    let spec = pooled_spec(&app, pool, worker, otp);
    let created = create(&*entry.provider, &spec, Instant::now() + CREATE_TIMEOUT).await;
    let written = match created {
        Ok(handle) => created_as(&app, &entry.provider, &handle).await,
        Err(CreateFailed { failure, retry_after }) => {
            tracing::warn!(worker_id = %worker, provider = id, cause = failure.cause.as_str(),
                message = failure.message, "a worker of the pool could not be created");
            if failure.cause == FailureCause::Quota {
                app.registry.pause(&entry.row.id, retry_after.unwrap_or(QUOTA_PAUSE));
            }
            no_worker(&app, id, worker, &failure).await
        }
    };
    if let Err(error) = written {
        tracing::error!(%error, worker_id = %worker, "a creation could not be written down");
    }
}

/// One that has a job by now was made all the same: the reconciler finds it.
async fn no_worker(
    app: &App,
    provider: &str,
    worker: WorkerId,
    failure: &Failure,
) -> Result<(), StoreError> {
    persist(|| app.store.pool_failed(provider)).await?;
    persist(|| app.store.doom_if_latest(worker, None, &failure.message)).await?;
    persist(|| app.store.creation_over(worker)).await
}

fn pooled_spec(app: &App, pool: Pool, worker: WorkerId, otp: Secret) -> WorkerSpec {
    WorkerSpec {
        worker,
        attempt: None,
        image: None,
        resources: Resources::default(),
        server_address: app.advertised.clone(),
        otp,
        labels: BTreeMap::new(),
        env: agent_env(app, "HODEI_WORKER_POOLED", "1"),
        avoid_nodes: Vec::new(),
        deadline: Some(pool.life() + app.timing.cancel_grace + DEADLINE_MARGIN),
    }
}

fn worker_spec(app: &App, claim: &Claim, otp: Secret) -> WorkerSpec {
    if let Some(pool) = claim.pool {
        let spec = pooled_spec(app, pool, claim.worker, otp);
        return WorkerSpec { avoid_nodes: claim.lost_on.clone(), ..spec };
    }
    let spec = &claim.job.spec;
    WorkerSpec {
        worker: claim.worker,
        attempt: Some(claim.key),
        image: spec.image.clone(),
        resources: spec.resources.clone(),
        server_address: app.advertised.clone(),
        otp,
        labels: BTreeMap::new(),
        env: agent_env(app, "HODEI_CORRELATION_ID", &claim.job.correlation_id),
        avoid_nodes: claim.lost_on.clone(),
        deadline: Some(spec.timeouts.startup + spec.timeouts.run + DEADLINE_MARGIN),
    }
}

/// Environment of an agent: one variable, and whom to trust. The authorities are in the pod itself and
/// not beside its password, which is removed while the agent may have to connect again.
fn agent_env(app: &App, name: &str, value: &str) -> BTreeMap<String, String> {
    let authorities = app.authorities.iter().map(|pem| ("HODEI_CA_PEM".to_owned(), pem.clone()));
    authorities.chain([(name.to_owned(), value.to_owned())]).collect()
}

/// Creates, again and again while the provider's API does not answer.
async fn create(
    provider: &dyn WorkerProvider,
    spec: &WorkerSpec,
    deadline: Instant,
) -> Result<WorkerHandle, CreateFailed> {
    let mut tries = 0;
    loop {
        match timeout_at(deadline, provider.create_worker(spec)).await {
            Ok(Ok(handle)) => return Ok(handle),
            Ok(Err(error)) => {
                let again = Instant::now() + error.retry_after.unwrap_or_else(|| backoff(tries));
                if error.cause() != FailureCause::ApiUnavailable || again >= deadline {
                    return Err(error.into());
                }
                tracing::warn!(worker_id = %spec.worker, %error, "creating is tried again");
                sleep(again - Instant::now()).await;
                tries += 1;
            }
            Err(_) => {
                let message = format!("no answer within {CREATE_TIMEOUT:?}");
                let failure = Failure { cause: FailureCause::ApiUnavailable, message };
                return Err(CreateFailed { failure, retry_after: None });
            }
        }
    }
}

struct CreateFailed {
    failure: Failure,
    retry_after: Option<Duration>,
}

impl From<ProviderError> for CreateFailed {
    fn from(error: ProviderError) -> Self {
        Self { failure: error.failure, retry_after: error.retry_after }
    }
}

async fn created_as(
    app: &Arc<App>,
    provider: &Arc<dyn WorkerProvider>,
    handle: &WorkerHandle,
) -> Result<(), StoreError> {
    let state = persist(|| app.store.store_handle(handle)).await?;
    tracing::info!(worker_id = %handle.worker, resource = handle.resource, "created");
    // Cancelled and cleared up while it was being made: the reaper had nothing to remove then.
    if state.is_none_or(|state| state == WorkerState::Terminated) {
        super::reaper::remove_stray(app, provider, handle).await;
    }
    // One that is only doomed has its handle now; the reaper may go on.
    crate::store::notify::notify(&app.store.pool, crate::store::notify::Topic::Doomed).await
}

async fn failed(app: &Arc<App>, claim: &Claim, error: CreateFailed) -> Result<(), StoreError> {
    let CreateFailed { failure, retry_after } = error;
    tracing::warn!(job_id = %claim.key.job, epoch = claim.key.epoch.0, worker_id = %claim.worker,
        cause = failure.cause.as_str(), message = failure.message, "a worker could not be created");
    if failure.cause == FailureCause::Quota {
        app.registry.pause(&claim.provider, retry_after.unwrap_or(QUOTA_PAUSE));
    }
    let lost = AttemptEnd::Lost(failure);
    persist(|| app.store.end_attempt(claim.key, claim.worker, &lost)).await?;
    persist(|| app.store.creation_over(claim.worker)).await
}

/// Writes again while the database does not answer, for a while.
async fn persist<T, F: Future<Output = Result<T, StoreError>>>(
    write: impl Fn() -> F,
) -> Result<T, StoreError> {
    let mut tries = 0;
    loop {
        match write().await {
            Err(StoreError::Database(error)) if tries < WRITE_TRIES => {
                tracing::warn!(%error, "a write is tried again");
                sleep(backoff(tries)).await;
                tries += 1;
            }
            result => return result,
        }
    }
}

pub(super) fn seconds_since(time: Timestamp) -> f64 {
    (Timestamp::now() - time).total(jiff::Unit::Second).unwrap_or(0.0).max(0.0)
}

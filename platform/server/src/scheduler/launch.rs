//! One claimed attempt to one created worker. Outside of any transaction: creating is idempotent, and
//! what is written down before and after it says what is left to do after a crash.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hodei_core::{
    attempt::AttemptEnd,
    failure::{Failure, FailureCause},
    id::Epoch,
    provider::{ProviderError, WorkerHandle, WorkerProvider, WorkerSpec},
    secret::Secret,
    worker::WorkerState,
};
use jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    app::App,
    policy::backoff,
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
            created_as(&app, &provider, &claim, &handle).await
        }
        Err(failure) => failed(&app, &claim, failure).await,
    };
    if let Err(error) = written {
        // The reconciler adopts or removes whatever is there once the creation's time is over.
        tracing::error!(%error, worker_id = %worker, "a creation could not be written down");
    }
}

fn worker_spec(app: &App, claim: &Claim, otp: Secret) -> WorkerSpec {
    let spec = &claim.job.spec;
    let correlation = ("HODEI_CORRELATION_ID".to_owned(), claim.job.correlation_id.clone());
    WorkerSpec {
        worker: claim.worker,
        attempt: Some(claim.key),
        image: spec.image.clone(),
        resources: spec.resources.clone(),
        server_address: app.advertised.clone(),
        otp,
        labels: BTreeMap::new(),
        env: BTreeMap::from([correlation]),
        deadline: Some(spec.timeouts.startup + spec.timeouts.run + DEADLINE_MARGIN),
    }
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
    claim: &Claim,
    handle: &WorkerHandle,
) -> Result<(), StoreError> {
    let state = persist(|| app.store.store_handle(handle)).await?;
    if claim.refused_for.is_some() {
        persist(|| app.store.room_found(claim.key)).await?;
    }
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

fn seconds_since(time: Timestamp) -> f64 {
    (Timestamp::now() - time).total(jiff::Unit::Second).unwrap_or(0.0).max(0.0)
}

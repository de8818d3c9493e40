//! Queued jobs to providers: looks, chooses, claims, launches.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use hodei_core::{
    id::{Epoch, ProviderId},
    provider::{Fulfilment, Requirements},
    secret::Secret,
};
use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::launch::{launch, seconds_since};
use crate::{
    app::App,
    registry::{Choice, Entry, Offer, Pause, WAITING_FOR_QUOTA, choose},
    store::{
        StoreError,
        claim::Live,
        notify::{Topic, changed_within},
        pool::{Idle, WarmClaim},
        rows::JobRow,
    },
};

/// Workers that may be in creation at once.
const LAUNCHES: usize = 32;
/// Jobs looked at together where there are pools: behind those that wait for a worker of a full one may
/// be others.
const AT_ONCE_WITH_POOLS: u32 = 64;
/// How often the queue is looked at, beside being woken: jobs whose pause is over wake nobody.
const POLL: Duration = Duration::from_millis(500);
/// How long a provider may take to say whether it can do a job.
const CAN_FULFILL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a job may wait for the first provider before it says so.
const UNEXPLAINED: Duration = Duration::from_secs(2);

pub(super) async fn run(app: Arc<App>) {
    let mut queue = app.hub.subscribe(Topic::Queue);
    let launches = Arc::new(Semaphore::new(LAUNCHES));
    loop {
        queue.mark_unchanged();
        match dispatch(&app, &launches).await {
            // There may be more, and there is room for it.
            Ok(given) if given > 0 && launches.available_permits() > 0 => continue,
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the queue could not be looked at"),
        }
        if launches.available_permits() > 0 {
            changed_within(&mut queue, POLL).await;
            continue;
        }
        // Woken by the first launch that is through; idle workers need no launch.
        let launched = async { drop(launches.acquire().await) };
        if app.registry.has_pools() {
            tokio::select! {
                () = launched => {}
                () = changed_within(&mut queue, POLL) => {}
            }
        } else {
            launched.await;
        }
    }
}

/// Gives jobs to workers, in the order of the queue. Returns to how many.
async fn dispatch(app: &Arc<App>, launches: &Arc<Semaphore>) -> Result<usize, StoreError> {
    let entries = app.registry.all();
    let pools = entries.iter().any(|entry| entry.row.pool.is_some());
    let room = u32::try_from(launches.available_permits()).unwrap_or(u32::MAX);
    let due = app.store.due_jobs(if pools { AT_ONCE_WITH_POOLS } else { room }).await?;
    let mut workers = Workers::default();
    let mut given = 0;
    for job in due {
        match take_idle(app, &entries, &mut workers, &job).await? {
            Idle::Given(claim) => {
                taken(&claim);
                given += 1;
                continue;
            }
            Idle::NotQueued => continue,
            Idle::None => {}
        }
        let live = workers.live(app).await?;
        let offers = offers(app, &entries, live, &job).await;
        let provider = match choose(&offers) {
            Choice::Use(provider) => provider,
            Choice::Wait { reason, refused } => {
                explain(app, &job, &reason, refused).await?;
                continue;
            }
            Choice::Never(reason) => {
                app.store.reject(job.id, &reason).await?;
                continue;
            }
        };
        let Some(entry) = entries.iter().find(|entry| entry.row.id == provider) else { continue };
        let permit = match launches.clone().try_acquire_owned() {
            Ok(permit) => permit,
            // A job further back may go to an idle worker.
            Err(_) if pools => continue,
            Err(_) => break,
        };
        let otp = Secret::generate();
        let pool = entry.row.pool.filter(|pool| pool.takes(&job.spec));
        let claim = app.store.claim(job.id, &provider, &otp.hash(), pool).await?;
        let Some(claim) = claim else { continue };
        let more = live.entry(provider.as_str().to_owned()).or_default();
        more.all += 1;
        more.pooled += i64::from(pool.is_some());
        given += 1;
        let work = launch(app.clone(), claim, otp, entry.provider.clone());
        app.tasks.spawn(async move {
            work.await;
            drop(permit);
        });
    }
    Ok(given)
}

/// What one look at the queue knows of the workers that there are.
#[derive(Default)]
struct Workers {
    live: Option<HashMap<String, Live>>,
    /// Providers without an idle worker.
    none_idle: HashSet<ProviderId>,
}

impl Workers {
    /// Counted when a job needs to know it for the first time.
    async fn live(&mut self, app: &App) -> Result<&mut HashMap<String, Live>, StoreError> {
        let known = match self.live.take() {
            Some(known) => known,
            None => app.store.live_workers().await?.into_iter().collect(),
        };
        Ok(self.live.insert(known))
    }
}

/// Gives a job that wants nothing of its own to an idle worker of a pool.
async fn take_idle(
    app: &App,
    entries: &[Entry],
    workers: &mut Workers,
    job: &JobRow,
) -> Result<Idle, StoreError> {
    let able = entries.iter().filter(|entry| {
        entry.row.pool.is_some_and(|pool| pool.takes(&job.spec))
            && !workers.none_idle.contains(&entry.row.id)
    });
    let able: Vec<_> = able.map(|entry| entry.row.id.clone()).collect();
    if able.is_empty() {
        return Ok(Idle::None);
    }
    let names: Vec<_> = able.iter().map(|id| id.as_str()).collect();
    // A worker that was not heard of for half a lease may well be gone.
    let found = app.store.claim_idle(job.id, &names, app.timing.lease / 2).await?;
    if matches!(found, Idle::None) {
        workers.none_idle.extend(able);
    }
    Ok(found)
}

fn taken(claim: &WarmClaim) {
    if claim.key.epoch == Epoch::FIRST {
        metrics::histogram!("hodei_stage_seconds", "stage" => "queue")
            .record(seconds_since(claim.submitted_at));
    }
    tracing::info!(job_id = %claim.key.job, epoch = claim.key.epoch.0, worker_id = %claim.worker,
        provider = claim.provider, correlation_id = claim.correlation_id, "given to an idle worker");
}

/// Whether two reasons are the same but for the room that is left, which changes all the time.
fn only_numbers_differ(one: &str, other: &str) -> bool {
    let is_word = |letter: &char| !letter.is_ascii_digit();
    one.chars().filter(is_word).eq(other.chars().filter(is_word))
}

/// Writes down what a job waits for, unless it says so already. The words of a quota's own refusal say
/// more than ours and stay.
async fn explain(app: &App, job: &JobRow, reason: &str, refused: bool) -> Result<(), StoreError> {
    let quota = reason.starts_with(WAITING_FOR_QUOTA);
    let said = only_numbers_differ(&job.reason, reason)
        || (quota && job.reason.starts_with(WAITING_FOR_QUOTA));
    let known = said && (!refused || job.refused_since.is_some());
    // Providers are connected one by one after a start: that alone is no reason.
    let waited = (Timestamp::now() - job.submitted_at).total(jiff::Unit::Second).unwrap_or(0.0);
    if known || (!refused && waited < UNEXPLAINED.as_secs_f64()) {
        return Ok(());
    }
    app.store.note_queued(job.id, if said { &job.reason } else { reason }, refused).await
}

async fn offers(
    app: &App,
    entries: &[Entry],
    live: &HashMap<String, Live>,
    job: &JobRow,
) -> Vec<Offer> {
    let needs = Requirements { resources: job.spec.resources.clone(), ..Requirements::default() };
    let ask = entries.iter().map(async |entry| {
        let id = entry.row.id.clone();
        let asked = tokio::time::timeout(CAN_FULFILL_TIMEOUT, entry.provider.can_fulfill(&needs));
        let workers = live.get(id.as_str()).copied().unwrap_or_default();
        let pool = entry.row.pool.filter(|pool| pool.takes(&job.spec));
        let no_room = pool.is_some_and(|pool| workers.pooled >= i64::from(pool.maximum));
        let full = match no_room {
            true => Some(Pause::Pool),
            false => app.registry.is_paused(&id).then_some(Pause::Quota),
        };
        let mut offer =
            Offer { live_workers: workers.all, paused: full, not_now: None, never: None, id };
        match asked.await {
            Ok(Ok(Fulfilment::Yes)) => {}
            Ok(Ok(Fulfilment::NotNow(reason))) => offer.not_now = Some(reason),
            Ok(Ok(Fulfilment::Never(reason))) => offer.never = Some(reason),
            Ok(Err(error)) => {
                tracing::warn!(provider = %offer.id, %error, "a provider gives no answer");
                offer.paused = full.or(Some(Pause::Silent));
            }
            Err(_) => offer.paused = full.or(Some(Pause::Silent)),
        }
        offer
    });
    futures::future::join_all(ask).await
}

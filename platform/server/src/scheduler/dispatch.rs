//! Queued jobs to providers: looks, chooses, claims, launches.

use std::{collections::HashMap, sync::Arc, time::Duration};

use hodei_core::{
    provider::{Fulfilment, Requirements},
    secret::Secret,
};
use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::launch::launch;
use crate::{
    app::App,
    registry::{Choice, Entry, Offer, Pause, WAITING_FOR_QUOTA, choose},
    store::{
        StoreError,
        notify::{Topic, changed_within},
        rows::JobRow,
    },
};

/// Workers that may be in creation at once.
const LAUNCHES: usize = 32;
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
            Ok(launched) if launched > 0 && launches.available_permits() > 0 => continue,
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the queue could not be looked at"),
        }
        if launches.available_permits() == 0 {
            // Woken by the first launch that is through.
            drop(launches.acquire().await);
            continue;
        }
        changed_within(&mut queue, POLL).await;
    }
}

async fn dispatch(app: &Arc<App>, launches: &Arc<Semaphore>) -> Result<usize, StoreError> {
    let entries = app.registry.all();
    let room = u32::try_from(launches.available_permits()).unwrap_or(u32::MAX);
    let due = app.store.due_jobs(room).await?;
    if due.is_empty() {
        return Ok(0);
    }
    let mut live: HashMap<_, _> = app.store.live_workers().await?.into_iter().collect();
    let mut launched = 0;
    for job in due {
        let offers = offers(app, &entries, &live, &job).await;
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
        let Ok(permit) = launches.clone().try_acquire_owned() else { break };
        let otp = Secret::generate();
        let Some(claim) = app.store.claim(job.id, &provider, &otp.hash()).await? else { continue };
        *live.entry(provider.as_str().to_owned()).or_default() += 1;
        launched += 1;
        let work = launch(app.clone(), claim, otp, entry.provider.clone());
        app.tasks.spawn(async move {
            work.await;
            drop(permit);
        });
    }
    Ok(launched)
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
    live: &HashMap<String, i64>,
    job: &JobRow,
) -> Vec<Offer> {
    let needs = Requirements { resources: job.spec.resources.clone(), ..Requirements::default() };
    let ask = entries.iter().map(async |entry| {
        let id = entry.row.id.clone();
        let asked = tokio::time::timeout(CAN_FULFILL_TIMEOUT, entry.provider.can_fulfill(&needs));
        let full = app.registry.is_paused(&id).then_some(Pause::Quota);
        let mut offer = Offer {
            live_workers: live.get(id.as_str()).copied().unwrap_or(0),
            paused: full,
            not_now: None,
            never: None,
            id,
        };
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

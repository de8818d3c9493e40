//! The providers this server is connected to, and the choice between them.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use hodei_core::{
    id::ProviderId,
    provider::{ProviderCapabilities, ProviderError, Unhealthy, WorkerProvider},
};
use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::store::providers::ProviderRow;

/// Why a provider could not be connected.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No adapter of that name is built in.
    #[error("there is no provider type {0:?}; there is: kubernetes")]
    UnknownKind(String),
    /// The settings are not what the adapter understands.
    #[error("config: {0}")]
    Config(String),
    /// A stage of the way to it is broken.
    #[error(transparent)]
    Unhealthy(#[from] Unhealthy),
    /// It could not be set up.
    #[error(transparent)]
    Provider(#[from] ProviderError),
}

/// Makes providers from their settings: the one seam between the server and its adapters.
#[async_trait]
pub trait ProviderFactory: fmt::Debug + Send + Sync + 'static {
    /// Connects a provider of type `kind` with `config`; with `None`, with what the environment says.
    ///
    /// # Errors
    /// When the type or the settings are wrong, or the provider cannot be reached.
    async fn connect(
        &self,
        id: &ProviderId,
        kind: &str,
        config: Option<&Value>,
    ) -> Result<Arc<dyn WorkerProvider>, ConnectError>;
}

/// One connected provider.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) provider: Arc<dyn WorkerProvider>,
    /// The row it was made from.
    pub(crate) row: ProviderRow,
    /// What its last health check said.
    pub(crate) health: Result<(), String>,
    /// When that was.
    pub(crate) checked_at: Timestamp,
    /// What it last said it can offer, and when.
    pub(crate) capabilities: Option<(ProviderCapabilities, Timestamp)>,
    /// Ends the tasks that watch it.
    pub(crate) stop: CancellationToken,
    paused_until: Option<Instant>,
}

/// The providers of this server.
pub(crate) struct Registry {
    pub(crate) factory: Arc<dyn ProviderFactory>,
    entries: RwLock<HashMap<ProviderId, Entry>>,
    /// Registered ones that could not be connected, and why.
    broken: RwLock<HashMap<ProviderId, String>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("factory", &self.factory).finish_non_exhaustive()
    }
}

impl Registry {
    pub(crate) fn new(factory: Arc<dyn ProviderFactory>) -> Self {
        Self { factory, entries: RwLock::default(), broken: RwLock::default() }
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<ProviderId, Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<ProviderId, Entry>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a provider unless one was made from the same row already; says whether it did.
    pub(crate) fn add(
        &self,
        row: ProviderRow,
        provider: Arc<dyn WorkerProvider>,
        stop: CancellationToken,
    ) -> bool {
        let mut entries = self.write();
        if entries.get(&row.id).is_some_and(|entry| entry.row.created_at == row.created_at) {
            return false;
        }
        self.broken.write().unwrap_or_else(PoisonError::into_inner).remove(&row.id);
        let entry = Entry {
            provider,
            row: row.clone(),
            health: Ok(()),
            checked_at: Timestamp::now(),
            capabilities: None,
            stop,
            paused_until: None,
        };
        if let Some(before) = entries.insert(row.id, entry) {
            before.stop.cancel();
        }
        true
    }

    /// Drops every provider that has no row any more; the others get the pools of their rows.
    pub(crate) fn retain(&self, rows: &[ProviderRow]) {
        let known = |id: &ProviderId| rows.iter().any(|row| row.id == *id);
        self.write().retain(|id, entry| match rows.iter().find(|row| row.id == *id) {
            Some(row) => {
                entry.row.pool = row.pool;
                true
            }
            None => {
                entry.stop.cancel();
                false
            }
        });
        self.broken.write().unwrap_or_else(PoisonError::into_inner).retain(|id, _| known(id));
    }

    pub(crate) fn get(&self, id: &ProviderId) -> Option<Entry> {
        self.read().get(id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Entry> {
        self.read().values().cloned().collect()
    }

    /// Whether a provider has a pool.
    pub(crate) fn has_pools(&self) -> bool {
        self.read().values().any(|entry| entry.row.pool.is_some())
    }

    /// Notes why a registered provider is not connected.
    pub(crate) fn set_broken(&self, id: &ProviderId, problem: String) {
        let mut broken = self.broken.write().unwrap_or_else(PoisonError::into_inner);
        broken.insert(id.clone(), problem);
    }

    /// Health by provider: connected ones by their last check, the others by what keeps them out.
    pub(crate) fn health(&self, id: &ProviderId) -> Result<(), String> {
        if let Some(entry) = self.read().get(id) {
            return entry.health.clone();
        }
        let broken = self.broken.read().unwrap_or_else(PoisonError::into_inner);
        Err(broken.get(id).cloned().unwrap_or_else(|| "not connected yet".to_owned()))
    }

    pub(crate) fn set_health(&self, id: &ProviderId, health: Result<(), String>) {
        if let Some(entry) = self.write().get_mut(id) {
            entry.health = health;
            entry.checked_at = Timestamp::now();
        }
    }

    /// What a provider says now that it can offer.
    pub(crate) fn set_capabilities(&self, id: &ProviderId, capabilities: ProviderCapabilities) {
        if let Some(entry) = self.write().get_mut(id) {
            entry.capabilities = Some((capabilities, Timestamp::now()));
        }
    }

    /// Gives a provider no work for a while: its quota is full.
    pub(crate) fn pause(&self, id: &ProviderId, period: Duration) {
        if let Some(entry) = self.write().get_mut(id) {
            entry.paused_until = Some(Instant::now() + period);
        }
    }

    /// There is room again.
    pub(crate) fn resume(&self, id: &ProviderId) {
        if let Some(entry) = self.write().get_mut(id) {
            entry.paused_until = None;
        }
    }

    /// Whether it may be given work now.
    pub(crate) fn is_paused(&self, id: &ProviderId) -> bool {
        let until = self.read().get(id).and_then(|entry| entry.paused_until);
        until.is_some_and(|until| until > Instant::now())
    }
}

/// How the reason of a job begins that waits for a quota.
pub(crate) const WAITING_FOR_QUOTA: &str = "waiting: quota";

/// Why a provider takes no work now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pause {
    /// It refused a worker for a full quota a moment ago.
    Quota,
    /// It did not say whether it can do the job.
    Silent,
    /// Its pool has as many workers as it may, and none is idle.
    Pool,
}

/// A provider as the choice sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) id: ProviderId,
    pub(crate) live_workers: i64,
    /// Why it takes no work now.
    pub(crate) paused: Option<Pause>,
    /// Why it can't do this job now.
    pub(crate) not_now: Option<String>,
    /// Why it can never do this job.
    pub(crate) never: Option<String>,
}

/// Where a job goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    Use(ProviderId),
    /// Nobody takes it now; somebody may later.
    Wait {
        reason: String,
        /// A provider could, but takes no work now.
        refused: bool,
    },
    /// Nobody ever will, and why.
    Never(String),
}

/// Chooses: of those that can do the job and take work now, the one with the fewest workers.
pub(crate) fn choose(options: &[Offer]) -> Choice {
    if !options.is_empty()
        && let Some(reasons) = options
            .iter()
            .map(|option| option.never.as_ref().map(|never| format!("{}: {never}", option.id)))
            .collect::<Option<Vec<_>>>()
    {
        return Choice::Never(format!("no provider can run it: {}", reasons.join("; ")));
    }
    options
        .iter()
        .filter(|option| {
            option.paused.is_none() && option.not_now.is_none() && option.never.is_none()
        })
        .min_by(|a, b| (a.live_workers, &a.id).cmp(&(b.live_workers, &b.id)))
        .map_or_else(|| wait(options), |option| Choice::Use(option.id.clone()))
}

fn wait(options: &[Offer]) -> Choice {
    let able = || options.iter().filter(|option| option.never.is_none());
    let paused = |pause| {
        let those = able().filter(|option| option.paused == Some(pause));
        let mut names: Vec<_> = those.map(|option| option.id.to_string()).collect();
        names.sort();
        names.join(", ")
    };
    let mut not_now: Vec<_> = able()
        .filter_map(|option| Some(format!("{}: {}", option.id, option.not_now.as_ref()?)))
        .collect();
    not_now.sort();
    let reason = match (paused(Pause::Quota), paused(Pause::Silent)) {
        _ if !paused(Pause::Pool).is_empty() => {
            let reason = format!("waiting: for a worker of the pool of {}", paused(Pause::Pool));
            return Choice::Wait { reason, refused: false };
        }
        _ if !not_now.is_empty() => format!("waiting: {}", not_now.join("; ")),
        (full, _) if !full.is_empty() => format!("{WAITING_FOR_QUOTA}: no room for more at {full}"),
        (_, silent) if !silent.is_empty() => format!("waiting: no answer from {silent}"),
        _ => {
            let reason = "waiting: no provider is connected".to_owned();
            return Choice::Wait { reason, refused: false };
        }
    };
    Choice::Wait { reason, refused: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Option<Pause> = Some(Pause::Quota);
    const SILENT: Option<Pause> = Some(Pause::Silent);

    fn offer(name: &str, live_workers: i64, paused: Option<Pause>, never: Option<&str>) -> Offer {
        let never = never.map(str::to_owned);
        Offer { id: name.parse().unwrap(), live_workers, paused, not_now: None, never }
    }

    fn check(options: &[Offer], expect: &str) {
        let choice = match choose(options) {
            Choice::Use(id) => id.to_string(),
            Choice::Wait { reason, refused } => {
                let says_so = |option: &Offer| option.paused.is_some() || option.not_now.is_some();
                let full = options.iter().any(|option| option.paused == Some(Pause::Pool));
                assert_eq!(refused, options.iter().any(says_so) && !full);
                reason
            }
            Choice::Never(reason) => reason,
        };
        assert_eq!(choice, expect);
    }

    #[test]
    fn the_table_of_choices() {
        check(&[], "waiting: no provider is connected");
        check(&[offer("a", 3, None, None), offer("b", 1, None, None)], "b");
        check(&[offer("a", 3, None, None), offer("b", 1, FULL, None)], "a");
        check(
            &[offer("a", 3, FULL, None), offer("b", 1, None, Some("too small"))],
            "waiting: quota: no room for more at a",
        );
        check(
            &[offer("c", 3, FULL, None), offer("b", 1, SILENT, None), offer("a", 1, FULL, None)],
            "waiting: quota: no room for more at a, c",
        );
        check(&[offer("a", 3, SILENT, None)], "waiting: no answer from a");
        let pool = Some(Pause::Pool);
        check(
            &[offer("b", 3, pool, None), offer("a", 1, pool, None), offer("c", 1, FULL, None)],
            "waiting: for a worker of the pool of a, b",
        );
        check(&[offer("b", 3, None, None), offer("a", 1, pool, None)], "b");
        check(&[offer("b", 1, None, None), offer("a", 1, None, None)], "a");
        check(&[offer("a", 0, None, Some("too small"))], "no provider can run it: a: too small");
        let full = Offer { not_now: Some("full".into()), ..offer("a", 0, None, None) };
        check(std::slice::from_ref(&full), "waiting: a: full");
        check(&[full.clone(), offer("b", 9, None, None)], "b");
        check(&[full, offer("b", 9, None, Some("too small"))], "waiting: a: full");
    }
}

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
    provider::{ProviderError, Unhealthy, WorkerProvider},
};
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
        let entry = Entry { provider, row: row.clone(), health: Ok(()), stop, paused_until: None };
        if let Some(before) = entries.insert(row.id, entry) {
            before.stop.cancel();
        }
        true
    }

    /// Drops every provider that has no row any more.
    pub(crate) fn retain(&self, rows: &[ProviderRow]) {
        let known = |id: &ProviderId| rows.iter().any(|row| row.id == *id);
        self.write().retain(|id, entry| {
            if !known(id) {
                entry.stop.cancel();
            }
            known(id)
        });
        self.broken.write().unwrap_or_else(PoisonError::into_inner).retain(|id, _| known(id));
    }

    pub(crate) fn get(&self, id: &ProviderId) -> Option<Entry> {
        self.read().get(id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Entry> {
        self.read().values().cloned().collect()
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

/// A provider as the choice sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) id: ProviderId,
    pub(crate) live_workers: i64,
    /// It takes no work now.
    pub(crate) paused: bool,
    /// Why it can't do this job now.
    pub(crate) not_now: Option<String>,
    /// Why it can never do this job.
    pub(crate) never: Option<String>,
}

/// Where a job goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    Use(ProviderId),
    /// Nobody takes it now; somebody may later. The reason is empty where there is none to tell.
    Wait(String),
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
        .filter(|option| !option.paused && option.not_now.is_none() && option.never.is_none())
        .min_by(|a, b| (a.live_workers, &a.id).cmp(&(b.live_workers, &b.id)))
        .map_or_else(|| Choice::Wait(why_wait(options)), |option| Choice::Use(option.id.clone()))
}

fn why_wait(options: &[Offer]) -> String {
    let reason =
        |option: &Offer| option.not_now.as_ref().map(|reason| format!("{}: {reason}", option.id));
    options.iter().filter_map(reason).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(name: &str, live_workers: i64, paused: bool, never: Option<&str>) -> Offer {
        let never = never.map(str::to_owned);
        Offer { id: name.parse().unwrap(), live_workers, paused, not_now: None, never }
    }

    fn check(options: &[Offer], expect: &str) {
        let choice = match choose(options) {
            Choice::Use(id) => id.to_string(),
            Choice::Wait(reason) if reason.is_empty() => "wait".to_owned(),
            Choice::Wait(reason) => format!("wait: {reason}"),
            Choice::Never(reason) => reason,
        };
        assert_eq!(choice, expect);
    }

    #[test]
    fn the_table_of_choices() {
        check(&[], "wait");
        check(&[offer("a", 3, false, None), offer("b", 1, false, None)], "b");
        check(&[offer("a", 3, false, None), offer("b", 1, true, None)], "a");
        check(&[offer("a", 3, true, None), offer("b", 1, false, Some("too small"))], "wait");
        check(&[offer("b", 1, false, None), offer("a", 1, false, None)], "a");
        check(&[offer("a", 0, false, Some("too small"))], "no provider can run it: a: too small");
        let full = Offer { not_now: Some("full".into()), ..offer("a", 0, false, None) };
        check(std::slice::from_ref(&full), "wait: a: full");
        check(&[full.clone(), offer("b", 9, false, None)], "b");
        check(&[full, offer("b", 9, false, Some("too small"))], "wait: a: full");
    }
}

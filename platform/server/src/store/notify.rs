//! Wake-ups across replicas: `NOTIFY` in the transaction that changed something, one listener a
//! server, and a hub that wakes who waits for that very topic.
//!
//! A wake-up carries no data: whoever is woken reads the database. So a lost one only costs the time
//! until the slow poll that every waiter has beside it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hodei_core::id::{JobId, WorkerId};
use sqlx::{PgExecutor, postgres::PgListener};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Store, StoreError};

const CHANNEL: &str = "hodei";

/// What can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// A job got into the queue.
    Queue,
    /// A job's or its attempt's state.
    Job(JobId),
    /// More of a job's log is durable.
    Log(JobId),
    /// A worker's state.
    Worker(WorkerId),
    /// Some worker is to be destroyed.
    Doomed,
    /// The list of providers.
    Providers,
}

impl Topic {
    fn encode(self) -> String {
        match self {
            Self::Queue => "queue".to_owned(),
            Self::Job(id) => format!("job {id}"),
            Self::Log(id) => format!("log {id}"),
            Self::Worker(id) => format!("worker {id}"),
            Self::Doomed => "doomed".to_owned(),
            Self::Providers => "providers".to_owned(),
        }
    }

    fn decode(text: &str) -> Option<Self> {
        match text.split_once(' ') {
            None if text == "queue" => Some(Self::Queue),
            None if text == "doomed" => Some(Self::Doomed),
            None if text == "providers" => Some(Self::Providers),
            Some(("job", id)) => id.parse().ok().map(Self::Job),
            Some(("log", id)) => id.parse().ok().map(Self::Log),
            Some(("worker", id)) => id.parse().ok().map(Self::Worker),
            _ => None,
        }
    }
}

/// Tells every replica, once the transaction commits.
pub(crate) async fn notify(executor: impl PgExecutor<'_>, topic: Topic) -> Result<(), StoreError> {
    sqlx::query("SELECT pg_notify($1, $2)")
        .bind(CHANNEL)
        .bind(topic.encode())
        .execute(executor)
        .await?;
    Ok(())
}

/// Who waits for what in this server.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    topics: Mutex<HashMap<Topic, watch::Sender<()>>>,
}

impl Hub {
    /// A receiver that changes whenever the topic does, from now on.
    pub(crate) fn subscribe(&self, topic: Topic) -> watch::Receiver<()> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        // Forget topics nobody waits for, now and then, so that old jobs take no memory.
        if topics.len() >= 64 && topics.len().is_power_of_two() {
            topics.retain(|_, sender| sender.receiver_count() > 0);
        }
        topics.entry(topic).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    /// Wakes who waits for a topic.
    pub(crate) fn wake(&self, topic: Topic) {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = topics.get(&topic)
            && sender.send(()).is_err()
        {
            topics.remove(&topic);
        }
    }

    fn wake_all(&self) {
        let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        for sender in topics.values() {
            sender.send_replace(());
        }
    }

    /// Passes notifications on until `stop`. After a lost connection everybody is woken, as
    /// notifications may have been missed.
    pub(crate) async fn listen(&self, store: &Store, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let listening = stop.run_until_cancelled(self.listen_once(store)).await;
            if let Some(Err(error)) = listening {
                tracing::warn!(%error, "the listener lost its database connection; trying again");
                stop.run_until_cancelled(tokio::time::sleep(Duration::from_millis(500))).await;
            }
        }
    }

    async fn listen_once(&self, store: &Store) -> Result<(), StoreError> {
        // It keeps one of the pool's connections for as long as it listens.
        let mut listener = PgListener::connect_with(&store.pool).await?;
        listener.listen(CHANNEL).await?;
        self.wake_all();
        while let Some(notification) = listener.try_recv().await? {
            if let Some(topic) = Topic::decode(notification.payload()) {
                self.wake(topic);
            }
        }
        Ok(())
    }
}

/// Waits until a topic changed or `most` has passed, whichever comes first.
pub(crate) async fn changed_within(receiver: &mut watch::Receiver<()>, most: Duration) {
    if let Ok(Err(_closed)) = tokio::time::timeout(most, receiver.changed()).await {
        // The hub forgot the topic: only the slow poll is left.
        tokio::time::sleep(most).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_survive_the_channel() {
        let (job, worker) = (JobId::new(), WorkerId::new());
        for topic in [
            Topic::Queue,
            Topic::Job(job),
            Topic::Log(job),
            Topic::Worker(worker),
            Topic::Doomed,
            Topic::Providers,
        ] {
            assert_eq!(Topic::decode(&topic.encode()), Some(topic));
        }
        assert_eq!(Topic::decode("job nonsense"), None);
    }

    #[tokio::test]
    async fn only_who_waits_for_a_topic_is_woken() {
        let hub = Hub::default();
        let (mine, other) = (hub.subscribe(Topic::Queue), hub.subscribe(Topic::Doomed));
        hub.wake(Topic::Queue);
        assert!(mine.has_changed().unwrap());
        assert!(!other.has_changed().unwrap());
    }
}

#[cfg(test)]
mod outside_input {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whoever may use the database may notify.
        #[test]
        fn any_notification_is_a_topic_or_passed_over(
            text in prop_oneof![any::<String>(), "(job|log|worker|queue|doomed|x) ?[0-9a-f-]{0,36}"],
            bits in any::<u128>(), kind in 0_usize..3,
        ) {
            if let Some(topic) = Topic::decode(&text) {
                prop_assert_eq!(Topic::decode(&topic.encode()), Some(topic));
            }
            let id = uuid::Uuid::from_u128(bits);
            let topic = [Topic::Job(id.into()), Topic::Log(id.into()), Topic::Worker(id.into())][kind];
            prop_assert_eq!(Topic::decode(&topic.encode()), Some(topic));
        }
    }
}

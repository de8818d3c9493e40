//! How often a client may ask, and an agent may fail to register. Each is a bucket of tokens (GCRA) for
//! each client, in bounded memory.

use std::{
    hash::Hash,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use hodei_core::{id::WorkerId, secret::SecretHash};

use crate::config::RateLimits;

/// Most clients that are told apart at a time. Those beyond share one bucket.
const MAX_KEYS: usize = 10_000;
/// How often, at most, clients that were silent for long are forgotten while there are too many.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How often a peer may try to register one worker. An agent does so once, and again when an answer is lost.
const REGISTRATIONS: (u32, u32) = (1, 20);
/// How many refused registrations and sessions of a peer are written down; more are only counted.
const REFUSALS: (u32, u32) = (1, 100);

/// Where a request comes from: an IPv4 address, or the 64 bits of an IPv6 address that name a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Network(Option<IpAddr>);

impl Network {
    pub(crate) fn of(peer: Option<SocketAddr>) -> Self {
        Self(peer.map(|peer| match peer.ip().to_canonical() {
            IpAddr::V6(address) => IpAddr::V6((address.to_bits() & (u128::MAX << 64)).into()),
            address => address,
        }))
    }
}

/// Whom a request is counted against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// Whoever presents this token, which was admitted.
    Token([u8; 32]),
    /// Whoever has none, or a wrong one: a guess is counted against the guesser.
    Peer(Network),
}

impl Client {
    pub(crate) fn token(hash: &SecretHash) -> Self {
        Self::Token(*hash.as_bytes())
    }

    pub(crate) fn peer(peer: Option<SocketAddr>) -> Self {
        Self::Peer(Network::of(peer))
    }
}

/// A bucket for each key. `None` is the bucket of all keys for which there was no room.
#[derive(Debug)]
struct Buckets<K: Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<Option<K>>,
    clock: DefaultClock,
    begun: Instant,
    /// When the silent were last forgotten, in milliseconds since `begun`, plus 1.
    swept: AtomicU64,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        let quota = Quota::per_second(per_second).allow_burst(burst);
        let clock = DefaultClock::default();
        let limiter = RateLimiter::keyed(quota);
        Self { limiter, clock, begun: Instant::now(), swept: AtomicU64::new(0) }
    }

    fn constant((per_second, burst): (u32, u32)) -> Self {
        let positive = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Self::new(positive(per_second), positive(burst))
    }

    /// Takes one; how long to wait where there is none.
    fn take(&self, key: K) -> Result<(), Duration> {
        if self.has_room() { self.take_own(key) } else { self.take_from(&None) }
    }

    /// The same, from a bucket that there is always room for: only for keys that are few.
    fn take_own(&self, key: K) -> Result<(), Duration> {
        self.take_from(&Some(key))
    }

    fn take_from(&self, key: &Option<K>) -> Result<(), Duration> {
        let refused = self.limiter.check_key(key);
        refused.map_err(|until| until.wait_time_from(self.clock.now()))
    }

    fn has_room(&self) -> bool {
        if self.limiter.len() < MAX_KEYS {
            return true;
        }
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1;
        let interval = u64::try_from(SWEEP_INTERVAL.as_millis()).unwrap_or(u64::MAX);
        let last = self.swept.load(Ordering::Relaxed);
        let due = last == 0 || now - last.min(now) >= interval;
        let mine = due
            && self.swept.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if mine {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        self.limiter.len() < MAX_KEYS
    }
}

/// The limits of one server.
#[derive(Debug)]
pub(crate) struct Limits {
    /// `None`: clients may ask as often as they like.
    requests: Option<Buckets<Client>>,
    registrations: Buckets<(Network, Option<WorkerId>)>,
    refusals: Buckets<Network>,
}

impl Limits {
    pub(crate) fn new(config: &RateLimits) -> Self {
        let per_second = NonZeroU32::new(config.requests_per_second);
        let burst = NonZeroU32::new(config.request_burst).unwrap_or(NonZeroU32::MIN);
        Self {
            requests: per_second.map(|per_second| Buckets::new(per_second, burst)),
            registrations: Buckets::constant(REGISTRATIONS),
            refusals: Buckets::constant(REFUSALS),
        }
    }

    /// Counts a request of a client; how long to wait where there were too many.
    pub(crate) fn request(&self, client: Client) -> Result<(), Duration> {
        let taken = self.requests.as_ref().map_or(Ok(()), |buckets| match client {
            Client::Token(_) => buckets.take_own(client),
            Client::Peer(_) => buckets.take(client),
        });
        taken.inspect_err(|_| metrics::counter!("hodei_requests_limited_total").increment(1))
    }

    /// Counts a try to register a worker; how long to wait where there were too many.
    pub(crate) fn registration(
        &self,
        peer: Option<SocketAddr>,
        worker: Option<WorkerId>,
    ) -> Result<(), Duration> {
        self.registrations.take((Network::of(peer), worker))
    }

    /// Whether the refusal of an agent at `peer` is still to be written down.
    pub(crate) fn records_refusal(&self, peer: Option<SocketAddr>) -> bool {
        self.refusals.take(Network::of(peer)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Option<SocketAddr> {
        Some(SocketAddr::new(address.parse().unwrap(), 1))
    }

    #[test]
    fn a_network_is_one_client_and_a_port_is_none() {
        for (one, other, same) in [
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            assert_eq!(Network::of(peer(one)) == Network::of(peer(other)), same, "{one} {other}");
        }
        let elsewhere = Some(SocketAddr::new("10.0.0.1".parse().unwrap(), 2));
        assert_eq!(Network::of(peer("10.0.0.1")), Network::of(elsewhere));
    }

    #[test]
    fn one_clients_flood_is_not_anothers() {
        let limits = Limits::new(&RateLimits { requests_per_second: 1, request_burst: 3 });
        let (loud, quiet) = (Client::peer(peer("10.0.0.1")), Client::peer(peer("10.0.0.2")));
        let passed = (0..10).filter(|_| limits.request(loud).is_ok()).count();
        assert_eq!(passed, 3);
        let wait = limits.request(loud).unwrap_err();
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
        assert_eq!(limits.request(quiet), Ok(()));
        let unlimited = Limits::new(&RateLimits { requests_per_second: 0, request_burst: 1 });
        assert!((0..1000).all(|_| unlimited.request(loud).is_ok()));
    }

    #[test]
    fn memory_is_bounded_and_who_has_no_room_shares_a_bucket() {
        let limits = Limits::new(&RateLimits { requests_per_second: 1, request_burst: 1 });
        let clients = (0..50_000_u32).map(|n| Client::Peer(Network(Some(IpAddr::V4(n.into())))));
        let passed = clients.filter(|client| limits.request(*client).is_ok()).count();
        let buckets = limits.requests.as_ref().unwrap();
        assert!(buckets.limiter.len() <= MAX_KEYS + 1, "{}", buckets.limiter.len());
        let token = Client::Token([7; 32]);
        assert_eq!(limits.request(token), Ok(()), "a token's bucket is its own, whoever floods");
        assert!((MAX_KEYS..50_000).contains(&passed), "{passed}");
    }

    #[test]
    fn guesses_for_one_worker_are_bounded_and_hinder_no_other() {
        let limits = Limits::new(&RateLimits { requests_per_second: 0, request_burst: 1 });
        let (guessed, other) = (Some(WorkerId::new()), Some(WorkerId::new()));
        let here = peer("10.0.0.1");
        let tried = (0..1000).filter(|_| limits.registration(here, guessed).is_ok()).count();
        assert!(tried <= 21, "{tried}");
        assert_eq!(limits.registration(here, other), Ok(()));
        let written = (0..1000).filter(|_| limits.records_refusal(here)).count();
        assert!(written <= 101, "{written}");
    }
}

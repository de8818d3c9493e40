//! How fast requests may follow each other: a token bucket that all requests of a provider share,
//! the watch not among them. A 429 that names a time stops it for all of them.
//!
//! It runs on tokio's clock, so that a test decides what time it is. The waits are in a queue: who
//! waits first goes first, and only the first one has a timer.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use hodei_core::id::ProviderId;
use tokio::time::{Instant, sleep_until};

use crate::measure;

/// The bucket; clones are the same one.
#[derive(Clone)]
pub(crate) struct Pace {
    provider: ProviderId,
    /// Between two tokens.
    interval: Duration,
    burst: u32,
    bucket: Arc<Mutex<Bucket>>,
    queue: Arc<tokio::sync::Mutex<()>>,
}

struct Bucket {
    /// When it will be full again. Each request moves it one interval into the future.
    full_at: Instant,
    paused_until: Instant,
}

impl Pace {
    /// A full bucket. Both numbers are at least 1.
    pub(crate) fn new(provider: ProviderId, per_second: u32, burst: u32) -> Self {
        let now = Instant::now();
        Self {
            provider,
            interval: Duration::from_secs(1) / per_second.max(1),
            burst: burst.max(1),
            bucket: Arc::new(Mutex::new(Bucket { full_at: now, paused_until: now })),
            queue: Arc::default(),
        }
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().expect("no one panics while counting")
    }

    /// Waits for a token and takes it. One who stops waiting takes none.
    pub(crate) async fn turn(&self) {
        let start = Instant::now();
        let _first = self.queue.lock().await;
        while let Err(at) = self.take(Instant::now()) {
            sleep_until(at).await;
        }
        let waited = start.elapsed();
        if !waited.is_zero() && waited >= self.interval.min(Duration::from_millis(1)) {
            measure::throttled(&self.provider, waited);
        }
    }

    /// Takes a token, or says when there may be one.
    fn take(&self, now: Instant) -> Result<(), Instant> {
        let mut bucket = self.bucket();
        if now < bucket.paused_until {
            return Err(bucket.paused_until);
        }
        let full_at = bucket.full_at.max(now) + self.interval;
        let capacity = self.interval * self.burst;
        if full_at > now + capacity {
            return Err(full_at - capacity);
        }
        bucket.full_at = full_at;
        Ok(())
    }

    /// Gives no token for this long; a longer pause that was asked for stays.
    pub(crate) fn pause(&self, length: Duration) {
        let mut bucket = self.bucket();
        bucket.paused_until = bucket.paused_until.max(Instant::now() + length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::provider_id;

    async fn take_turns(pace: &Pace, count: usize) -> Duration {
        let start = Instant::now();
        for _ in 0..count {
            pace.turn().await;
        }
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_free_and_then_the_rate_holds() {
        let pace = Pace::new(provider_id(), 10, 5);
        assert_eq!(take_turns(&pace, 5).await, Duration::ZERO);
        let took = take_turns(&pace, 20).await;
        assert!((1999..=2021).contains(&took.as_millis()), "{took:?}");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(take_turns(&pace, 5).await, Duration::ZERO, "full again, and no fuller");
        assert!(take_turns(&pace, 1).await > Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_for_all_and_a_shorter_one_does_not_end_it() {
        let pace = Pace::new(provider_id(), 10, 5);
        pace.pause(Duration::from_secs(7));
        pace.clone().pause(Duration::from_secs(1));
        let took = take_turns(&pace, 2).await;
        assert!((7000..=7010).contains(&took.as_millis()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waiting_takes_no_token() {
        let pace = Pace::new(provider_id(), 1, 1);
        pace.turn().await;
        for _ in 0..10 {
            let given_up = tokio::time::timeout(Duration::from_millis(10), pace.turn()).await;
            assert!(given_up.is_err());
        }
        let took = take_turns(&pace, 1).await;
        assert!(took <= Duration::from_millis(901), "{took:?}");
    }
}

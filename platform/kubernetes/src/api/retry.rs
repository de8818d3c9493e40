//! When a request is sent again: exponential back-off with full jitter, within a bound, and never
//! sooner than the server asked for.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use super::ApiFailure;

/// How patient requests are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetryPolicy {
    /// Before the second try.
    pub(crate) first: Duration,
    /// Between two tries at most; a server that asks for more is not asked again.
    pub(crate) longest: Duration,
    /// Tries after the first.
    pub(crate) tries: usize,
}

impl Default for RetryPolicy {
    /// About 20 s in all, the time a rolling restart of a control plane takes to hand over.
    fn default() -> Self {
        Self { first: Duration::from_millis(200), longest: Duration::from_secs(10), tries: 7 }
    }
}

impl RetryPolicy {
    pub(super) fn delays(&self) -> Delays {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(self.first)
            .with_max_delay(self.longest)
            .with_max_times(self.tries)
            .with_jitter()
            .build();
        Delays { backoff, longest: self.longest }
    }
}

/// The waits of one request.
pub(super) struct Delays {
    backoff: ExponentialBackoff,
    longest: Duration,
}

impl Delays {
    /// How long to wait after this failure; `None` when it is enough.
    pub(super) fn after(&mut self, failure: &ApiFailure) -> Option<Duration> {
        let own = self.backoff.next()?;
        match failure.retry_after() {
            Some(asked) if asked > self.longest => None,
            Some(asked) => Some(own.max(asked)),
            None => Some(own),
        }
    }
}

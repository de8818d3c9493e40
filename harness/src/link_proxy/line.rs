//! What the link is like just now.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Way;

/// What gets through of a throttled connection at once is a tenth of a second's.
const SLICES: u32 = 10;

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) delay: Duration,
    pub(super) bytes_per_second: Option<NonZeroU32>,
    /// How many bytes still get through; `None`: all.
    pub(super) allowance: Option<u64>,
}

impl Line {
    fn is_held(&self) -> bool {
        self.allowance == Some(0)
    }
}

#[derive(Debug, Default)]
struct Lines {
    to_server: Line,
    to_workers: Line,
}

impl Lines {
    fn of(&self, way: Way) -> &Line {
        match way {
            Way::ToServer => &self.to_server,
            Way::ToWorkers => &self.to_workers,
        }
    }

    fn of_mut(&mut self, way: Way) -> &mut Line {
        match way {
            Way::ToServer => &mut self.to_server,
            Way::ToWorkers => &mut self.to_workers,
        }
    }

    fn is_held(&self) -> bool {
        self.to_server.is_held() || self.to_workers.is_held()
    }
}

/// Both directions, and the connections as far as they are counted and ended together.
#[derive(Debug, Default)]
pub(super) struct Link {
    lines: watch::Sender<Lines>,
    /// Ends with the next reset.
    era: Mutex<CancellationToken>,
    connections: watch::Sender<u64>,
}

impl Link {
    pub(super) fn change(&self, way: Way, change: impl FnOnce(&mut Line)) {
        self.lines.send_modify(|lines| change(lines.of_mut(way)));
    }

    pub(super) fn heal(&self) {
        self.lines.send_replace(Lines::default());
    }

    pub(super) fn is_held(&self) -> bool {
        self.lines.borrow().is_held()
    }

    /// Returns once something gets through in both directions.
    pub(super) async fn let_go(&self) {
        self.wait_until(|lines| !lines.is_held()).await;
    }

    /// Returns once something gets through in this direction.
    pub(super) async fn way_free(&self, way: Way) {
        self.wait_until(|lines| !lines.of(way).is_held()).await;
    }

    async fn wait_until(&self, wanted: impl Fn(&Lines) -> bool) {
        let mut lines = self.lines.subscribe();
        lines.wait_for(wanted).await.expect("the sender is borrowed and so not gone");
    }

    pub(super) fn delay(&self, way: Way) -> Duration {
        self.lines.borrow().of(way).delay
    }

    /// How many of `wanted` bytes get through now, and how long they take.
    pub(super) async fn pass(&self, way: Way, wanted: usize) -> (usize, Duration) {
        loop {
            self.way_free(way).await;
            let (mut granted, mut takes) = (wanted, Duration::ZERO);
            self.lines.send_if_modified(|lines| {
                let line = lines.of_mut(way);
                if let Some(rate) = line.bytes_per_second {
                    granted = granted.min((rate.get() / SLICES).max(1) as usize);
                }
                let Some(left) = &mut line.allowance else { return false };
                granted = granted.min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= granted as u64;
                *left == 0
            });
            if let Some(rate) = self.lines.borrow().of(way).bytes_per_second {
                takes = Duration::from_secs_f64(granted as f64 / f64::from(rate.get()));
            }
            if granted > 0 {
                return (granted, takes);
            }
        }
    }

    pub(super) fn reset(&self) {
        let mut era = self.era.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *era).cancel();
    }

    /// Counts a connection; answers with what says that it is reset.
    pub(super) fn join(&self) -> CancellationToken {
        self.connections.send_modify(|count| *count += 1);
        self.era.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn connections(&self) -> u64 {
        *self.connections.borrow()
    }
}

//! The view for those who live longer than an operation, as a stream of log lines does. They don't
//! keep the watch alive.

use std::sync::{Arc, Weak};

use hodei_core::provider::WorkerHandle;
use tokio::sync::watch;

use super::{LogView, Shared};

/// Reads the view while there is one.
pub(crate) struct WatchReader {
    shared: Weak<Shared>,
    changes: watch::Receiver<()>,
}

impl WatchReader {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::downgrade(shared), changes: shared.changed.subscribe() }
    }

    /// Where the log of a resource stands.
    pub(crate) fn log_of(&self, handle: &WorkerHandle) -> LogView {
        match self.shared.upgrade() {
            Some(shared) => shared.view().log_of(handle),
            None => LogView::Closed,
        }
    }

    /// Waits until the log of a resource stands otherwise than that.
    pub(crate) async fn await_other(&mut self, handle: &WorkerHandle, than: LogView) {
        loop {
            self.changes.borrow_and_update();
            if self.log_of(handle) != than || self.changes.changed().await.is_err() {
                return;
            }
        }
    }
}

//! What all parts of a running server share.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    auth::Access,
    config::Timing,
    logs::follow::Logs,
    registry::Registry,
    session::live::Sessions,
    store::{Store, notify::Hub},
};

/// One running server.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) store: Store,
    pub(crate) hub: Arc<Hub>,
    pub(crate) logs: Logs,
    pub(crate) sessions: Sessions,
    pub(crate) registry: Registry,
    pub(crate) timing: Timing,
    /// Which clients are admitted.
    pub(crate) access: Access,
    /// What workers are told to connect to.
    pub(crate) advertised: String,
    pub(crate) metrics: PrometheusHandle,
    /// Every task of the server, so that a shutdown can wait for them.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the server is to end.
    pub(crate) stop: CancellationToken,
}

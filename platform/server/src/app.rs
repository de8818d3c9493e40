//! What all parts of a running server share.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    auth::Access,
    config::Timing,
    limits::Limits,
    logs::{follow::Logs, retention::Periods},
    registry::Registry,
    session::live::Sessions,
    store::{Store, notify::Hub},
    trace::Traces,
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
    /// How long output and finished jobs are kept.
    pub(crate) periods: Periods,
    /// Which clients are admitted.
    pub(crate) access: Access,
    /// How often they may ask.
    pub(crate) limits: Limits,
    /// What workers are told to connect to.
    pub(crate) advertised: String,
    /// PEM of the authorities that workers are to trust, where they are told https.
    pub(crate) authorities: Option<String>,
    pub(crate) metrics: PrometheusHandle,
    /// Spans, where a collector is configured.
    pub(crate) traces: Traces,
    /// Every task of the server, so that a shutdown can wait for them.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the server is to end.
    pub(crate) stop: CancellationToken,
}

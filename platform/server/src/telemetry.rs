//! Logs and metrics of this process.

use std::{io::IsTerminal, sync::OnceLock};

use anyhow::{Context, anyhow};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::config::LogFormat;

/// Bounds of the histograms, in seconds: from a local insert to a slow image pull.
const BUCKETS: [f64; 13] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];

/// Bounds of the stages of a worker, in seconds: from an agent's first word to an hour at a full quota.
const STAGE_BUCKETS: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 600.0, 1800.0,
    3600.0,
];
const WORKER_STAGE: &str = "hodei_worker_stage_seconds";

/// The stages of a worker's way into work that only the control plane sees. The provider records
/// the others under the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// First refusal for a full quota or backpressure to the creation that succeeded.
    Quota,
    /// Container first seen running to the agent's call of Register; 0 where that came first.
    Connect,
    /// Call of Register to the session that gets the assignment.
    Register,
}

/// A worker of this provider has left a stage behind it, after so many seconds.
pub(crate) fn worker_stage(provider: &str, stage: Stage, seconds: f64) {
    let stage = match stage {
        Stage::Quota => "quota",
        Stage::Connect => "connect",
        Stage::Register => "register",
    };
    metrics::histogram!(WORKER_STAGE, "provider" => provider.to_owned(), "stage" => stage)
        .record(seconds.max(0.0));
}

/// Logs to standard error.
///
/// # Errors
/// When the filter is malformed or a subscriber is installed already.
pub fn init_logs(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).context("HODEI_LOG")?;
    let registry = tracing_subscriber::registry().with(filter);
    let stderr = std::io::stderr;
    let layer = fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal());
    match format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
        LogFormat::Text => registry.with(layer).try_init(),
    }
    .map_err(|error| anyhow!("logging: {error}"))
}

/// The process's metrics; the first call installs the recorder.
pub(crate) fn metrics() -> anyhow::Result<PrometheusHandle> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)
        .and_then(|b| {
            b.set_buckets_for_metric(Matcher::Full(WORKER_STAGE.to_owned()), &STAGE_BUCKETS)
        })
        .context("metrics")?;
    // Of several servers in one process (in tests) the first one's recorder is everybody's.
    let handle = HANDLE.get_or_init(|| {
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("metrics are recorded elsewhere");
        }
        describe();
        handle
    });
    Ok(handle.clone())
}

fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_counter!("hodei_jobs_submitted_total", "Jobs submitted");
    describe_counter!("hodei_jobs_finished_total", "Jobs by final state");
    describe_counter!("hodei_attempts_lost_total", "Attempts lost, by cause");
    describe_counter!("hodei_refused_total", "Registrations, sessions, results and logs refused");
    describe_counter!("hodei_requests_limited_total", "Requests refused as too many");
    describe_counter!("hodei_destroy_failures_total", "Failed tries to destroy a worker");
    describe_counter!("hodei_log_frames_total", "Log frames received");
    describe_counter!("hodei_log_bytes_total", "Bytes of output received");
    describe_counter!("hodei_log_lost_bytes_total", "Bytes of output that agents had to drop");
    describe_counter!(
        "hodei_log_stored_bytes_total",
        "Bytes of output stored, by form: chunk, segment"
    );
    describe_counter!("hodei_log_segments_total", "Segments that took the place of chunks");
    describe_counter!(
        "hodei_log_archive_failures_total",
        "Failed tries to archive or remove a log"
    );
    describe_counter!("hodei_logs_removed_total", "Attempts whose output was removed by retention");
    describe_counter!("hodei_jobs_removed_total", "Jobs removed by retention");
    describe_gauge!(
        "hodei_log_archive_backlog",
        "Ended attempts whose log is to be archived or removed"
    );
    describe_gauge!("hodei_workers", "Workers by state");
    describe_gauge!("hodei_pool_workers", "Workers of pools: starting, idle, busy");
    describe_counter!("hodei_pool_failures_total", "Workers of pools that failed without a job");
    describe_gauge!("hodei_sessions", "Agents connected to this server");
    describe_histogram!(
        "hodei_stage_seconds",
        "Time of a job's stages: queue, create, register, run"
    );
    describe_histogram!(
        WORKER_STAGE,
        "Time of a worker's stages. quota: first refusal to the creation that succeeded; connect: container \
         seen running to the agent's registration; register: registration to its session; others: the provider's"
    );
}

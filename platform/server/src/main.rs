//! `hodei-server`: the control plane as a process. Ends on SIGTERM or SIGINT, workers left running.

use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use hodei_server::{BuiltIn, Server, config::Config, init_logs, kubernetes_enabled, migrate};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut config = Config::parse();
    init_logs(config.log_format, &config.log_filter)?;
    config.k8s_enabled |= kubernetes_enabled();
    if config.migrate_only {
        migrate(&config).await?;
        tracing::info!("the schema is up to date");
        return Ok(());
    }
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let server = Server::start(&config, Arc::new(BuiltIn)).await?;
    let failed = tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
        () = server.failed() => true,
    };
    tracing::info!("shutting down; workers are left running");
    server.shut_down().await;
    anyhow::ensure!(!failed, "a listener failed");
    Ok(())
}

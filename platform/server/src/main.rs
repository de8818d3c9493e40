//! `hodei-server`: the control plane as a process. Ends on SIGTERM or SIGINT, workers left running.

use std::{
    io::{ErrorKind, Write},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context;
use clap::Parser;
use hodei_server::{
    BuiltIn, Server, check, config::Config, init_logs, kubernetes_enabled, migrate,
};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    // Before anything is parsed: a check names every mistake, a start the first.
    if std::env::args_os().any(|argument| argument == "--check") {
        let report = check(std::env::args_os().collect(), Arc::new(BuiltIn)).await;
        return match write!(std::io::stdout().lock(), "{report}") {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(ExitCode::from(report.exit_code())),
        };
    }
    let mut config = Config::parse();
    init_logs(config.log_format, &config.log_filter)?;
    config.k8s_enabled |= kubernetes_enabled();
    if config.migrate_only {
        migrate(&config).await?;
        tracing::info!("the schema is up to date");
        return Ok(ExitCode::SUCCESS);
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
    Ok(ExitCode::SUCCESS)
}

//! `hodei-worker`: the agent as a process. It hides its memory from the job, inherits orphans, turns
//! signals into a drain, and says in one line how it ended.

use std::{env, fs, io::IsTerminal as _, path::Path, process::ExitCode};

use anyhow::Context as _;
use clap::Parser as _;
use hodei_worker::{AgentError, Args, Config, config::read_otp, process::Family};
use nix::sys::prctl;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Where the kubelet looks for a container's last words (the default terminationMessagePath).
const LAST_WORDS: &str = "/dev/termination-log";

fn main() -> ExitCode {
    // Before anything else: the job runs as the same user, and must not be able to read this
    // process's environment or memory, where the one-time password is.
    let hidden = prctl::set_dumpable(false);
    let args = Args::parse();
    start_log();
    if let Err(error) = hidden {
        tracing::warn!(%error, "the agent's memory could not be hidden from jobs");
    }
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            leave_last_words(&format!("{error:#}"));
            ExitCode::from(error.downcast_ref::<AgentError>().map_or(1, AgentError::exit_code))
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let pooled = args.pooled;
    let mut config = Config::from_args(args)?;
    let otp = read_otp(|name| env::var_os(name))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the runtime could not be started")?;
    runtime.block_on(async {
        let family = Family::inherit().context("orphans could not be inherited")?;
        let terminate = on_termination().context("signals could not be caught")?;
        let premises = pooled.then(|| config.keep_clean(terminate.clone())).transpose()?;
        hodei_worker::run(config, otp, family, terminate).await?;
        match premises {
            Some(premises) => Ok(premises.check()?),
            None => Ok(()),
        }
    })
}

/// Cancelled by SIGTERM or SIGINT.
fn on_termination() -> std::io::Result<CancellationToken> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let terminate = CancellationToken::new();
    let caught = terminate.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        caught.cancel();
    });
    Ok(terminate)
}

/// To stderr, as JSON unless a person looks. HODEI_LOG filters; `info` without it.
fn start_log() {
    let filter = env::var("HODEI_LOG").ok().and_then(|text| EnvFilter::try_new(text).ok());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|| EnvFilter::new("info")))
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() { log.init() } else { log.json().flatten_event(true).init() }
}

/// Shown by `kubectl describe pod` and read by the provider. Only a pod has this file.
fn leave_last_words(text: &str) {
    if Path::new(LAST_WORDS).is_file()
        && let Err(error) = fs::write(LAST_WORDS, text)
    {
        tracing::warn!(%error, "could not leave the reason in {LAST_WORDS}");
    }
}

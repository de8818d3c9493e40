//! The command line: one module a command, signals, and how errors end the process.

mod bench;
mod bootstrap;
mod doctor;
mod down;
mod list;
mod pristine;
mod reap;
mod run;
mod tools;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use hodei_harness::failure::{EXIT_INTERRUPTED, Result};
use hodei_harness::paths::Paths;
use hodei_harness::progress::Progress;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

const EXAMPLES: &str = "Examples:
  hodei-e2e doctor                      what is there, what is missing, what mends it
  hodei-e2e up --yes                    engine, Kind cluster, images; asks for nothing
  KIND_CLUSTER_NAME=mine hodei-e2e up   a cluster of another name
  hodei-e2e up --stack                  the same and a stack that `hodei` finds by itself
  hodei-e2e run --layer lifecycle       the cases of one layer, and a verdict
  hodei-e2e run --nodes 2 --profile all core and extended cases on two nodes
  hodei-e2e reap                        removes what a killed run left
  hodei-e2e pristine                    takes back everything that `up` brought

Exit codes: 0 good, 1 product, 2 usage, 3 inconclusive, 10 infrastructure, 11 image,
12 scheduling, 13 network, 70 harness, 130 interrupted (after clean-up).";

/// Proves Hodei's Kubernetes workers on a real cluster.
#[derive(Debug, Parser)]
#[command(name = "hodei-e2e", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what is there, what is missing, and what mends it
    Doctor(doctor::Args),
    /// Bring up what is missing: engine, tools, node image, cluster, images
    Up(up::Args),
    /// Install what `make test` and `make lint` need
    Tools(tools::Args),
    /// Run the cases, bringing up what is missing, and write a verdict
    Run(run::Args),
    /// Say which cases there are
    List(list::Args),
    /// Remove what runs left whose process is gone
    Reap(reap::Args),
    /// Compare a Hodei job with a bare pod of the same image
    Bench(bench::Args),
    /// Take down what `up` left standing: stack and cluster; tools and images stay
    Down(down::Args),
    /// Take back everything that `up` brought to this machine, and nothing else
    Pristine(pristine::Args),
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// For a person.
    Text,
    /// For a program.
    Json,
}

/// What every command is given.
struct Context {
    paths: Paths,
    progress: Progress,
}

/// Runs the command line of this process.
pub(crate) async fn run() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("warn,kube_client=off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let progress = Progress::new();
    let watcher = tokio::spawn(cancel_on_signal(progress.clone()));
    let outcome = dispatch(cli.command, progress).await;
    watcher.abort();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let code = error.exit_code();
            if code == EXIT_INTERRUPTED {
                eprintln!("interrupted: {error}");
            } else {
                eprintln!("{:?}", miette::Report::new(error));
            }
            ExitCode::from(code)
        }
    }
}

async fn dispatch(command: Command, progress: Progress) -> Result<u8> {
    let context = Context { paths: Paths::discover()?, progress };
    match command {
        Command::Bench(args) => bench::run(args, &context).await,
        Command::Doctor(args) => doctor::run(args, &context).await,
        Command::Run(args) => run::run(args, &context).await,
        Command::List(args) => list::run(args, &context),
        Command::Reap(args) => reap::run(args, &context).await,
        Command::Down(args) => down::run(args, &context).await,
        Command::Pristine(args) => pristine::run(args, &context).await,
        Command::Tools(args) => tools::run(args, &context).await,
        Command::Up(args) => up::run(args, &context).await,
    }
}

/// The first signal ends the work in good order; the second ends the process.
async fn cancel_on_signal(progress: Progress) {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    let mut any = async || {
        tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
    };
    any().await;
    progress.say("signal received: cleaning up (once more ends at once)");
    progress.cancellation().cancel();
    any().await;
    std::process::exit(i32::from(EXIT_INTERRUPTED));
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        for good in [
            "up --cluster mine --nodes 5 --yes",
            "down --cluster mine",
            "run --cluster-name mine --nodes 2 --profile all",
            "run --profile extended --layer lifecycle",
            "list --layer full-job --output markdown",
        ] {
            let words = std::iter::once("hodei-e2e").chain(good.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{good}");
        }
        for bad in ["up --nodes 0", "run --nodes 6", "run --profile both"] {
            let words = std::iter::once("hodei-e2e").chain(bad.split(' '));
            assert!(Cli::try_parse_from(words).is_err(), "{bad}");
        }
    }
}

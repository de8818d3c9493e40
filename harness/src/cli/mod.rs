//! The command line: one module a command, signals, and how errors end the process.

mod bench;
mod bootstrap;
mod doctor;
mod down;
mod explain;
mod history;
mod list;
mod pristine;
mod reap;
mod report;
mod run;
mod selection;
mod selftest;
mod tools;
mod up;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use hodei_harness::failure::{Classify, Result};
use hodei_harness::failure::{EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USAGE};
use hodei_harness::paths::Paths;
use hodei_harness::progress::Progress;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

const EXAMPLES: &str = "Examples:
  hodei-e2e doctor                      what is there, what is missing, what mends it
  hodei-e2e doctor --from-cluster --kubeconfig prod.yaml   whether a cluster is fit for workers
  hodei-e2e up --yes                    engine, Kind cluster, images; asks for nothing
  KIND_CLUSTER_NAME=mine hodei-e2e up   a cluster of another name
  hodei-e2e up --stack                  the same and a stack that `hodei` finds by itself
  hodei-e2e run --layer lifecycle       the cases of one layer, and a verdict
  hodei-e2e run -E 'layer(full-job) and not exclusive'   the cases that an expression chooses
  hodei-e2e run --dry-run               what would be brought up and run, in which order
  hodei-e2e run --nodes 2 --profile all core and extended cases on two nodes
  hodei-e2e run --rerun-failed hodei-e2e-report   what did not pass, once more
  hodei-e2e run --case full-job.execution --repeat 50   how often it fails
  hodei-e2e explain full-job.execution  what one case promises, and its last run
  hodei-e2e selftest                    breaks each promise and sees its case go red
  hodei-e2e report diff old new         what got worse from one report to another
  hodei-e2e report merge shard-*         one verdict of several shards
  hodei-e2e report history              how often each case failed here, the worst first
  hodei-e2e reap                        removes what a killed run left
  hodei-e2e pristine                    takes back everything that `up` brought

Exit codes: 0 good, 1 product, 2 usage, 3 inconclusive, 10 infrastructure, 11 image,
12 scheduling, 13 network, 70 harness, 130 and 143 ended by SIGINT and SIGTERM (after clean-up).";

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
    /// Say all that is known of one case
    Explain(explain::Args),
    /// Print a saved report, compare two, or say how often each case failed
    Report(report::Args),
    /// Remove what runs left whose process is gone
    Reap(reap::Args),
    /// Break the promise of each case and see the case go red
    Selftest(selftest::Args),
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
    let outcome = dispatch(cli.command, progress.clone()).await;
    watcher.abort();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let code = error.exit_code();
            if code == EXIT_INTERRUPTED {
                eprintln!("interrupted: {error}");
                return ExitCode::from(progress.interrupted().unwrap_or(code));
            }
            eprintln!("{:?}", miette::Report::new(error));
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
        Command::Selftest(args) => selftest::run(args, &context).await,
        Command::List(args) => list::run(args, &context),
        Command::Explain(args) => explain::run(args, &context),
        Command::Report(args) => report::run(args, &context),
        Command::Reap(args) => reap::run(args, &context).await,
        Command::Down(args) => down::run(args, &context).await,
        Command::Pristine(args) => pristine::run(args, &context).await,
        Command::Tools(args) => tools::run(args, &context).await,
        Command::Up(args) => up::run(args, &context).await,
    }
}

/// Says what is wrong with the command line; returns the exit code for that.
fn refuse(error: impl miette::Diagnostic + Send + Sync + 'static) -> u8 {
    eprintln!("{:?}", miette::Report::new(error));
    EXIT_USAGE
}

/// Prints to standard output; a reader that has seen enough (`| head`) is no error.
fn print_all(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.infrastructure("write", "standard output"),
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
        tokio::select! {
            _ = interrupt.recv() => EXIT_INTERRUPTED,
            _ = terminate.recv() => EXIT_TERMINATED,
        }
    };
    let code = any().await;
    progress.say("signal received: cleaning up (once more ends at once)");
    progress.interrupt(code);
    let code = any().await;
    std::process::exit(i32::from(code));
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
            "doctor --output json",
            "doctor --from-cluster --kubeconfig k --context c --namespace n --image i --output json",
            "doctor --from-cluster --server https://hodei:50051 --as system:serviceaccount:a:b",
            "run --cluster-name mine --nodes 2 --profile all",
            "run --profile extended --layer lifecycle",
            "run --rerun-failed hodei-e2e-report --nodes 2 --keep",
            "run --case infra.quota --repeat 1000 --until-failure",
            "run --profile all --shard 2/3 --repeat 5 --flake-budget 0.5",
            "run --rerun-failed hodei-e2e-report --repeat 20",
            "run --resume 3fa9c1 --dry-run --keep --nodes 2",
            "run -E all --layer infra --profile core --shard 1/2",
            "list --expression all --layer infra",
            "report merge one two three --report all",
            "selftest --layer cleanup --case cleanup.churn --threads 2 --nodes 2 --yes",
            "selftest --check",
            "list --layer full-job --output markdown",
            "explain full-job.execution",
            "report show hodei-e2e-report --format html",
            "report diff a.json b.json --output json",
            "report history --case infra.quota --case infra.manifests --since 2026-01-31 --output json",
            "run --no-history",
        ] {
            let words = std::iter::once("hodei-e2e").chain(good.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{good}");
        }
        for bad in [
            "up --nodes 0",
            "doctor --namespace n",
            "doctor --from-cluster --server hodei:50051",
            "run --nodes 6",
            "run --profile both",
            "run --rerun-failed r --layer infra",
            "run --rerun-failed r --case infra.quota",
            "run --rerun-failed r --profile all",
            "run --resume 3fa9c1 --layer infra",
            "run --resume 3fa9c1 --repeat 2",
            "run --rerun-failed r -E all",
            "run -E all -E none",
            "run --repeat 0",
            "run --repeat 1001",
            "run --until-failure",
            "run --flake-budget 5",
            "run --repeat 5 --flake-budget 101",
            "run --repeat 5 --flake-budget NaN",
            "run --repeat 5 --flake-budget 5 --fail-fast",
            "run --shard 0/2",
            "run --shard 3/2",
            "run --layer infr",
            "report merge",
            "selftest --check --layer cleanup",
            "selftest --layer clean",
            "explain",
            "report show r --format pdf",
            "report diff a",
            "report history --since yesterday",
        ] {
            let words = std::iter::once("hodei-e2e").chain(bad.split(' '));
            assert!(Cli::try_parse_from(words).is_err(), "{bad}");
        }
    }
}

//! The command line: what can be typed, with examples at each level.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::SignedDuration;

/// `hodei`.
#[derive(Debug, Parser)]
#[command(name = "hodei", version, about = "Run jobs on Hodei and see what became of them")]
#[command(
    arg_required_else_help = true,
    propagate_version = true,
    after_help = "\
Examples:
  hodei job run -- sh -c 'echo hello; exit 3'   run a command, follow its output, exit with 3
  hodei job list --state running                what runs now
  hodei provider list                           where jobs can run
  hodei context show                            which server is talked to, and why that one"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the server is. Flags come before the environment, that before the context file.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// gRPC address of the server [default: http://127.0.0.1:50051]
    #[arg(
        long,
        global = true,
        env = "HODEI_SERVER_ADDRESS",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(crate) server: Option<String>,
    /// REST address of the server [default: http://127.0.0.1:8080]
    #[arg(
        long,
        global = true,
        env = "HODEI_REST_ADDRESS",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(crate) rest: Option<String>,
    /// PEM file of the authorities to trust with https
    #[arg(long, global = true, env = "HODEI_CA_FILE", hide_env_values = true, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Context file [default: $XDG_CONFIG_HOME/hodei/context.toml]
    #[arg(long, global = true, env = "HODEI_CONTEXT", hide_env_values = true, value_name = "FILE")]
    pub(crate) context: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run jobs and look at them
    #[command(subcommand)]
    Job(JobCommand),
    /// The places where workers are made
    #[command(subcommand)]
    Provider(ProviderCommand),
    /// The workers that run jobs
    #[command(subcommand)]
    Worker(WorkerCommand),
    /// Which server is talked to
    #[command(subcommand)]
    Context(ContextCommand),
}

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  hodei job run --name build -e CI=1 --memory-limit 1Gi -- make test
  hodei job run --script build.sh --timeout 10m
  hodei job logs 0190a6f0-… --follow
  hodei job list --state failed --limit 5 --output json")]
pub(crate) enum JobCommand {
    /// Run a job, follow its output, exit with its exit code
    Run(Box<RunArgs>),
    /// Show one job
    Get {
        /// The job's id
        id: String,
        #[command(flatten)]
        output: Output,
    },
    /// List jobs, newest first
    List {
        /// Only jobs in this state; can be repeated
        #[arg(long, value_enum)]
        state: Vec<State>,
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        #[command(flatten)]
        output: Output,
    },
    /// Show the output of a job
    Logs {
        /// The job's id
        id: String,
        /// Go on until the job has ended
        #[arg(long, short)]
        follow: bool,
        /// Begin with this piece of output (counted from 1 within one attempt)
        #[arg(long, default_value_t = 1, value_name = "N")]
        from_sequence: u64,
        /// Begin with this attempt; the first without it
        #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
        from_attempt: u32,
    },
    /// Cancel a job
    Cancel {
        /// The job's id
        id: String,
        /// Why, for whoever looks at the job later
        #[arg(long, default_value = "cancelled with hodei job cancel")]
        reason: String,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
The job's stdout goes to stdout and its stderr to stderr, byte for byte, as they come.

Exit codes: that of the command; 128 + N if signal N ended it; 127 if it could not be run;
124 if a time-out ended it; 130 if it was cancelled; 125 if Hodei failed, with the reason on stderr.

Examples:
  hodei job run -- echo hello
  hodei job run -e TOKEN -e CI=1 -- make test      TOKEN is taken from here
  echo 'uname -a' | hodei job run --script -
  id=$(hodei job run --detach -- sleep 60)")]
pub(crate) struct RunArgs {
    /// A name for people (a-z, 0-9 and -)
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Environment of the job; a KEY alone takes its value from here; can be repeated
    #[arg(long, short, value_name = "KEY[=VALUE]", value_parser = parse_env)]
    pub(crate) env: Vec<(String, String)>,
    /// A label; can be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) label: Vec<(String, String)>,
    /// Absolute path to run in; the workspace without it
    #[arg(long, value_name = "DIR")]
    pub(crate) working_directory: Option<String>,
    /// Image of the worker
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// CPU to set aside, as in 500m
    #[arg(long, value_name = "QUANTITY", help_heading = "Resources")]
    pub(crate) cpu_request: Option<String>,
    /// CPU at most, as in 2
    #[arg(long, value_name = "QUANTITY", help_heading = "Resources")]
    pub(crate) cpu_limit: Option<String>,
    /// Memory to set aside, as in 256Mi
    #[arg(long, value_name = "QUANTITY", help_heading = "Resources")]
    pub(crate) memory_request: Option<String>,
    /// Memory at most, as in 1Gi
    #[arg(long, value_name = "QUANTITY", help_heading = "Resources")]
    pub(crate) memory_limit: Option<String>,
    /// How long the command may run, as in 90s or 1h30m
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Limits")]
    pub(crate) timeout: Option<Duration>,
    /// How long it may wait until a worker is asked for
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Limits")]
    pub(crate) queue_timeout: Option<Duration>,
    /// How long a worker may take to start
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Limits")]
    pub(crate) startup_timeout: Option<Duration>,
    /// Further attempts if the command fails
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub(crate) retries: Option<u32>,
    /// Further attempts if the infrastructure fails
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub(crate) infrastructure_retries: Option<u32>,
    /// Print the job's id and leave
    #[arg(long)]
    pub(crate) detach: bool,
    /// Whether Ctrl-C, SIGTERM or a closed stdout cancels the job; if not, it is left to itself
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) cancel_on_interrupt: bool,
    /// The same key gives the same job, however often it is submitted
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// Run this file with /bin/sh -eu; - reads it from stdin
    #[arg(long, value_name = "FILE", conflicts_with = "command")]
    pub(crate) script: Option<PathBuf>,
    /// Program and arguments, run without a shell
    #[arg(last = true, required_unless_present = "script", value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  hodei provider add k8s-local --type kubernetes --set namespace=hodei-jobs-workers
  hodei provider add k8s-prod --type kubernetes --config provider.toml
  hodei provider list --output json")]
pub(crate) enum ProviderCommand {
    /// Register a provider
    Add {
        /// Its name (a-z, 0-9 and -)
        name: String,
        /// Its kind
        #[arg(long = "type", default_value = "kubernetes")]
        kind: String,
        /// Its configuration, a JSON or TOML file
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// One setting, over the file; dots go deeper, and a value that is JSON is taken as such
        #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
        set: Vec<(String, String)>,
    },
    /// List providers
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Remove a provider
    Remove {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  hodei worker list
  hodei worker list --output json")]
pub(crate) enum WorkerCommand {
    /// List workers
    List {
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  hodei context show
  HODEI_CONTEXT=staging.toml hodei context show")]
pub(crate) enum ContextCommand {
    /// Show each setting and where it comes from
    Show {
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Output {
    /// How to show it
    #[arg(long = "output", short, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// The states of a job, as they are typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum State {
    Queued,
    Starting,
    Running,
    Cancelling,
    Succeeded,
    Failed,
    Cancelled,
    TimedOut,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it has to be KEY=VALUE")?;
    if key.is_empty() { Err("the key is empty".to_owned()) } else { Ok((key.into(), value.into())) }
}

fn parse_env(text: &str) -> Result<(String, String), String> {
    if text.contains('=') {
        return parse_pair(text);
    }
    let value = std::env::var(text).map_err(|error| format!("{error} here"))?;
    Ok((text.to_owned(), value))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse::<u32>() {
        Ok(seconds) => SignedDuration::from_secs(i64::from(seconds)),
        Err(_) => text.parse().map_err(|error: jiff::Error| error.to_string())?,
    };
    Duration::try_from(parsed).map_err(|_| "it must not be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("2h", 7200)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "-5s", "soon", "5 parsecs"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pairs() {
        assert_eq!(parse_pair("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert!(parse_pair("A").is_err() && parse_pair("=b").is_err());
        assert!(parse_env("HODEI_SURELY_NOT_SET").is_err());
    }
}

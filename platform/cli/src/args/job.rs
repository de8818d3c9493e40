//! `hodei job`: what can be typed.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

use super::{Output, parse_duration, parse_env, parse_pair};

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  hodei job run --name build -e CI=1 --memory-limit 1Gi -- make test
  hodei job run --script build.sh --timeout 10m
  hodei job logs 0190a6f0-… --follow
  hodei job retry 0190a6f0-…
  hodei job list --state failed --limit 5 --output json")]
pub(crate) enum JobCommand {
    /// Run a job, follow its output, exit with its exit code
    Run(Box<RunArgs>),
    /// Submit a job, print its id and leave
    Submit(Box<SubmitArgs>),
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
    /// Show each change of a job as it happens, until it has ended
    #[command(after_help = "\
Examples:
  hodei job watch 0190a6f0-…
  hodei job watch 0190a6f0-… --output json | jq -r .state     one JSON object a line")]
    Watch {
        /// The job's id
        id: String,
        #[command(flatten)]
        output: Output,
    },
    /// Run a job again that failed, timed out or was cancelled
    #[command(after_help = "\
The job gets a new attempt with fresh retries. A job that is active is refused, and so is one that
succeeded: submit that one anew.

Examples:
  hodei job retry 0190a6f0-…
  hodei job retry 0190a6f0-… && hodei job logs 0190a6f0-… --follow")]
    Retry {
        /// The job's id
        id: String,
        /// The same key gives one retry, however often it is asked for
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
        #[command(flatten)]
        output: Output,
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
What a job waits for is said on stderr once it lasts over 2 s.

Exit codes: that of the command; 128 + N if signal N ended it; 127 if it could not be run;
124 if a time-out ended it; 130 if it was cancelled; 125 if Hodei failed, with the reason on stderr.

Examples:
  hodei job run -- echo hello
  hodei job run -e TOKEN -e CI=1 -- make test      TOKEN is taken from here
  echo 'uname -a' | hodei job run --script -
  id=$(hodei job submit -- sleep 60)")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) job: JobArgs,
    /// Print the job's id and leave, as hodei job submit does
    #[arg(long)]
    pub(crate) detach: bool,
    /// Whether Ctrl-C, SIGTERM or a closed stdout cancels the job; if not, it is left to itself
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) cancel_on_interrupt: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  id=$(hodei job submit --priority 10 -- make release)
  hodei job submit --script build.sh --idempotency-key build-4711
  hodei job watch \"$id\"")]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    pub(crate) job: JobArgs,
}

/// The job itself.
#[derive(Debug, Args)]
pub(crate) struct JobArgs {
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
    /// Place in the queue, -1000 to 1000: the highest goes first, then the oldest
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) priority: i32,
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

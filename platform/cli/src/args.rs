//! The command line: what can be typed, with examples at each level.

mod job;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::SignedDuration;

pub(crate) use self::job::{JobArgs, JobCommand, RunArgs, State};

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

/// Where the server is and who asks. Flags come before the environment, that before the context file.
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
    /// Token of the server. It shows in `ps`: better --token-file
    #[arg(long, global = true, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// File with the token of the server
    #[arg(
        long,
        global = true,
        env = "HODEI_TOKEN_FILE",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub(crate) token_file: Option<PathBuf>,
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
    /// Print what makes a shell complete this command's words
    #[command(after_help = "\
Examples:
  source <(hodei completions bash)
  hodei completions zsh > \"${fpath[1]}/_hodei\"
  hodei completions fish > ~/.config/fish/completions/hodei.fish")]
    Completions {
        /// Which shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  hodei provider add k8s-local --type kubernetes --set namespace=hodei-jobs-workers
  hodei provider add k8s-prod --type kubernetes --config provider.toml
  hodei provider add k8s-warm --pool-minimum 2 --pool-maximum 10 --pool-idle 5m
  hodei provider pool set k8s-prod --minimum 2 --maximum 8
  hodei provider get k8s-prod             what is known of it
  hodei provider health k8s-prod          the same; ends with 1 if it is not healthy
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
        #[command(flatten)]
        pool: PoolArgs,
    },
    /// List providers
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Show one provider: its health, its pool, what it can offer, and how old that is
    Get {
        /// Its name
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Show the same as get, and end with 1 if the provider is not healthy
    Health {
        /// Its name
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// The workers that a provider keeps for the next job
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Remove a provider
    Remove {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  hodei provider pool set k8s-prod --minimum 2 --maximum 8 --idle 5m --maximum-age 24h
  hodei provider pool set k8s-prod --maximum 8 --output json
  hodei provider pool clear k8s-prod
  hodei provider get k8s-prod             shows the pool, too
  hodei worker list                       which of its workers are idle")]
pub(crate) enum PoolCommand {
    /// Give a provider a pool, or its pool other bounds
    #[command(after_help = "\
What is not given gets its default, whatever it was before. Idle workers that have no place any more
go at once, busy ones when their job has ended.

Examples:
  hodei provider pool set k8s-prod --maximum 8                keep up to 8, none of them for long
  hodei provider pool set k8s-prod --minimum 2 --maximum 8    and 2 of them always
  hodei provider pool set k8s-prod --minimum 2 --maximum 8 --idle 5m --maximum-age 24h")]
    Set {
        /// The provider's name
        name: String,
        #[command(flatten)]
        bounds: BoundsArgs,
        #[command(flatten)]
        output: Output,
    },
    /// Remove a provider's pool: each worker runs one job then
    #[command(after_help = "\
Idle workers go at once, busy ones when their job has ended. Repeated, it changes nothing.

Examples:
  hodei provider pool clear k8s-prod
  hodei provider pool clear k8s-prod --output json")]
    Clear {
        /// The provider's name
        name: String,
        #[command(flatten)]
        output: Output,
    },
}

/// Bounds of a pool. A job runs there if it wants neither an image nor resources of its own.
#[derive(Debug, Args)]
pub(crate) struct BoundsArgs {
    /// Keep so many workers, even if there is nothing to do [default: 0]
    #[arg(long, value_name = "WORKERS")]
    pub(crate) minimum: Option<u32>,
    /// Have so many workers at most
    #[arg(long, value_name = "WORKERS")]
    pub(crate) maximum: u32,
    /// How long a worker above the minimum stays idle: 90, 90s, 5m [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub(crate) idle: Option<Duration>,
    /// The age at which a worker is replaced; a job that may take longer gets a worker of its own
    /// [default: 24h]
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub(crate) maximum_age: Option<Duration>,
}

/// Workers that stay for the next job. It has to want neither an image nor resources of its own.
#[derive(Debug, Args)]
#[command(next_help_heading = "Pool")]
pub(crate) struct PoolArgs {
    /// Keep so many workers, even if there is nothing to do [default: 0]
    #[arg(long = "pool-minimum", value_name = "WORKERS", requires = "pool_maximum")]
    pub(crate) minimum: Option<u32>,
    /// Have so many workers at most; without it each worker runs one job
    #[arg(id = "pool_maximum", long = "pool-maximum", value_name = "WORKERS")]
    pub(crate) maximum: Option<u32>,
    /// How long a worker above the minimum stays idle: 90, 90s, 5m [default: 5m]
    #[arg(long = "pool-idle", value_name = "TIME", requires = "pool_maximum", value_parser = parse_seconds)]
    pub(crate) idle: Option<Duration>,
    /// The age at which a worker is replaced; a job that may take longer gets a worker of its own
    /// [default: 24h]
    #[arg(long = "pool-maximum-age", value_name = "TIME", requires = "pool_maximum", value_parser = parse_seconds)]
    pub(crate) maximum_age: Option<Duration>,
}

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  hodei worker list
  hodei worker list --output json
  hodei worker drain 0190a6f0-…")]
pub(crate) enum WorkerCommand {
    /// List workers
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Have a worker finish what it has, take no more, and leave
    Drain {
        /// The worker's id
        id: String,
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

/// A time that is told to the server in seconds.
fn parse_seconds(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    if time.subsec_nanos() > 0 { Err("it has to be whole seconds".to_owned()) } else { Ok(time) }
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
        assert_eq!(parse_seconds("5m"), Ok(Duration::from_secs(300)));
        assert!(parse_seconds("500ms").is_err() && parse_seconds("1.5s").is_err());
    }

    #[test]
    fn pairs() {
        assert_eq!(parse_pair("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert!(parse_pair("A").is_err() && parse_pair("=b").is_err());
        assert!(parse_env("HODEI_SURELY_NOT_SET").is_err());
    }
}

#[cfg(test)]
mod outside_input {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_duration_is_the_time_that_was_written_or_refused(
            text in prop_oneof![any::<String>(), "-?[0-9.]{1,20} ?(ms|s|m|h|d|w)?", "([0-9]{1,4}(h|m|s)){1,3}"],
        ) {
            if let Ok(time) = parse_duration(&text) {
                let written = SignedDuration::try_from(time).unwrap();
                prop_assert_eq!(parse_duration(&format!("{written:#}")), Ok(time), "{}", text);
                prop_assert_eq!(parse_seconds(&text).is_ok(), time.subsec_nanos() == 0);
            }
        }

        #[test]
        fn any_whole_number_is_so_many_seconds(seconds in any::<u32>()) {
            let time = Duration::from_secs(seconds.into());
            prop_assert_eq!(parse_seconds(&seconds.to_string()), Ok(time));
            prop_assert_eq!(parse_seconds(&format!("{seconds}s")), Ok(time));
        }

        #[test]
        fn a_pair_is_cut_at_its_first_sign(text in prop_oneof![any::<String>(), "[A-Z=]{0,6}"]) {
            match parse_pair(&text) {
                Ok((key, value)) => {
                    prop_assert!(!key.is_empty() && !key.contains('='));
                    prop_assert_eq!(format!("{key}={value}"), text);
                }
                Err(problem) => prop_assert!(!problem.is_empty() && (!text.contains('=') || text.starts_with('='))),
            }
        }
    }
}

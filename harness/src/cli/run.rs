//! `hodei-e2e run`: the cases, on a cluster that is brought up if need be, and a verdict.

use std::path::PathBuf;

use clap::ValueEnum;
use hodei_harness::catalogue::{Layer, Profile, Selection};
use hodei_harness::environment::Keep;
use hodei_harness::failure::Result;
use hodei_harness::postgres::PostgresChoice;
use hodei_harness::runner::{RunRequest, run as run_cases};

use super::Context;
use super::bootstrap::BootstrapArgs;

/// Which profiles are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ProfileChoice {
    /// What every cluster must keep
    Core,
    /// What only some clusters can show: nodes that go, an API that fails
    Extended,
    /// Both
    All,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hodei-e2e run                                   every core case, and a verdict
  hodei-e2e run --layer lifecycle --fail-fast     one layer, up to its first failure
  hodei-e2e run --case full-job.execution --keep  one case; what it made stays
  hodei-e2e run --nodes 2 --profile all           core and extended cases on two nodes

A case that the cluster lacks a feature for is not run, and the run is inconclusive (exit code 3).")]
pub(super) struct Args {
    #[command(flatten)]
    bootstrap: BootstrapArgs,
    /// Only cases of this layer; may be repeated
    #[arg(long, value_name = "LAYER")]
    layer: Vec<Layer>,
    /// Only this case, of whatever profile; may be repeated
    #[arg(long, value_name = "ID")]
    case: Vec<String>,
    /// Which cases are required [default: core, or all if --case names some]
    #[arg(long, value_enum)]
    profile: Option<ProfileChoice>,
    /// Leave namespaces and databases standing (`hodei-e2e reap --run ID` removes them)
    #[arg(long, conflicts_with = "keep_on_failure")]
    keep: bool,
    /// Leave those of failed cases standing
    #[arg(long)]
    keep_on_failure: bool,
    /// Stop at the first failure
    #[arg(long)]
    fail_fast: bool,
    /// Cases at a time
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// container, local (binaries of this machine), or the URL of a server
    #[arg(
        long,
        env = "HODEI_E2E_POSTGRES_URL",
        hide_env_values = true,
        default_value = "container"
    )]
    postgres: PostgresChoice,
    /// Where the report goes, beside the run's own directory
    #[arg(long, value_name = "DIR", default_value = "hodei-e2e-report")]
    report: PathBuf,
}

fn profiles(choice: Option<ProfileChoice>, cases: &[String]) -> Vec<Profile> {
    match choice {
        Some(ProfileChoice::All) => Vec::new(),
        // A case that was named is wanted, whichever its profile.
        None if !cases.is_empty() => Vec::new(),
        None | Some(ProfileChoice::Core) => vec![Profile::Core],
        Some(ProfileChoice::Extended) => vec![Profile::Extended],
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<u8> {
    let keep = match (args.keep, args.keep_on_failure) {
        (true, _) => Keep::Everything,
        (false, true) => Keep::Failures,
        (false, false) => Keep::Nothing,
    };
    let profiles = profiles(args.profile, &args.case);
    let request = RunRequest {
        bootstrap: args.bootstrap.options(false),
        selection: Selection { layers: args.layer, cases: args.case, profiles },
        keep,
        postgres: args.postgres,
        fail_fast: args.fail_fast,
        threads: args.threads,
    };
    let finished = run_cases(&context.paths, &request, &context.progress).await?;
    if let Some(error) = finished.error {
        eprintln!("{:?}", miette::Report::new(error));
    }
    finished.report.save(&args.report)?;
    println!("evidence: {}", finished.run.path.join("evidence").display());
    println!("{}", finished.report.summary(&args.report));
    Ok(finished.report.exit_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_is_the_default_unless_a_case_is_named() {
        let named = ["lifecycle.node-stopped".to_owned()];
        assert_eq!(profiles(None, &[]), [Profile::Core]);
        assert_eq!(profiles(None, &named), []);
        assert_eq!(profiles(Some(ProfileChoice::Core), &named), [Profile::Core]);
        assert_eq!(profiles(Some(ProfileChoice::Extended), &[]), [Profile::Extended]);
        assert_eq!(profiles(Some(ProfileChoice::All), &[]), []);
    }
}

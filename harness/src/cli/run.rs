//! `hodei-e2e run`: the cases, on a cluster that is brought up if need be, and a verdict.

use std::path::PathBuf;

use hodei_harness::bootstrap::BootstrapOptions;
use hodei_harness::catalogue::{Layer, Selection};
use hodei_harness::cluster;
use hodei_harness::engine::Consent;
use hodei_harness::environment::Keep;
use hodei_harness::failure::Result;
use hodei_harness::node_image::SourceChoice;
use hodei_harness::postgres::PostgresChoice;
use hodei_harness::runner::{RunRequest, run as run_cases};

use super::Context;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Install and start what is missing without asking (CI=true means the same)
    #[arg(long, short)]
    yes: bool,
    /// Only cases of this layer; may be repeated
    #[arg(long, value_name = "LAYER")]
    layer: Vec<Layer>,
    /// Only this case; may be repeated
    #[arg(long, value_name = "ID")]
    case: Vec<String>,
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
    /// Where the node image comes from
    #[arg(long, value_enum, default_value_t, env = "HODEI_E2E_NODE_IMAGE_SOURCE")]
    node_image_source: SourceChoice,
    /// The cluster's name
    #[arg(long, env = cluster::NAME_ENV, default_value = cluster::DEFAULT_NAME)]
    cluster_name: String,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<u8> {
    let keep = match (args.keep, args.keep_on_failure) {
        (true, _) => Keep::Everything,
        (false, true) => Keep::Failures,
        (false, false) => Keep::Nothing,
    };
    let request = RunRequest {
        bootstrap: BootstrapOptions {
            consent: Consent::from_flag(args.yes),
            cluster_name: args.cluster_name,
            recreate: false,
            node_image_source: args.node_image_source,
        },
        selection: Selection { layers: args.layer, cases: args.case, profiles: Vec::new() },
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

//! `hodei-e2e bench`: Hodei beside bare Kubernetes, on the stack that `up --stack` brings up.

use hodei_harness::bench::{
    JobSide, Plan, PodSide, PoolSide, compare, compare_logs, compare_pooled, render,
};
use hodei_harness::bootstrap::{BootstrapOptions, bootstrap};
use hodei_harness::case::Clients;
use hodei_harness::cluster::ready;
use hodei_harness::engine::Consent;
use hodei_harness::failure::{Classify, FailureClass, Result};
use hodei_harness::postgres::PostgresChoice;
use hodei_harness::stack::{PROVIDER, WORKERS, start_stack};

use super::{Context, OutputFormat};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hodei-e2e bench                        5 rounds of one, then 50 at once
  hodei-e2e bench --rounds 20 --burst 0  the single ones only, with less noise
  hodei-e2e bench --pooled               also 200 jobs, one after another, on two warm workers
  hodei-e2e bench --logs                 output too, beside `kubectl logs --follow`")]
pub(super) struct Args {
    /// Install and start what is missing without asking (CI=true means the same)
    #[arg(long, short)]
    yes: bool,
    /// How often one pod and one job are measured, in turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How many to start at once for the makespan; 0 leaves it out
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=90))]
    burst: u32,
    /// Also compare jobs on warm workers: from submit to result, one after another
    #[arg(long)]
    pooled: bool,
    /// Also compare output: 50 MiB, and how late a line is, beside `kubectl logs --follow`
    #[arg(long)]
    logs: bool,
    /// How the result is printed
    #[arg(long, value_enum, default_value = "text")]
    output: OutputFormat,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<u8> {
    let options =
        BootstrapOptions { consent: Consent::from_flag(args.yes), ..BootstrapOptions::default() };
    let up = bootstrap(&context.paths, &options, &context.progress).await?;
    let address =
        start_stack(&context.paths, &up, &PostgresChoice::Container, &context.progress).await?;
    let client = ready::client(&up.cluster).await?;
    let pods = PodSide::new(client, WORKERS, &up.worker_image.reference);
    let clients = Clients::at(&address.grpc, &address.rest)?;
    let jobs = JobSide::new(clients.clone());
    let plan = Plan { rounds: args.rounds, burst: args.burst };
    let mut found = compare(&pods, &jobs, plan, &context.progress).await?;
    if args.pooled {
        let pool = PoolSide::new(clients, PROVIDER);
        found.extend(compare_pooled(&pods, &jobs, &pool, &context.progress).await?);
    }
    if args.logs {
        found.extend(compare_logs(&pods, &jobs, &context.progress).await?);
    }
    match args.output {
        OutputFormat::Text => print!("{}", render(&found)),
        OutputFormat::Json => {
            let text = serde_json::to_string_pretty(&found);
            println!("{}", text.classify(FailureClass::Harness, "print", "the result")?);
        }
    }
    Ok(0)
}

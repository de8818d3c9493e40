//! `hodei-e2e up`: everything that a run needs, brought up and left up.

use hodei_harness::bootstrap::{BootstrapOptions, bootstrap};
use hodei_harness::cluster;
use hodei_harness::engine::Consent;
use hodei_harness::failure::{Classify, FailureClass, Result};
use hodei_harness::node_image::SourceChoice;
use hodei_harness::paths::write_atomically;
use hodei_harness::postgres::PostgresChoice;
use hodei_harness::stack::start_stack;

use super::{Context, OutputFormat};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Install and start what is missing without asking (CI=true means the same)
    #[arg(long, short)]
    yes: bool,
    /// Make the cluster again even if it is as wanted
    #[arg(long)]
    recreate: bool,
    /// Go on to a stack for hands-on use: Postgres, server, provider, and the context of `hodei`
    #[arg(long, conflicts_with = "output")]
    stack: bool,
    /// container, local (programs of this machine), or the URL of a server; for the stack
    #[arg(
        long,
        env = "HODEI_E2E_POSTGRES_URL",
        hide_env_values = true,
        default_value = "container"
    )]
    postgres: PostgresChoice,
    /// Where the node image comes from
    #[arg(long, value_enum, default_value_t, env = "HODEI_E2E_NODE_IMAGE_SOURCE")]
    node_image_source: SourceChoice,
    /// The cluster's name
    #[arg(long, env = cluster::NAME_ENV, default_value = cluster::DEFAULT_NAME)]
    cluster: String,
    /// How the result is printed
    #[arg(long, value_enum, default_value = "text")]
    output: OutputFormat,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<u8> {
    let options = BootstrapOptions {
        consent: Consent::from_flag(args.yes),
        cluster_name: args.cluster,
        recreate: args.recreate,
        node_image_source: args.node_image_source,
    };
    let outcome = bootstrap(&context.paths, &options, &context.progress).await;
    let timings = context.progress.timings_json_lines();
    write_atomically(&context.paths.log_dir().join("up-timings.jsonl"), timings.as_bytes(), 0o600)?;
    let up = outcome?;
    if args.stack {
        let address = start_stack(&context.paths, &up, &args.postgres, &context.progress).await?;
        println!("gRPC        {}", address.grpc);
        println!("REST        {}", address.rest);
        println!("context     {} (`hodei` finds it by itself)", address.context.display());
        println!("kubeconfig  {}", up.cluster.kubeconfig.display());
        println!("Try: cargo run --package hodei -- job run -- sh -c 'echo hello; exit 3'");
        return Ok(0);
    }
    match args.output {
        OutputFormat::Json => {
            let text = serde_json::to_string_pretty(&up);
            println!("{}", text.classify(FailureClass::Harness, "print", "the result")?);
        }
        OutputFormat::Text => {
            println!("cluster     {} ({})", up.cluster.name, up.cluster.nodes.join(", "));
            println!("kubeconfig  {}", up.cluster.kubeconfig.display());
            println!("worker      {}", up.worker_image.reference);
            println!("postgres    {}", up.postgres_image.reference());
        }
    }
    Ok(0)
}

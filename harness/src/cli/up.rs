//! `hodei-e2e up`: everything that a run needs, brought up and left up.

use hodei_harness::failure::{Classify, FailureClass, Result};
use hodei_harness::paths::write_atomically;
use hodei_harness::postgres::PostgresChoice;
use hodei_harness::stack::start_stack;

use super::bootstrap::BootstrapArgs;
use super::{Context, OutputFormat};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hodei-e2e up --yes           engine, cluster, images; asks for nothing
  hodei-e2e up --stack         the same and a stack that `hodei` finds by itself
  hodei-e2e up --nodes 3       a control plane and two workers
  hodei-e2e up --features network-policy
                               a network that enforces policies
  hodei-e2e up --kubernetes 1.33 --cluster-name older
                               an older Kubernetes, beside the usual cluster
  hodei-e2e up --output json   what is up, for a program")]
pub(super) struct Args {
    #[command(flatten)]
    bootstrap: BootstrapArgs,
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
    /// How the result is printed
    #[arg(long, value_enum, default_value = "text")]
    output: OutputFormat,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<u8> {
    let options = args.bootstrap.options(args.recreate);
    let outcome =
        hodei_harness::bootstrap::bootstrap(&context.paths, &options, &context.progress).await;
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
            println!("node        {}", up.node_image.reference);
            println!("worker      {}", up.worker_image.reference);
            println!("postgres    {}", up.postgres_image.reference());
        }
    }
    Ok(0)
}

//! `hodei-e2e down`: takes down what `up` left standing: stack, containers, cluster, environment.
//! Tools, images and engine stay; `pristine` takes those.

use hodei_harness::cluster;
use hodei_harness::failure::Result;
use hodei_harness::record::Record;
use hodei_harness::takedown;
use hodei_harness::tools::find_kind;
use hodei_harness::versions::Versions;

use super::Context;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The cluster's name
    #[arg(long, alias = "cluster", env = cluster::NAME_ENV, default_value = cluster::DEFAULT_NAME)]
    cluster_name: String,
    /// Leave the cluster up and take down only what runs on it
    #[arg(long)]
    keep_cluster: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<u8> {
    let (paths, progress) = (&context.paths, &context.progress);
    takedown::stack_and_runs(paths, progress).await?;
    if args.keep_cluster {
        return Ok(0);
    }
    progress
        .stage(format!("cluster {}", args.cluster_name), async |stage| {
            let Some(kind) = find_kind(paths, &Versions::load()?, &stage).await else {
                stage.note("there is no kind, so no cluster of this tool");
                return Ok(());
            };
            let mut record = Record::open(&paths.bootstrap_record())?;
            cluster::delete(paths, &kind.path, &args.cluster_name, &mut record, &stage).await
        })
        .await?;
    Ok(0)
}

//! `hodei-e2e pristine`: takes back what the bootstrap brought, by its own record.

use hodei_harness::engine::Consent;
use hodei_harness::failure::Result;
use hodei_harness::pristine::pristine;

use super::Context;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Do not ask (CI=true means the same)
    #[arg(long, short)]
    yes: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<u8> {
    let question = "Remove the cluster, images, tools, caches and packages that hodei-e2e brought?";
    Consent::from_flag(args.yes).obtain(question, &context.progress)?;
    let undone = pristine(&context.paths, &context.progress).await?;
    println!("{} things undone; nothing of the bootstrap is left", undone.len());
    Ok(0)
}

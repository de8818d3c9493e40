//! `hodei-e2e tools`: what `make test` and `make lint` need.

use hodei_harness::check_tools::{CheckTool, ensure};
use hodei_harness::engine::Consent;
use hodei_harness::failure::Result;
use hodei_harness::lock::Lock;

use super::Context;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which tools; they are installed only where they are missing
    #[arg(required = true)]
    tools: Vec<CheckTool>,
    /// Do not ask (CI=true means the same)
    #[arg(long, short)]
    yes: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<u8> {
    let _held =
        Lock::acquire(&context.paths, &context.progress, &context.progress.unlisted()).await?;
    let consent = Consent::from_flag(args.yes);
    ensure(&context.paths, &args.tools, consent, &context.progress).await?;
    Ok(0)
}

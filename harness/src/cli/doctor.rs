//! `hodei-e2e doctor`: what is there, what is missing, what mends it.

use hodei_harness::doctor;
use hodei_harness::failure::{Classify, FailureClass, Result};

use super::{Context, OutputFormat};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How the report is printed
    #[arg(long, value_enum, default_value = "text")]
    output: OutputFormat,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<u8> {
    let report = doctor::examine(&context.paths, &context.progress.unlisted()).await?;
    match args.output {
        OutputFormat::Text => print!("{}", report.render()),
        OutputFormat::Json => {
            let text = serde_json::to_string_pretty(&report);
            println!("{}", text.classify(FailureClass::Harness, "print", "the report")?);
        }
    }
    Ok(report.exit_code())
}

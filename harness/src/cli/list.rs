//! `hodei-e2e list`: which cases there are, without a cluster.

use clap::ValueEnum;
use hodei_harness::catalogue::{Catalogue, Layer, Profile, Selection};
use hodei_harness::conformance;
use hodei_harness::failure::{Classify, FailureClass, Result};

use super::Context;

/// How the list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ListFormat {
    /// A line for each case
    Text,
    /// All that the catalogue says
    Json,
    /// What docs/conformance.md holds
    Markdown,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hodei-e2e list                     every case, with its profile and promise
  hodei-e2e list --layer lifecycle   one layer
  hodei-e2e list --output json       for a program")]
pub(super) struct Args {
    /// Only cases of this layer; may be repeated
    #[arg(long, value_name = "LAYER")]
    layer: Vec<Layer>,
    /// How the list is printed
    #[arg(long, value_enum, default_value = "text")]
    output: ListFormat,
}

pub(super) fn run(args: Args, context: &Context) -> Result<u8> {
    let catalogue = Catalogue::read(context.paths.workspace())?;
    let selection = Selection { layers: args.layer, ..Selection::default() };
    let cases = catalogue.select(&selection)?;
    match args.output {
        ListFormat::Text => {
            let widest = cases.iter().map(|case| case.id.len()).max().unwrap_or_default();
            for case in cases {
                let profile = if case.profile == Profile::Core { "core" } else { "extended" };
                println!("{:widest$}  {profile:8}  {}", case.id, case.title);
            }
        }
        ListFormat::Json => {
            let text = serde_json::to_string_pretty(&cases);
            println!("{}", text.classify(FailureClass::Harness, "print", "the catalogue")?);
        }
        ListFormat::Markdown => print!("{}", conformance::to_markdown(&cases)),
    }
    Ok(0)
}

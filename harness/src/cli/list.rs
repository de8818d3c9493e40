//! `hodei-e2e list`: which cases there are, without a cluster.

use clap::ValueEnum;
use hodei_harness::catalogue::Catalogue;
use hodei_harness::conformance;
use hodei_harness::failure::{Classify, FailureClass, Result};
use hodei_harness::quarantine::Quarantine;

use super::selection::{SelectionArgs, TERMS, tell_idle_terms};
use super::{Context, refuse};

const EXAMPLES: &str = "Examples:
  hodei-e2e list                     every case, with its profile and promise
  hodei-e2e list --layer lifecycle   one layer
  hodei-e2e list -E 'requirement(HU-7.5) and feature(multi-node)'
  hodei-e2e list --output json       for a program";

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
#[command(after_help = format!("{EXAMPLES}\n\n{TERMS}"))]
pub(super) struct Args {
    #[command(flatten)]
    selection: SelectionArgs,
    /// How the list is printed
    #[arg(long, value_enum, default_value = "text")]
    output: ListFormat,
}

pub(super) fn run(args: Args, context: &Context) -> Result<u8> {
    let catalogue = Catalogue::read(context.paths.workspace())?;
    let quarantine = match Quarantine::read(context.paths.workspace(), &catalogue) {
        Ok(quarantine) => quarantine,
        Err(error) => return Ok(refuse(error)),
    };
    let selection = match args.selection.selection() {
        Ok(selection) => selection,
        Err(error) => return Ok(refuse(error)),
    };
    let cases = match catalogue.select(&selection, &quarantine) {
        Ok(cases) => cases,
        Err(error) => return Ok(refuse(error)),
    };
    tell_idle_terms(&catalogue, &selection, &quarantine);
    match args.output {
        ListFormat::Text => {
            let widest = cases.iter().map(|case| case.id.len()).max().unwrap_or_default();
            for case in cases {
                println!("{:widest$}  {:8}  {}", case.id, case.profile.as_str(), case.title);
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

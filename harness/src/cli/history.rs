//! `hodei-e2e report history`: how often each case failed in the runs of this machine.

use hodei_harness::catalogue::Catalogue;
use hodei_harness::failure::{Classify, FailureClass, Result};
use hodei_harness::history::{History, Summary};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::{Context, OutputFormat, print_all, refuse};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this case; may be repeated
    #[arg(long, value_name = "ID")]
    case: Vec<String>,
    /// Only what began at or after this day (UTC) or time
    #[arg(long, value_name = "DATE", value_parser = moment)]
    since: Option<Timestamp>,
    /// How it is printed
    #[arg(long, value_enum, default_value = "text")]
    output: OutputFormat,
}

/// A day, which begins at midnight UTC, or a time with its zone.
fn moment(text: &str) -> Result<Timestamp, String> {
    let day = text.parse::<Date>().ok().filter(|_| text.len() <= "2026-01-31".len());
    let begin = day.and_then(|day| day.to_zoned(TimeZone::UTC).ok());
    let moment = begin.map(|begin| begin.timestamp()).or_else(|| text.parse().ok());
    moment.ok_or_else(|| format!("{text:?} is neither 2026-01-31 nor 2026-01-31T12:00:00Z"))
}

pub(super) fn run(args: &Args, context: &Context) -> Result<u8> {
    let history = History::at(context.paths.state());
    let summary = Summary::of(&history.read()?, &args.case, args.since);
    // One that is no case any more may still be in the history.
    if !summary.unseen.is_empty() {
        let catalogue = Catalogue::read(context.paths.workspace())?;
        if let Some(error) = summary.unseen.iter().find_map(|id| catalogue.case(id).err()) {
            return Ok(refuse(error));
        }
    }
    let text = match args.output {
        OutputFormat::Text => format!("{}\n{}\n", summary.render(), history.path().display()),
        OutputFormat::Json => {
            let text = serde_json::to_string_pretty(&summary);
            format!("{}\n", text.classify(FailureClass::Harness, "print", "the history")?)
        }
    };
    print_all(&text)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_at_midnight() {
        let midnight: Timestamp = "2026-01-31T00:00:00Z".parse().unwrap();
        assert_eq!(moment("2026-01-31").unwrap(), midnight);
        assert_eq!(moment("2026-01-31T02:00:00+02:00").unwrap(), midnight);
        for bad in ["", "yesterday", "2026-02-30", "2026-01-31T02:00:00"] {
            assert!(moment(bad).unwrap_err().contains("neither"), "{bad}");
        }
    }
}

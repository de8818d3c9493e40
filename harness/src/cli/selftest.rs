//! `hodei-e2e selftest`: breaks the promise of each case and sees the case go red.

use std::path::PathBuf;

use hodei_harness::catalogue::{Catalogue, Layer};
use hodei_harness::failure::Result;
use hodei_harness::selftest::{SelftestRequest, check, evidence, selftest};

use super::bootstrap::BootstrapArgs;
use super::selection::{ProfileChoice, profiles};
use super::{Context, print_all, refuse};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hodei-e2e selftest                              every core case
  hodei-e2e selftest --layer cleanup              those of one layer
  hodei-e2e selftest --profile all --nodes 2 --features network-policy
                                                  every case there is
  hodei-e2e selftest --case full-job.exit-code    one case
  hodei-e2e selftest --check                      suites/saboteurs.toml only; no cluster, no build

suites/saboteurs.toml says for each case what makes its promise untrue. Its edits are made in a
copy of the checkout below the state directory, which is built once with all of them; each is switched
on in the processes of its own case alone. The copy and what is built of it stay there, so that the
next selftest is faster; `hodei-e2e pristine` removes them. HODEI_E2E_POSTGRES_URL says which Postgres
is used, as for `run`.

Exit codes: 0 each chosen case is red, with the class and the words that its saboteur names; 1 one is
not, or something was left behind; 3 one did not run; 70 a saboteur does not apply or compile; 130 and
143 ended by SIGINT and SIGTERM.")]
pub(super) struct Args {
    #[command(flatten)]
    bootstrap: BootstrapArgs,
    /// Only cases of this layer; may be repeated
    #[arg(long, value_name = "LAYER")]
    layer: Vec<Layer>,
    /// Only this case, of whatever profile; may be repeated
    #[arg(long, value_name = "ID")]
    case: Vec<String>,
    /// Which cases are meant [default: core, or all if --case says which]
    #[arg(long, value_enum)]
    profile: Option<ProfileChoice>,
    /// Cases at a time
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Where selftest.json and selftest.md go, and in run/ the reports of the sabotaged run
    #[arg(long, value_name = "DIR", default_value = "hodei-e2e-report/selftest")]
    report: PathBuf,
    /// Only see that each case has a saboteur and that each edit applies
    #[arg(long, conflicts_with_all = ["layer", "case", "profile", "threads"])]
    check: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<u8> {
    let workspace = context.paths.workspace();
    if args.check {
        print_all(&format!("{}\n", check(workspace)?))?;
        return Ok(0);
    }
    let request = SelftestRequest {
        bootstrap: args.bootstrap.options(false),
        profiles: profiles(args.profile, !args.case.is_empty()),
        layers: args.layer,
        cases: args.case,
        threads: args.threads,
        report: args.report,
    };
    if let Err(error) = request.choose(&Catalogue::read(workspace)?) {
        return Ok(refuse(error));
    }
    let matrix = selftest(&context.paths, &request, &context.progress).await?;
    let (evidence, report) = (evidence(&context.paths), request.report);
    print_all(&format!(
        "evidence: {}\nreport: {}\n{}",
        evidence.display(),
        report.join("selftest.md").display(),
        matrix.to_text()
    ))?;
    Ok(context.progress.interrupted().unwrap_or_else(|| matrix.exit_code()))
}

//! `hodei-e2e run`: the cases, on a cluster that is brought up if need be, and a verdict.

use std::path::{Path, PathBuf};

use hodei_harness::bootstrap::forecast;
use hodei_harness::catalogue::{Catalogue, SelectError, Selection};
use hodei_harness::dry_run::DryRun;
use hodei_harness::environment::Keep;
use hodei_harness::failure::{FailureClass, HarnessError, Result};
use hodei_harness::history;
use hodei_harness::postgres::PostgresChoice;
use hodei_harness::quarantine::Quarantine;
use hodei_harness::report::{Report, archive};
use hodei_harness::resume::Resume;
use hodei_harness::rounds::{MOST_ROUNDS, Repeat};
use hodei_harness::runner::{Chosen, RunRequest, known_inputs, run as run_cases};
use hodei_harness::schedule::Schedule;
use hodei_harness::shard::Shard;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::bootstrap::BootstrapArgs;
use super::selection::{ProfileChoice, SelectionArgs, profiles, tell_idle_terms};
use super::{Context, print_all, refuse};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hodei-e2e run                                   every core case, and a verdict
  hodei-e2e run --layer lifecycle --fail-fast     one layer, up to its first failure
  hodei-e2e run --case full-job.execution --keep  one case; what it made stays
  hodei-e2e run -E 'layer(full-job) and not exclusive'
                                                  what an expression chooses; `list --help` says how
  hodei-e2e run --nodes 2 --features network-policy --profile all
                                                  core and extended cases on two nodes whose network
                                                  enforces policies
  hodei-e2e run --kubernetes 1.33 --cluster-name older
                                                  on another Kubernetes, beside the usual cluster
  hodei-e2e run --resume 3fa9c1                   what did not pass in that run, if nothing changed
  hodei-e2e run --profile all --dry-run           what that would do, without doing it
  hodei-e2e run --rerun-failed hodei-e2e-report   what did not pass in that report
  hodei-e2e run --case full-job.execution --repeat 50 --until-failure
                                                  up to the first failure of 50 rounds
  hodei-e2e run --profile all --shard 2/3         one of three jobs of a CI matrix; `report merge`
                                                  makes one verdict of them

A case that the cluster lacks a feature for is not run, and the run is inconclusive (exit code 3).
With --repeat, a case that passed and failed is flaky, which is not green.
SIGINT and SIGTERM end the cases, remove what they made, and write the report of what ran, which is
inconclusive (exit code 130 or 143); a second signal ends the process at once. What that leaves, or
SIGKILL, the next run removes, and so does `hodei-e2e reap`.")]
pub(super) struct Args {
    #[command(flatten)]
    bootstrap: BootstrapArgs,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Only this case, of whatever profile; may be repeated
    #[arg(long, value_name = "ID")]
    case: Vec<String>,
    /// Which cases are required [default: core, or all if --case or -E
    /// says which]
    #[arg(long, value_enum)]
    profile: Option<ProfileChoice>,
    /// Only the cases that failed or did not run in this report (report.json, or its directory);
    /// if all passed, nothing is run
    #[arg(long, value_name = "REPORT", conflicts_with_all = ["layer", "expression", "case", "profile"])]
    rerun_failed: Option<PathBuf>,
    /// Go on with a run that did not come to its end (its id, or the last six digits of it): the
    /// cases that passed there are taken over if all they depend on is the same, the others run
    #[arg(long, value_name = "RUN", conflicts_with_all = [
        "layer", "expression", "case", "profile", "rerun_failed", "shard", "repeat"])]
    resume: Option<String>,
    /// Leave namespaces and databases standing (`hodei-e2e reap --run ID` removes them)
    #[arg(long, conflicts_with = "keep_on_failure")]
    keep: bool,
    /// Leave those of failed cases standing
    #[arg(long)]
    keep_on_failure: bool,
    /// Stop at the first failure
    #[arg(long)]
    fail_fast: bool,
    /// Cases at a time
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Run the cases this often, in rounds: says of each how often it failed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_ROUNDS)))]
    repeat: Option<u32>,
    /// Begin no further round once a case has failed; with --fail-fast, end the round as well
    #[arg(long, requires = "repeat")]
    until_failure: bool,
    /// With --repeat: exit with 0 if no case failed in more than this part of its rounds, all ran,
    /// and nothing was left behind; the verdict stays what it is
    #[arg(long, value_name = "PERCENT", value_parser = percent, requires = "repeat",
          conflicts_with_all = ["until_failure", "fail_fast"])]
    flake_budget: Option<f64>,
    /// Only the I-th of N parts of the chosen cases, the same on every machine
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// container, local (binaries of this machine), or the URL of a server
    #[arg(
        long,
        env = "HODEI_E2E_POSTGRES_URL",
        hide_env_values = true,
        default_value = "container"
    )]
    postgres: PostgresChoice,
    /// Keep what becomes of the cases out of the history of `report history`
    #[arg(long)]
    no_history: bool,
    /// Say what would be brought up, what would run in which order and what would not, and do
    /// nothing
    #[arg(long)]
    dry_run: bool,
    /// Where the report goes, beside the run's own directory
    #[arg(long, value_name = "DIR", default_value = "hodei-e2e-report")]
    report: PathBuf,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| format!("{text:?} is not a number from 0 to 100"))
}

/// The cases that did not pass in the report at `path`, and the run that it is of.
fn not_passed(path: &Path, catalogue: &Catalogue) -> Result<(String, Vec<String>)> {
    let report = Report::read(path)?;
    let ids = report.not_passed();
    let is_known = |id: &&String| catalogue.cases.iter().any(|case| case.id == **id);
    let unknown: Vec<_> = ids.iter().filter(|id| !is_known(id)).map(String::as_str).collect();
    if unknown.is_empty() {
        return Ok((report.run, ids));
    }
    let subject = format!("what did not pass in run {}", report.run);
    let cause = format!("the catalogue has no {}", unknown.join(", "));
    let error = HarnessError::new(FailureClass::Harness, "run again", subject, cause);
    Err(error.with_help("run from the checkout that the report is of, or name cases with --case"))
}

/// Says what would happen. Progress stays silent, so that this is all that is said.
async fn dry_run(catalogue: &Catalogue, request: &RunRequest, context: &Context) -> Result<u8> {
    let paths = &context.paths;
    if let Some(resume) = &request.resume {
        resume.require_same(&known_inputs(paths, request).await?)?;
    }
    let forecast = forecast(paths, &request.bootstrap, &context.progress.unlisted()).await?;
    let Chosen { mine: cases, .. } = request.choose(catalogue).map_err(SelectError::into_error)?;
    let dry = DryRun {
        steps: forecast.steps,
        features: forecast.features,
        taken_over: request.resume.iter().flat_map(|resume| resume.earlier.passed_ids()).collect(),
        quarantine: &request.quarantine,
        schedule: &Schedule::read(paths.workspace())?,
        threads: request.threads,
        rounds: request.repeat.rounds,
        seconds: history::seconds(paths.state(), &cases)?,
        cases,
    };
    print_all(&dry.render())?;
    Ok(0)
}

/// The quarantine, if it has no entry whose time is over.
fn current_quarantine(workspace: &Path, catalogue: &Catalogue) -> Result<Quarantine> {
    let quarantine = Quarantine::read(workspace, catalogue)?;
    quarantine.require_current(Timestamp::now().to_zoned(TimeZone::UTC).date())?;
    Ok(quarantine)
}

pub(super) async fn run(mut args: Args, context: &Context) -> Result<u8> {
    if let Some(path) = &args.rerun_failed {
        let (run, ids) = match not_passed(path, &Catalogue::read(context.paths.workspace())?) {
            Ok(found) => found,
            Err(error) => return Ok(refuse(error)),
        };
        if ids.is_empty() {
            println!("every case of run {run} passed: there is nothing to run again");
            return Ok(0);
        }
        args.case = ids;
    }
    let keep = match (args.keep, args.keep_on_failure) {
        (true, _) => Keep::Everything,
        (false, true) => Keep::Failures,
        (false, false) => Keep::Nothing,
    };
    let profiles = profiles(args.profile, !args.case.is_empty() || args.selection.has_expression());
    let catalogue = Catalogue::read(context.paths.workspace())?;
    let quarantine = match current_quarantine(context.paths.workspace(), &catalogue) {
        Ok(quarantine) => quarantine,
        Err(error) => return Ok(refuse(error)),
    };
    let resume = args.resume.as_deref().map(|id| Resume::open(&context.paths, id, &catalogue));
    let resume = match resume.transpose() {
        Ok(resume) => resume,
        Err(error) if error.is_refusal() => return Ok(refuse(error)),
        Err(error) => return Err(error),
    };
    let selection = match args.selection.selection() {
        Ok(selection) => Selection { cases: args.case, profiles, ..selection },
        Err(error) => return Ok(refuse(error)),
    };
    let request = RunRequest {
        bootstrap: args.bootstrap.options(false),
        selection,
        quarantine,
        keep,
        postgres: args.postgres,
        fail_fast: args.fail_fast,
        threads: args.threads,
        repeat: Repeat {
            rounds: args.repeat.unwrap_or(1),
            until_failure: args.until_failure,
            flake_budget: args.flake_budget,
        },
        unrecorded: args.no_history,
        shard: args.shard.or(resume.as_ref().and_then(|resume| resume.plan.shard)),
        resume,
    };
    // Before anything is brought up: what is asked for is not there, on any machine.
    if let Err(error) = request.choose(&catalogue) {
        return Ok(refuse(error));
    }
    tell_idle_terms(&catalogue, &request.selection, &request.quarantine);
    if args.dry_run {
        return dry_run(&catalogue, &request, context).await;
    }
    let finished = run_cases(&context.paths, &request, &context.progress).await?;
    if let Some(error) = finished.error {
        eprintln!("{:?}", miette::Report::new(error));
    }
    finished.report.save(&args.report, &finished.run.path)?;
    // It says nothing that is not elsewhere: the run's own outcome stands without it.
    let file = args.report.join(archive::NAME);
    if let Err(error) = archive::pack(&finished.report, &finished.run.path, &file) {
        tracing::warn!(%error, "the evidence is not in one file");
    }
    println!("evidence: {}", finished.run.path.join("evidence").display());
    println!("{}", finished.report.summary(&args.report));
    Ok(finished.report.exit_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_pass_is_run_again_and_what_is_unknown_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let report = |results: [(&str, &str); 3]| {
            let cases: Vec<_> = results.iter().map(|(id, result)| serde_json::json!({
                "id": id, "title": "T", "layer": "infra", "profile": "core", "result": result, "seconds": 1.0
            })).collect();
            let text = serde_json::json!({
                "schema": "hodei-e2e-report/1", "run": "r1", "verdict": "inconclusive", "exit_code": 3,
                "counts": {"passed": 1, "failed": 1, "not_run": 1},
                "started_at": "2026-01-01T12:00:00Z", "seconds": 1.0, "stages": [], "leaks": [],
                "environment": {"cluster": "c", "kubernetes": "v1", "nodes": 1, "worker_image": "w", "host": "h"},
                "cases": cases
            });
            std::fs::write(dir.path().join("report.json"), text.to_string()).unwrap();
        };
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let catalogue = Catalogue::read(workspace).unwrap();
        let names = ["infra.quota", "infra.manifests", "infra.host-route"];
        let again = || not_passed(dir.path(), &catalogue);

        report([(names[0], "failed"), (names[1], "passed"), (names[2], "not-run")]);
        assert_eq!(again().unwrap(), ("r1".to_owned(), vec![names[0].into(), names[2].into()]));
        report(names.map(|name| (name, "passed")));
        assert_eq!(again().unwrap().1, [""; 0]);
        report([("infra.x", "failed"), (names[1], "failed"), ("infra.y", "not-run")]);
        assert_eq!(
            again().unwrap_err().source.to_string(),
            "the catalogue has no infra.x, infra.y"
        );
    }
}

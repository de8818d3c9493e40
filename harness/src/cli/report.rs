//! `hodei-e2e report`: a saved report in another form, and two of them compared. What all runs say
//! together is `history`'s.

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use hodei_harness::bounded::visible;
use hodei_harness::failure::{Classify, FailureClass, HarnessError, Result};
use hodei_harness::report::{Report, archive, diff, merge, opened, to_html, to_junit, to_markdown};
use hodei_harness::run_dir::RunDir;

use super::{Context, OutputFormat, history, print_all, refuse};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print a saved report in one of its forms
    #[command(after_help = "Examples:
  hodei-e2e report show hodei-e2e-report                        what the run said at its end
  hodei-e2e report show hodei-e2e-report --format html > r.html a page for a browser
  hodei-e2e report show evidence.tar.zst --format html > r.html the same, of a run elsewhere

Exit codes: 0, and 2 for a file that is no report.")]
    Show(ShowArgs),
    /// Put a report and the evidence of what did not pass into one file
    #[command(after_help = "Examples:
  hodei-e2e report pack hodei-e2e-report                       evidence.tar.zst, in that directory
  hodei-e2e report pack hodei-e2e-report --output run.tar.zst

A run leaves that file beside its report by itself. `report show` opens it without cluster and
without the run's directory. Of a pass it has what its report says.

Exit codes: 0, and 2 for a file that is no report, or one whose run's directory is not here.")]
    Pack(PackArgs),
    /// Say what got worse, better or slower from one report to another
    #[command(after_help = "Examples:
  hodei-e2e report diff main/report.json hodei-e2e-report

A case is slower when it passed twice and took 1.5 times as long and 2 s more.

Exit codes: 0 the same or better, 1 worse (a case that passed does not, one that had not run or is
new fails, or something new was left behind; slower is not worse), 2 for a file that is no report.")]
    Diff(DiffArgs),
    /// Make one verdict of several runs: the shards of a CI matrix, or the same cases again
    #[command(after_help = "Examples:
  hodei-e2e report merge shard-1 shard-2 shard-3               a verdict of all three
  hodei-e2e report merge shard-* --report hodei-e2e-report     the same, kept there

A chosen case that no shard ran makes it inconclusive. What several runs ran is shown once for each,
and failed if one failed. Runs of different commits, worker images, Kubernetes versions or numbers
of nodes are refused.

Exit codes: as of a run, and 2 for what is no report or cannot be put together.")]
    Merge(MergeArgs),
    /// Say how often each case failed in the runs of this machine, the worst first
    #[command(after_help = "Examples:
  hodei-e2e report history                                     every case that ran here
  hodei-e2e report history --case full-job.execution --since 2026-01-31
  hodei-e2e report history --output json                       for a program

The bounds are between which the true rate lies with a confidence of 95 % (Wilson's interval). A case
that passed and failed on one commit is flaky, if the checkout did not differ from the commit; one
that failed each time on the commit it ran on last is broken. A selftest is not counted, nor a run
with --no-history.

Exit codes: 0, and 2 for a case that neither the history nor the catalogue has.")]
    History(history::Args),
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// report.json, the directory that holds it, or an archive of `report pack`
    #[arg(value_name = "FILE|DIR")]
    report: PathBuf,
    /// Which form
    #[arg(long, value_enum, default_value = "text")]
    format: ReportFormat,
}

#[derive(Debug, clap::Args)]
struct PackArgs {
    /// report.json, or the directory that holds it
    #[arg(value_name = "FILE|DIR")]
    report: PathBuf,
    /// The file to write; without it evidence.tar.zst beside the report
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct DiffArgs {
    /// The earlier report: report.json, or the directory that holds it
    #[arg(value_name = "A")]
    before: PathBuf,
    /// The later report
    #[arg(value_name = "B")]
    after: PathBuf,
    /// How the comparison is printed
    #[arg(long, value_enum, default_value = "text")]
    output: OutputFormat,
}

#[derive(Debug, clap::Args)]
struct MergeArgs {
    /// Reports or run directories: a report.json, or what holds it
    #[arg(value_name = "DIR", required = true)]
    reports: Vec<PathBuf>,
    /// Where the report goes
    #[arg(long, value_name = "DIR", default_value = "hodei-e2e-report")]
    report: PathBuf,
}

/// The forms of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    /// The summary that ends a run
    Text,
    /// For a pull request
    Markdown,
    /// A page, with the evidence of the first failure where it is still there
    Html,
    /// For a CI system
    Junit,
}

pub(super) fn run(args: Args, context: &Context) -> Result<u8> {
    match args.action {
        Action::Show(args) => show(&args, context.paths.state()),
        Action::History(args) => history::run(&args, context),
        Action::Pack(args) => pack(&args, context.paths.state()),
        Action::Merge(args) => put_together(&args, context.paths.state()),
        Action::Diff(args) => {
            let (text, code) = compare(&args)?;
            print_all(&text)?;
            Ok(code)
        }
    }
}

fn show(args: &ShowArgs, state: &Path) -> Result<u8> {
    let report = match Report::read(&args.report) {
        Ok(report) => report,
        Err(error) => return Ok(refuse(error)),
    };
    // An archive may read well up to its report and be damaged after that.
    let packed = match opened(&report, &args.report) {
        Ok(packed) => packed,
        Err(error) => return Ok(refuse(error)),
    };
    let run = match &packed {
        Some(packed) => Some(packed.path().to_path_buf()),
        None => run_directory(&report, &args.report, state)?,
    };
    print_all(&shown(&report, &args.report, args.format, run.as_deref())?)?;
    Ok(0)
}

fn pack(args: &PackArgs, state: &Path) -> Result<u8> {
    let report = match Report::read(&args.report) {
        Ok(report) => report,
        Err(error) => return Ok(refuse(error)),
    };
    let Some(run) = run_directory(&report, &args.report, state)? else {
        let (class, run) = (FailureClass::Harness, format!("the evidence of run {}", report.run));
        let cause = "the run's directory is not on this machine";
        return Ok(refuse(HarnessError::new(class, "pack", run, cause)));
    };
    let file = args.output.clone();
    let file = file.unwrap_or_else(|| directory(&args.report).join(archive::NAME));
    let contents = archive::pack(&report, &run, &file)?;
    let left = match contents.left_out.len() {
        0 => String::new(),
        some => format!(", {some} left out"),
    };
    print_all(&format!(
        "{}: {} file(s) of evidence{left}\n",
        file.display(),
        contents.files.len()
    ))?;
    Ok(0)
}

/// `run` is where the evidence is.
fn shown(report: &Report, path: &Path, format: ReportFormat, run: Option<&Path>) -> Result<String> {
    let harness = FailureClass::Harness;
    Ok(match format {
        ReportFormat::Text => format!("{}\n", visible(&report.summary(directory(path)))),
        ReportFormat::Markdown => to_markdown(report),
        ReportFormat::Html => {
            to_html(report, run).classify(harness, "render", "the HTML report")?
        }
        ReportFormat::Junit => to_junit(report).classify(harness, "encode", "the JUnit report")?,
    })
}

fn directory(path: &Path) -> &Path {
    if path.is_dir() { path } else { path.parent().unwrap_or(path) }
}

/// The directory of the report's run: the one it lies in, else the one of its id on this machine.
fn run_directory(report: &Report, path: &Path, state: &Path) -> Result<Option<PathBuf>> {
    let path = std::path::absolute(path).infrastructure("find", path.display().to_string())?;
    let around = directory(&path).parent();
    if let Some(run) = around.filter(|run| run.file_name().is_some_and(|name| *name == *report.run))
    {
        return Ok(Some(run.to_path_buf()));
    }
    let mut runs = RunDir::all(state)?.into_iter();
    Ok(runs.find(|run| run.id.as_str() == report.run).map(|run| run.path))
}

fn put_together(args: &MergeArgs, state: &Path) -> Result<u8> {
    let mut reports = Vec::new();
    for path in &args.reports {
        // A run keeps its report in a directory of its own.
        let within = path.join("report/report.json");
        let of_run = !path.join("report.json").exists() && within.exists();
        match Report::read(if of_run { &within } else { path }) {
            Ok(report) => reports.push(report),
            Err(error) => return Ok(refuse(error)),
        }
    }
    let merged = match merge(reports) {
        Ok(merged) => merged,
        Err(cause) => {
            let class = FailureClass::Harness;
            return Ok(refuse(HarnessError::new(class, "put together", "these reports", cause)));
        }
    };
    merged.save(&args.report, &state.join("runs"))?;
    print_all(&format!("{}\n", visible(&merged.summary(&args.report))))?;
    Ok(merged.exit_code)
}

/// What is printed, and the exit code.
fn compare(args: &DiffArgs) -> Result<(String, u8)> {
    let (before, after) = match (Report::read(&args.before), Report::read(&args.after)) {
        (Ok(before), Ok(after)) => (before, after),
        (Err(error), _) | (_, Err(error)) => return Ok((String::new(), refuse(error))),
    };
    let found = diff(&before, &after);
    let text = match args.output {
        OutputFormat::Text => found.render(),
        OutputFormat::Json => {
            let text = serde_json::to_string_pretty(&found);
            format!("{}\n", text.classify(FailureClass::Harness, "print", "the comparison")?)
        }
    };
    let code = if found.is_worse() { FailureClass::Product.exit_code() } else { 0 };
    Ok((text, code))
}

#[cfg(test)]
mod tests {
    use hodei_harness::failure::EXIT_USAGE;

    use super::*;

    /// A report of one case, as a program other than this one may have written it.
    fn write_report(dir: &Path, run: &str, result: &str) {
        std::fs::create_dir_all(dir).unwrap();
        let text = serde_json::json!({
            "schema": "hodei-e2e-report/1", "run": run, "verdict": "inconclusive", "exit_code": 3,
            "counts": {"passed": 0, "failed": 0, "not_run": 1},
            "started_at": "2026-01-01T12:00:00Z", "seconds": 1.0, "stages": [], "leaks": [],
            "environment": {"commit": "c0", "cluster": "c", "kubernetes": "v1", "nodes": 1, "worker_image": "w", "host": "h"},
            "cases": [{"id": "infra.a", "title": "A", "layer": "infra", "profile": "core",
                       "result": result, "seconds": 1.0, "message": "m", "evidence": "evidence/infra.a"}]
        });
        std::fs::write(dir.join("report.json"), text.to_string()).unwrap();
    }

    fn log_of(run: &Path) {
        let evidence = run.join("evidence/infra.a");
        std::fs::create_dir_all(&evidence).unwrap();
        std::fs::write(evidence.join("server.log"), "what the server said").unwrap();
    }

    #[test]
    fn each_form_is_printed_and_the_page_finds_the_evidence() {
        let dir = tempfile::tempdir().unwrap();
        let (state, elsewhere) = (dir.path(), dir.path().join("elsewhere"));
        let run = state.join("runs/20260101-120000-aaaaaa");
        log_of(&run);
        for place in [&run.join("report"), &elsewhere] {
            write_report(place, "20260101-120000-aaaaaa", "failed");
            let report = Report::read(place).unwrap();
            let found = run_directory(&report, place, state).unwrap();
            let shown = |format| shown(&report, place, format, found.as_deref()).unwrap();
            assert!(shown(ReportFormat::Text).ends_with("0 passed, 0 failed\n"));
            assert!(shown(ReportFormat::Markdown).starts_with("# Hodei end to end"));
            assert!(shown(ReportFormat::Junit).starts_with("<?xml"));
            assert!(shown(ReportFormat::Html).contains("what the server said"), "{place:?}");
        }
        let moved = elsewhere.join("report.json");
        let report = Report { run: "../../x".into(), ..Report::read(&moved).unwrap() };
        assert_eq!(run_directory(&report, &moved, state).unwrap(), None);
    }

    #[test]
    fn a_run_is_packed_and_opened_where_nothing_else_of_it_is() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let run = dir.path().join("runs/20260101-120000-aaaaaa");
        log_of(&run);
        write_report(&run.join("report"), "20260101-120000-aaaaaa", "failed");
        let file = elsewhere.path().join("moved.tar.zst");
        let pack_it = |report: &Path, output: Option<&Path>| {
            let args = PackArgs { report: report.into(), output: output.map(Into::into) };
            pack(&args, dir.path()).unwrap()
        };
        assert_eq!(pack_it(&run.join("report"), None), 0);
        assert!(run.join("report").join(archive::NAME).exists());
        assert_eq!(pack_it(&run.join("report"), Some(&file)), 0);
        let lost = elsewhere.path().join("lost");
        write_report(&lost, "20260101-120000-bbbbbb", "failed");
        assert_eq!(pack_it(&lost, None), EXIT_USAGE, "the run's directory is not here");

        drop(dir);
        let report = Report::read(&file).unwrap();
        let packed = opened(&report, &file).unwrap().unwrap();
        let page = shown(&report, &file, ReportFormat::Html, Some(packed.path())).unwrap();
        assert!(page.contains("what the server said"));
        let show_it = |file: &Path| {
            let args = ShowArgs { report: file.into(), format: ReportFormat::Text };
            show(&args, elsewhere.path()).unwrap()
        };
        assert_eq!(show_it(&file), 0);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes.truncate(bytes.len() - 4);
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(show_it(&file), EXIT_USAGE);
    }

    #[test]
    fn the_exit_code_says_worse_and_no_report_is_a_wrong_command_line() {
        let dir = tempfile::tempdir().unwrap();
        let (good, bad) = (dir.path().join("good"), dir.path().join("bad"));
        write_report(&good, "r1", "passed");
        write_report(&bad, "r2", "failed");
        let none = dir.path().join("none");
        for (before, after, code) in [
            (&good, &bad, 1),
            (&bad, &good, 0),
            (&good, &good, 0),
            (&good, &none, EXIT_USAGE),
            (&none, &good, EXIT_USAGE),
        ] {
            let (before, after) = (before.clone(), after.clone());
            let args = DiffArgs { before, after, output: OutputFormat::Json };
            assert_eq!(compare(&args).unwrap().1, code, "{args:?}");
        }
        let merge = |reports: &[&PathBuf]| {
            let reports = reports.iter().map(|path| (*path).clone()).collect();
            let args = MergeArgs { reports, report: dir.path().join("merged") };
            put_together(&args, dir.path()).unwrap()
        };
        let run = dir.path().join("run");
        write_report(&run.join("report"), "r3", "passed");
        assert_eq!(merge(&[&run, &bad]), 1);
        assert_eq!(Report::read(&dir.path().join("merged")).unwrap().merged, ["r2", "r3"]);
        assert_eq!(merge(&[&good, &none]), EXIT_USAGE);
        assert_eq!(merge(&[&good, &good]), EXIT_USAGE);
        let args = ShowArgs { report: none, format: ReportFormat::Html };
        assert_eq!(show(&args, dir.path()).unwrap(), EXIT_USAGE);
    }
}

//! `hodei-e2e explain`: all that is known of one case, without a cluster.

use std::fmt::Write;
use std::path::Path;

use hodei_harness::bounded::{headline, visible};
use hodei_harness::catalogue::{Case, Catalogue};
use hodei_harness::failure::{FailureClass, Result};
use hodei_harness::feature::Feature;
use hodei_harness::outcome::{Outcome, Status};
use hodei_harness::public_bug;
use hodei_harness::quarantine::{Quarantine, Quarantined};
use hodei_harness::run_dir::RunDir;

use super::{Context, print_all, refuse};

/// Where the tests of the cases are, in a checkout.
const TESTS: &str = "suites/tests/e2e_kubernetes_provider";

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hodei-e2e explain full-job.execution   its promise, its test, how to run it, its last run

Exit codes: 0, and 2 for a case that is not in the catalogue (the nearest ids are suggested).")]
pub(super) struct Args {
    /// The case's id, as `hodei-e2e list` shows it
    #[arg(value_name = "CASE")]
    case: String,
}

/// The newest run in which a case began.
struct LastRun {
    run: RunDir,
    outcome: Outcome,
}

pub(super) fn run(args: Args, context: &Context) -> Result<u8> {
    let catalogue = Catalogue::read(context.paths.workspace())?;
    let case = match catalogue.case(&args.case) {
        Ok(case) => case,
        Err(error) => return Ok(refuse(error)),
    };
    let quarantine = match Quarantine::read(context.paths.workspace(), &catalogue) {
        Ok(quarantine) => quarantine,
        Err(error) => return Ok(refuse(error)),
    };
    let last = last_run(context.paths.state(), &case.id)?;
    print_all(&explain(case, quarantine.of(&case.id), last.as_ref()))?;
    Ok(0)
}

fn last_run(state: &Path, case: &str) -> Result<Option<LastRun>> {
    // An outcome that cannot be read says nothing; an older one may.
    let began = |run: RunDir| {
        let run = run.at_round(run.last_round());
        let outcome = Outcome::read(&run.outcomes(), case).ok().flatten()?;
        Some(LastRun { run, outcome })
    };
    Ok(RunDir::all(state)?.into_iter().rev().find_map(began))
}

fn explain(case: &Case, known: Option<&Quarantined>, last: Option<&LastRun>) -> String {
    let mut text = String::new();
    write(&mut text, case, known, last).expect("writing to a String cannot fail");
    text
}

fn write(
    text: &mut String,
    case: &Case,
    known: Option<&Quarantined>,
    last: Option<&LastRun>,
) -> std::fmt::Result {
    let Case { id, title, layer, requirement, test, .. } = case;
    writeln!(text, "{id}\n{title}\n")?;
    writeln!(text, "layer       {layer}")?;
    writeln!(text, "profile     {}", case.profile.as_str())?;
    let beside =
        if case.exclusive { "alone: it disturbs the whole cluster" } else { "beside others" };
    writeln!(text, "runs        {beside}")?;
    writeln!(text, "stands for  {requirement}")?;
    rows(text, "quarantine", known.iter().map(ToString::to_string))?;
    let needs = case.features.iter().map(|needed| format!("{needed} ({})", needed.help()));
    rows(text, "needs", needs)?;
    let guards = case.guards.iter().map(|bug| match public_bug::url(bug) {
        Some(url) => format!("{bug}  {url}"),
        None => bug.clone(),
    });
    rows(text, "guards", guards)?;
    match test.split_once("::") {
        Some((module, function)) => writeln!(text, "test        {TESTS}/{module}.rs, {function}")?,
        None => writeln!(text, "test        {TESTS}/main.rs, {test}")?,
    }
    let needs = |feature, flag| if case.features.contains(&feature) { flag } else { "" };
    let nodes = needs(Feature::MultiNode, " --nodes 2");
    let policies = needs(Feature::NetworkPolicy, " --features network-policy");
    writeln!(text, "\nrun it      hodei-e2e run --case {id}{nodes}{policies}")?;
    writeln!(
        text,
        "after `up`  HODEI_K8S_TEST=1 cargo nextest run -p hodei-suites --run-ignored all --profile e2e -E 'test(={test})'"
    )?;
    match last {
        Some(last) => write_last(text, id, last),
        None => writeln!(text, "\nlast run    none that is kept"),
    }
}

fn rows(text: &mut String, name: &str, values: impl Iterator<Item = String>) -> std::fmt::Result {
    for (index, value) in values.enumerate() {
        let name = if index == 0 { name } else { "" };
        writeln!(text, "{name:10}  {value}")?;
    }
    Ok(())
}

fn write_last(text: &mut String, id: &str, last: &LastRun) -> std::fmt::Result {
    let Outcome { status, class, seconds, started_at, message, .. } = &last.outcome;
    let said = match status {
        Status::Passed => format!("passed in {seconds:.1} s"),
        Status::Failed => {
            let class = class.unwrap_or(FailureClass::Product);
            format!("failed ({class}) after {seconds:.1} s")
        }
        Status::Running => "has not ended, or its process was ended".to_owned(),
    };
    let at = started_at.strftime("%Y-%m-%d %H:%M:%S UTC");
    let round = last.run.round.map(|round| format!(", round {round}")).unwrap_or_default();
    writeln!(text, "\nlast run    {}{round}: {said}, begun {at}", last.run.id)?;
    if !message.is_empty() {
        writeln!(text, "            {}", visible(&headline(message)))?;
    }
    let evidence = last.run.evidence(id);
    let gone = if evidence.is_dir() { "" } else { " (removed since)" };
    writeln!(text, "evidence    {}{gone}", evidence.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: &str = r#"
        [[case]]
        id = "lifecycle.node-stopped"
        title = "A node that stops loses its job, which runs again"
        layer = "lifecycle"
        profile = "extended"
        features = ["node-control", "multi-node"]
        exclusive = true
        requirement = "HU-7.5"
        guards = ["argo#2711", "unknown#1"]
        test = "node_loss::test_k8s_exclusive_node_stopped"

        [[case]]
        id = "infra.nodes"
        title = "Nodes are ready"
        layer = "infra"
        profile = "core"
        requirement = "HU-10.1"
        test = "infra::test_k8s_nodes"
    "#;

    #[test]
    fn all_that_is_known_of_a_case_is_said() {
        let catalogue = Catalogue::parse(CASES).unwrap();
        let state = tempfile::tempdir().unwrap();
        let (run, _lock) = RunDir::create(state.path()).unwrap();
        let id = "lifecycle.node-stopped";
        let outcome = Outcome {
            status: Status::Failed,
            class: Some(FailureClass::Network),
            seconds: 3.25,
            message: "no route\nto host".into(),
            started_at: "2026-01-01T12:00:00Z".parse().unwrap(),
            ..Outcome::running(id, run.evidence(id), None)
        };
        outcome.save(&run.outcomes()).unwrap();
        std::fs::create_dir_all(run.evidence(id)).unwrap();
        let last = last_run(state.path(), id).unwrap();
        let entry = format!(
            "[[quarantine]]\ncase = {id:?}\nowner = \"jane\"\nreason = \"slow disk\"\nexpires = 2026-03-31"
        );
        let quarantine = Quarantine::parse(&entry, &catalogue).unwrap();
        let said = explain(catalogue.case(id).unwrap(), quarantine.of(id), last.as_ref())
            .replace(&state.path().display().to_string(), "/state")
            .replace(run.id.as_str(), "RUN");
        insta::assert_snapshot!("explain", said);
        let plain = explain(catalogue.case("infra.nodes").unwrap(), None, None);
        insta::assert_snapshot!("explain_plain", plain);
    }

    #[test]
    fn the_last_run_is_the_newest_whose_outcome_can_be_read() {
        let state = tempfile::tempdir().unwrap();
        let runs = ["20260101-120000-aaaaaa", "20260102-120000-bbbbbb", "20260103-120000-cccccc"];
        for run in runs {
            let outcomes = state.path().join("runs").join(run).join("outcomes");
            std::fs::create_dir_all(&outcomes).unwrap();
            Outcome::running("a.b", "/e".into(), None).save(&outcomes).unwrap();
        }
        let newest = |case| last_run(state.path(), case).unwrap().map(|last| last.run.id);
        assert_eq!(newest("a.b").unwrap().as_str(), runs[2]);
        let torn = state.path().join("runs").join(runs[2]).join("outcomes/a.b.json");
        std::fs::write(torn, "{").unwrap();
        assert_eq!(newest("a.b").unwrap().as_str(), runs[1]);
        assert_eq!(newest("a.c"), None);
    }

    #[test]
    fn the_files_of_all_tests_are_where_it_says() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for case in Catalogue::read(workspace).unwrap().cases {
            let said = explain(&case, None, None);
            let file = said.lines().find_map(|line| line.strip_prefix("test ")).unwrap();
            let (file, function) = file.trim().split_once(", ").unwrap();
            let source = std::fs::read_to_string(workspace.join(file)).unwrap();
            assert!(source.contains(&format!("fn {function}(")), "{file}: {function}");
        }
    }
}

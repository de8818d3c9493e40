//! A run, from nothing to a verdict: bootstrap, environment, cases, clean-up, audit, report.
//!
//! Whatever happens on the way, the clean-up follows; then the report says what happened.

mod nextest;
mod prepare;

use std::collections::BTreeSet;
use std::time::Instant;

use jiff::Timestamp;

pub use nextest::{Nextest, RunOptions};
pub(crate) use prepare::prove_route;

use crate::audit;
use crate::bootstrap::{BootstrapOptions, Bootstrapped};
use crate::catalogue::{Case, Catalogue, Selection};
use crate::cluster::ready;
use crate::environment::Keep;
use crate::failure::{HarnessError, Result};
use crate::feature;
use crate::journal::Journal;
use crate::outcome::Outcome;
use crate::paths::Paths;
use crate::postgres::{PostgresChoice, PostgresServer};
use crate::progress::{Progress, Stage};
use crate::reap::{self, Kept, RunReaped};
use crate::report::{Fingerprint, Report, SCHEMA};
use crate::run_dir::{self, RunDir};
use crate::verdict::{CaseResult, NO_OUTCOME, count, exit_code, judge, judge_case};

/// What is asked of a run.
#[derive(Debug, Clone, Default)]
pub struct RunRequest {
    /// How the cluster is brought up.
    pub bootstrap: BootstrapOptions,
    /// Which cases.
    pub selection: Selection,
    /// What is left standing.
    pub keep: Keep,
    /// Where Postgres comes from.
    pub postgres: PostgresChoice,
    /// Stop at the first failure.
    pub fail_fast: bool,
    /// Cases at a time.
    pub threads: Option<usize>,
}

/// A run that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Where everything about it is.
    pub run: RunDir,
    /// What it says.
    pub report: Report,
    /// What kept cases from running, if something did.
    pub error: Option<HarnessError>,
}

/// What a run holds while it lasts.
#[derive(Default)]
struct Held {
    bootstrapped: Option<Bootstrapped>,
    postgres: Option<PostgresServer>,
}

/// Runs the selected cases.
///
/// # Errors
/// The catalogue or selection is wrong, or the run's directory or report cannot be written. All
/// else is in the answer.
pub async fn run(paths: &Paths, request: &RunRequest, progress: &Progress) -> Result<Finished> {
    let (started, started_at) = (Instant::now(), Timestamp::now());
    let catalogue = Catalogue::read(paths.workspace())?;
    let cases = catalogue.select(&request.selection)?;
    reap_dead_runs(paths, progress).await?;
    let (run, _lock) = RunDir::create(paths.state())?;
    let mut held = Held::default();
    let worked = work(paths, request, &cases, &run, &mut held, progress).await;
    let interrupted = progress.cancellation().is_cancelled();
    let leaks = clean_up(&run, &mut held, progress).await;
    let mut results = judged(&cases, &run, interrupted)?;
    if let Some(up) = &held.bootstrapped {
        say_what_is_lacking(&cases, &mut results, &feature::of(&up.cluster));
    }
    let error = worked.err();
    if let Some(error) = &error {
        let reason = format!("the run ended before it: {error}");
        let untouched = |case: &&mut CaseResult| case.message == NO_OUTCOME;
        for case in results.iter_mut().filter(untouched) {
            case.message.clone_from(&reason);
        }
    }
    let exit = error.as_ref().map_or_else(
        || exit_code(&results, &leaks, interrupted),
        |error| if interrupted { crate::failure::EXIT_INTERRUPTED } else { error.exit_code() },
    );
    let report = Report {
        schema: SCHEMA.into(),
        run: run.id.to_string(),
        verdict: judge(&results, &leaks),
        exit_code: exit,
        counts: count(&results),
        started_at,
        seconds: started.elapsed().as_secs_f64(),
        environment: fingerprint(held.bootstrapped.as_ref()).await,
        stages: progress.timings(),
        cases: results,
        leaks,
    };
    report.save(&run.report())?;
    Ok(Finished { run, report, error })
}

async fn work(
    paths: &Paths,
    request: &RunRequest,
    cases: &[&Case],
    run: &RunDir,
    held: &mut Held,
    progress: &Progress,
) -> Result<()> {
    let up = crate::bootstrap::bootstrap(paths, &request.bootstrap, progress).await?;
    let up = held.bootstrapped.insert(up).clone();
    let here = feature::of(&up.cluster);
    let can_run = |case: &&&Case| feature::lacking(case, &here).is_none();
    let runnable: Vec<&Case> = cases.iter().filter(can_run).copied().collect();
    if runnable.is_empty() {
        progress.say("no selected case can run here");
        return Ok(());
    }
    let cases = &runnable;
    let nextest =
        Nextest { program: up.tools.nextest.clone(), workspace: paths.workspace().to_path_buf() };
    prepare::prepare(paths, request, &up, &nextest, run, &mut held.postgres, progress).await?;
    let options = RunOptions {
        fail_fast: request.fail_fast,
        threads: request.threads,
        log: run.path.join("nextest.log"),
    };
    progress
        .stage(format!("{} cases", cases.len()), async |stage| {
            nextest.run(cases, &run.environment(), &options, progress, &stage).await
        })
        .await
}

async fn reap_dead_runs(paths: &Paths, progress: &Progress) -> Result<()> {
    for run in RunDir::all(paths.state())? {
        if Journal::read(&run.journal_path())?.outstanding().is_empty() {
            continue;
        }
        // What cannot be reached now (its cluster is stopped, say) stays written down.
        if let RunReaped::Done(reaped) = reap::reap(&run, Kept::Spare, false).await?
            && !reaped.is_empty()
        {
            progress.say(&format!("reaped {} thing(s) that run {} left", reaped.len(), run.id));
        }
    }
    run_dir::prune(paths.state()).map(drop)
}

/// Removes what is left; returns what could not be removed or was found by looking.
async fn clean_up(run: &RunDir, held: &mut Held, progress: &Progress) -> Vec<String> {
    // A signal that ended the work must not end this.
    let quiet = Progress::silent();
    let mut leaks = Vec::new();
    progress.say("▸ clean-up …");
    let begun = Instant::now();
    match reap::remove_outstanding(run, Kept::Spare).await {
        Ok(reaped) => leaks.extend(reaped.into_iter().filter_map(|one| {
            one.error.map(|error| format!("{}: {}", one.what, crate::case::explain(&error)))
        })),
        Err(error) => leaks.push(crate::case::explain(&error)),
    }
    if let Some(postgres) = held.postgres.take() {
        // Its container is in the journal and gone by now.
        postgres.leave_running();
    }
    if let Some(up) = &held.bootstrapped {
        match left(run, up, &quiet.unlisted()).await {
            Ok(found) => leaks.extend(found),
            Err(error) => leaks.push(crate::case::explain(&error)),
        }
    }
    drop(std::fs::remove_dir_all(run.path.join("private")));
    progress.say(&format!("✓ clean-up {:.1} s", begun.elapsed().as_secs_f64()));
    leaks
}

async fn left(run: &RunDir, up: &Bootstrapped, stage: &Stage) -> Result<Vec<String>> {
    let journal = Journal::read(&run.journal_path())?;
    audit::leaks(&run.id, &up.cluster, &journal, stage).await
}

fn judged(cases: &[&Case], run: &RunDir, interrupted: bool) -> Result<Vec<CaseResult>> {
    let judge = |case: &&Case| {
        let outcome = Outcome::read(&run.outcomes(), &case.id)?;
        Ok(judge_case(case, outcome.as_ref(), interrupted))
    };
    cases.iter().map(judge).collect()
}

/// A case that was left out is told apart from one that should have run and did not.
fn say_what_is_lacking(
    cases: &[&Case],
    results: &mut [CaseResult],
    here: &BTreeSet<feature::Feature>,
) {
    for (case, result) in cases.iter().zip(results) {
        if let Some(why) = feature::lacking(case, here) {
            result.message = why;
        }
    }
}

async fn fingerprint(up: Option<&Bootstrapped>) -> Fingerprint {
    let host = format!("{} {}", std::env::consts::OS, std::env::consts::ARCH);
    let Some(up) = up else { return Fingerprint { host, ..Default::default() } };
    let mut kubernetes = "unknown".to_owned();
    if let Ok(client) = ready::client(&up.cluster).await
        && let Ok(version) = client.apiserver_version().await
    {
        kubernetes = version.git_version;
    }
    Fingerprint {
        cluster: up.cluster.name.clone(),
        kubernetes,
        nodes: up.cluster.nodes.len(),
        worker_image: format!("{} {}", up.worker_image.reference, up.worker_image.id),
        host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature::Feature;
    use crate::verdict::Verdict;

    const CASES: &str = r#"
        [[case]]
        id = "lifecycle.evicted"
        title = "An evicted pod's job says so"
        layer = "lifecycle"
        profile = "extended"
        features = ["node-control"]
        requirement = "HU-7.5"
        test = "lifecycle::evicted"

        [[case]]
        id = "lifecycle.moved"
        title = "A job moves to another node"
        layer = "lifecycle"
        profile = "extended"
        features = ["multi-node", "node-control"]
        requirement = "HU-7.5"
        test = "lifecycle::moved"
    "#;

    #[test]
    fn a_case_that_cannot_run_says_why_and_is_never_green() {
        let catalogue = Catalogue::parse(CASES).unwrap();
        let cases: Vec<_> = catalogue.cases.iter().collect();
        let mut results: Vec<_> = cases.iter().map(|case| judge_case(case, None, false)).collect();
        say_what_is_lacking(&cases, &mut results, &BTreeSet::from([Feature::NodeControl]));
        assert_eq!(results[0].message, NO_OUTCOME);
        assert!(results[1].message.contains("lacks multi-node ("), "{}", results[1].message);
        assert_eq!(judge(&results, &[]), Verdict::Inconclusive);
        assert_eq!(exit_code(&results, &[], false), crate::failure::EXIT_INCONCLUSIVE);
    }
}

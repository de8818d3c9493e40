//! A run, from nothing to a verdict: bootstrap, environment, cases, clean-up, audit, report.
//!
//! Whatever happens on the way, the clean-up follows; then the report says what happened.

mod fingerprint;
mod judged;
mod nextest;
mod prepare;
mod programs;

use std::collections::BTreeSet;
use std::time::Instant;

use jiff::Timestamp;

pub(crate) use fingerprint::commit;
pub use fingerprint::known_inputs;
use judged::{is_last, judged, say_what_is_lacking};
pub use nextest::{Nextest, RunOptions};
pub(crate) use prepare::prove_route;
pub use programs::{Profile, compile_programs};

use crate::audit;
use crate::bootstrap::{BootstrapOptions, Bootstrapped};
use crate::catalogue::{Case, Catalogue, SelectError, Selection};
use crate::environment::Keep;
use crate::failure::{FailureClass, HarnessError, Result};
use crate::feature::{self, Feature};
use crate::history::{Execution, History};
use crate::journal::{Journal, Resource};
use crate::paths::Paths;
use crate::postgres::{PostgresChoice, PostgresServer};
use crate::progress::{Progress, Stage};
use crate::quarantine::Quarantine;
use crate::reap::{self, Kept, RunReaped};
use crate::report::{Report, Rounds, SCHEMA};
use crate::resume::{COMMIT, Earlier, Plan, Resume};
use crate::rounds::{Repeat, is_within};
use crate::run_dir::{self, RunDir};
use crate::shard::{Shard, ShardOf};
use crate::verdict::{CaseResult, NO_OUTCOME, Verdict};
use crate::verdict::{count, exit_code, judge, judge_case};

/// What is asked of a run.
#[derive(Debug, Clone, Default)]
pub struct RunRequest {
    /// How the cluster is brought up.
    pub bootstrap: BootstrapOptions,
    /// Which cases.
    pub selection: Selection,
    /// Which cases fail now and then, as is known.
    pub quarantine: Quarantine,
    /// What is left standing.
    pub keep: Keep,
    /// Where Postgres comes from.
    pub postgres: PostgresChoice,
    /// Stop at the first failure.
    pub fail_fast: bool,
    /// Cases at a time.
    pub threads: Option<usize>,
    /// How often.
    pub repeat: Repeat,
    /// Which part of the cases.
    pub shard: Option<Shard>,
    /// Whether it stays out of the history: what was sabotaged says nothing of the product.
    pub unrecorded: bool,
    /// The run that is gone on with: its cases are meant, and no others.
    pub resume: Option<Resume>,
}

/// The cases that a request means.
#[derive(Debug)]
pub struct Chosen<'a> {
    /// To be run.
    pub mine: Vec<&'a Case>,
    /// Of the other shards.
    pub elsewhere: Vec<&'a Case>,
}

impl RunRequest {
    /// The cases that are meant.
    ///
    /// # Errors
    /// A case is unknown, none is selected, or the shard is empty.
    pub fn choose<'a>(&self, catalogue: &'a Catalogue) -> Result<Chosen<'a>, SelectError> {
        if let Some(Resume { plan, .. }) = &self.resume {
            let of = |ids: &[String]| {
                catalogue.cases.iter().filter(|case| ids.contains(&case.id)).collect()
            };
            return Ok(Chosen { mine: of(&plan.cases), elsewhere: of(&plan.elsewhere) });
        }
        let chosen = catalogue.select(&self.selection, &self.quarantine)?;
        let Some(shard) = self.shard else {
            return Ok(Chosen { mine: chosen, elsewhere: Vec::new() });
        };
        let (mine, elsewhere) = shard.split(&chosen);
        if mine.is_empty() {
            let cause = format!("{} case(s) are chosen, so that it is empty", chosen.len());
            let subject = format!("shard {shard}");
            return Err(HarnessError::new(FailureClass::Harness, "run", subject, cause).into());
        }
        Ok(Chosen { mine, elsewhere })
    }
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
    /// Those of the cluster, once they are known.
    features: Option<BTreeSet<Feature>>,
    postgres: Option<PostgresServer>,
    /// The rounds that have begun.
    rounds: Vec<Option<u32>>,
}

/// Runs the selected cases.
///
/// # Errors
/// The catalogue or selection is wrong, what is resumed ran on something else (a refusal: nothing
/// is kept of this run), or the run's directory or report cannot be written. All else is in the
/// answer.
pub async fn run(paths: &Paths, request: &RunRequest, progress: &Progress) -> Result<Finished> {
    let (started, started_at) = (Instant::now(), Timestamp::now());
    let catalogue = Catalogue::read(paths.workspace())?;
    let Chosen { mine: cases, elsewhere } =
        request.choose(&catalogue).map_err(SelectError::into_error)?;
    // Before anything is built of it: the checkout may change while the cases run.
    let inputs = fingerprint::known_inputs(paths, request).await?;
    request.resume.iter().try_for_each(|resume| resume.require_same(&inputs))?;
    reap_dead_runs(paths, progress).await?;
    let (run, _lock) = RunDir::create(paths.state())?;
    let mut plan = Plan {
        cases: cases.iter().map(|case| case.id.clone()).collect(),
        elsewhere: elsewhere.iter().map(|case| case.id.clone()).collect(),
        shard: request.shard,
        rounds: request.repeat.rounds,
        inputs,
        complete: false,
        earlier: request.resume.as_ref().map(|resume| resume.earlier.clone()),
    };
    plan.save(&run)?;
    let mut held = Held::default();
    let worked = work(paths, request, &cases, &run, &mut plan, &mut held, progress).await;
    let cut_short = progress.interrupted().is_some();
    let mut leaks = clean_up(&run, &mut held, progress).await;
    let error = worked.err();
    if error.as_ref().is_some_and(HarnessError::is_refusal) {
        forget(&run)?;
        return Err(error.expect("there is a refusal"));
    }
    let begun = u32::try_from(held.rounds.len()).unwrap_or(u32::MAX);
    if held.rounds.is_empty() {
        held.rounds.extend(request.repeat.numbers().next());
    }
    let mut results = judged(&cases, &run, &held.rounds, cut_short)?;
    if let Some(features) = &held.features {
        say_what_is_lacking(&cases, &mut results, features);
    }
    // What passed there counts here once it is certain that here is the same.
    let earlier = plan.earlier.as_ref().filter(|_| plan.complete);
    if let Some(earlier) = earlier {
        earlier.apply(run.id.as_str(), &mut results);
        leaks.extend(earlier.leaks.iter().cloned());
    }
    let known = |case: &mut CaseResult| case.quarantined = request.quarantine.of(&case.id).cloned();
    results.iter_mut().for_each(known);
    if let Some(error) = &error {
        let reason = format!("the run ended before it: {error}");
        let untouched = |case: &&mut CaseResult| case.message == NO_OUTCOME;
        for case in results.iter_mut().filter(untouched) {
            case.message.clone_from(&reason);
        }
    }
    // One that came during the clean-up counts too.
    let interrupted = progress.interrupted();
    let is_within = |percent| leaks.is_empty() && is_within(&results, percent);
    let within_budget = request.repeat.flake_budget.map(is_within);
    let ended = || match &error {
        Some(error) => error.exit_code(),
        None if within_budget == Some(true) => 0,
        None => exit_code(&results, &leaks),
    };
    let exit = interrupted.unwrap_or_else(ended);
    let verdict = judge(&results, &leaks);
    let report = Report {
        schema: SCHEMA.into(),
        run: run.id.to_string(),
        verdict: interrupted.map_or(verdict, |_| Verdict::Inconclusive),
        exit_code: exit,
        counts: count(&results),
        started_at,
        seconds: started.elapsed().as_secs_f64(),
        environment: fingerprint::fingerprint(plan.inputs.get(COMMIT), held.bootstrapped.as_ref())
            .await,
        stages: progress.timings(),
        cases: results,
        leaks,
        rounds: (request.repeat.rounds > 1).then_some(Rounds {
            asked: request.repeat.rounds,
            begun,
            until_failure: request.repeat.until_failure,
            flake_budget: request.repeat.flake_budget,
            within_budget,
        }),
        resumed: earlier.map(|earlier| earlier.resumed(&plan.inputs)),
        shard: request.shard.map(|shard| ShardOf {
            shard,
            elsewhere: elsewhere.iter().map(|case| judge_case(case, None, false)).collect(),
        }),
        merged: Vec::new(),
    };
    report.save(&run.report(), &run.path)?;
    if !request.unrecorded {
        let kept = History::at(paths.state()).append(&Execution::of(&report)).await;
        // The verdict stands without it.
        let lost = |error| progress.say(&format!("✗ history: {}", crate::case::explain(&error)));
        kept.unwrap_or_else(lost);
    }
    Ok(Finished { run, report, error })
}

async fn work(
    paths: &Paths,
    request: &RunRequest,
    cases: &[&Case],
    run: &RunDir,
    plan: &mut Plan,
    held: &mut Held,
    progress: &Progress,
) -> Result<()> {
    let up = crate::bootstrap::bootstrap(paths, &request.bootstrap, progress).await?;
    let up = held.bootstrapped.insert(up).clone();
    let here = feature::detect(&up, cases, run, progress).await?;
    let here = held.features.insert(here).clone();
    let passed = plan.earlier.as_ref().map(Earlier::passed_ids).unwrap_or_default();
    let can_run =
        |case: &&&Case| feature::lacking(case, &here).is_none() && !passed.contains(&case.id);
    let runnable: Vec<&Case> = cases.iter().filter(can_run).copied().collect();
    if runnable.is_empty() && passed.is_empty() {
        progress.say("no selected case can run here");
        return Ok(());
    }
    let cases = &runnable;
    let programs = Resource::Process { program: "cargo, nextest and cases".into() };
    let nextest = Nextest {
        program: up.tools.nextest.clone(),
        workspace: paths.workspace().to_path_buf(),
        mark: Some(run.journal(None).intend(programs)?),
    };
    let prepared =
        prepare::prepare(paths, request, (&up, &here), &nextest, run, &mut held.postgres, progress);
    let mut environment = prepared.await?;
    let inputs = fingerprint::inputs(&plan.inputs, request, &up, &environment).await?;
    request.resume.iter().try_for_each(|resume| resume.require_same(&inputs))?;
    (plan.inputs, plan.complete) = (inputs, true);
    plan.save(run)?;
    if cases.is_empty() {
        progress.say("every case passed in the run that is gone on with");
        return Ok(());
    }
    progress
        .stage(format!("{} cases", cases.len()), async |stage| {
            for round in request.repeat.numbers() {
                let run = run.at_round(round);
                if let Some(round) = round {
                    progress.say(&format!("round {round} of {}", request.repeat.rounds));
                }
                held.rounds.push(round);
                // The cases of the round before have ended: none reads it while it changes.
                environment.run = Some(run.clone());
                environment.save(&run.environment())?;
                let options = RunOptions {
                    fail_fast: request.fail_fast,
                    threads: request.threads,
                    log: run.nextest_log(),
                };
                nextest.run(cases, &run.environment(), &options, progress, &stage).await?;
                if progress.interrupted().is_some() || is_last(request, cases, &run)? {
                    break;
                }
            }
            if request.repeat.rounds > 1 {
                stage.note(format!("{} of {} rounds", held.rounds.len(), request.repeat.rounds));
            }
            Ok(())
        })
        .await
}

/// Removes the directory of a run that was refused, once nothing is left of it but paper.
fn forget(run: &RunDir) -> Result<()> {
    if Journal::read(&run.journal_path())?.outstanding().is_empty() {
        crate::paths::remove_tree(&run.path)?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const CASES: &str = r#"
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
    fn an_empty_shard_is_refused_and_the_others_know_of_each_other() {
        let catalogue = Catalogue::parse(CASES).unwrap();
        let of = |shard: &str| RunRequest { shard: shard.parse().ok(), ..Default::default() };
        let (one, two) = (of("1/2"), of("2/2"));
        let (one, two) = (one.choose(&catalogue).unwrap(), two.choose(&catalogue).unwrap());
        assert_eq!((&one.mine, &one.elsewhere), (&two.elsewhere, &two.mine));
        let error = of("3/3").choose(&catalogue).unwrap_err().into_error();
        assert!(error.source.to_string().contains("it is empty"), "{}", error.source);
    }
}

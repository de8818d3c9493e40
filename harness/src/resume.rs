//! To go on with a run that did not come to its end: what a run writes down of what it is to run
//! and on what, and what another takes over from it.
//!
//! A pass counts only where everything that it depends on is the same. A failure is never made up
//! for by a later pass, since nothing has changed between them; only one of the infrastructure is
//! tried again, and the report says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::catalogue::Catalogue;
use crate::digest::Inputs as Hash;
use crate::failure::{Classify, FailureClass, HarnessError, Refusal, Result};
use crate::outcome::Outcome;
use crate::paths::{Paths, write_atomically};
use crate::report::Report;
use crate::rounds::{Round, combine};
use crate::run_dir::RunDir;
use crate::shard::Shard;
use crate::verdict::{CaseResult, Result as Counted, judge_case};

/// What the outcome of a case depends on, by name: equal in two runs, or their outcomes cannot
/// stand beside each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Inputs(BTreeMap<String, String>);

impl Inputs {
    /// Adds one, or gives it another value.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// One by its name; empty if it is not known.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// All of them in one word.
    #[must_use]
    pub fn digest(&self) -> String {
        let add = |hash: Hash, (name, value): (&String, &String)| hash.add(name, value);
        self.0.iter().fold(Hash::new(), add).tag()
    }

    /// What is not the same here, of the names in `self`: those that are not known yet are not asked.
    #[must_use]
    pub fn differences(&self, there: &Self) -> Vec<String> {
        let none = "nothing".to_owned();
        let differ = self.0.iter().filter(|(name, here)| there.0.get(*name) != Some(*here));
        let told = differ.map(|(name, here)| {
            format!("{name}: {} there, {here} here", there.0.get(name).unwrap_or(&none))
        });
        told.collect()
    }
}

/// What a run writes down at its start, and again once all it depends on is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Ids of the cases, those that were taken over among them.
    pub cases: Vec<String>,
    /// Ids of the cases of the other shards.
    pub elsewhere: Vec<String>,
    /// Which part of the cases this is.
    pub shard: Option<Shard>,
    /// How often.
    pub rounds: u32,
    /// What outcomes depend on.
    pub inputs: Inputs,
    /// Whether that is all of it: so before the first case begins.
    pub complete: bool,
    /// What the run itself took over.
    pub earlier: Option<Earlier>,
}

/// What one run has from another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Earlier {
    /// The other run's id.
    pub run: String,
    /// The cases that passed there, as they are reported.
    pub passed: Vec<CaseResult>,
    /// Those that failed there, with their rounds: failed, whatever comes of them here.
    pub failed: Vec<CaseResult>,
    /// Those that the infrastructure failed there.
    pub retried: Vec<String>,
    /// What was left behind there.
    pub leaks: Vec<String>,
}

/// What a report says of the run that it goes on with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// That run.
    pub run: String,
    /// The digest of what both depend on.
    pub inputs: String,
    /// How many cases passed there and did not run again.
    pub taken_over: usize,
    /// The cases that ran again after a failure of the infrastructure.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub retried: Vec<String>,
}

impl fmt::Display for Resumed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { run, inputs, taken_over, retried } = self;
        write!(
            f,
            "goes on with run {run}: {taken_over} case(s) passed there under the same inputs ({inputs})"
        )?;
        if !retried.is_empty() {
            write!(f, "; again after a failure of the infrastructure: {}", retried.join(", "))?;
        }
        Ok(())
    }
}

/// A run to go on with.
#[derive(Debug, Clone)]
pub struct Resume {
    /// What it was to run, and on what.
    pub plan: Plan,
    /// What is taken over from it.
    pub earlier: Earlier,
}

impl Plan {
    /// Writes it to its place in the run's directory.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, run: &RunDir) -> Result<()> {
        let text = serde_json::to_vec_pretty(self);
        let text = text.classify(FailureClass::Harness, "encode", "the plan of a run")?;
        write_atomically(&run.plan(), &text, 0o600)
    }

    fn read(run: &RunDir) -> Result<Self> {
        let bytes = match std::fs::read(run.plan()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(refuse(&run.id, "it did not write down what it was to run", ANEW));
            }
            read => read.infrastructure("read", run.plan().display().to_string())?,
        };
        let plan = serde_json::from_slice(&bytes);
        plan.map_err(|error| refuse(&run.id, &format!("its plan is damaged: {error}"), ANEW))
    }
}

const ANEW: &str = "run the same cases without --resume";

fn refuse(run: impl fmt::Display, why: &str, help: &str) -> HarnessError {
    let refusal = Refusal(why.to_owned());
    HarnessError::new(FailureClass::Harness, "go on with", format!("run {run}"), refusal)
        .with_help(help)
}

impl Resume {
    /// Looks at the run of this id (or of the last six digits of it).
    ///
    /// # Errors
    /// There is none, it goes on still, it repeated its cases, it ended before its first case, or it
    /// is of another catalogue; all are refusals.
    pub fn open(paths: &Paths, id: &str, catalogue: &Catalogue) -> Result<Self> {
        let mut runs = RunDir::all(paths.state())?;
        let is_it = |run: &RunDir| run.id.as_str() == id || run.id.short() == id;
        let Some(run) = runs.iter().rev().find(|run| is_it(run)) else {
            let last = runs.split_off(runs.len().saturating_sub(3));
            let last: Vec<_> = last.iter().rev().map(|run| run.id.as_str()).collect();
            let why = format!("there is none in {}", paths.state().join("runs").display());
            return Err(refuse(id, &why, &format!("the last ones are: {}", last.join(", "))));
        };
        if run.try_lock()?.is_none() {
            return Err(refuse(&run.id, "its process lives", "wait for its end"));
        }
        let plan = Plan::read(run)?;
        if plan.rounds > 1 {
            let why = "it ran its cases in rounds, which begin together";
            return Err(refuse(&run.id, why, "run the rounds again with --repeat"));
        }
        if !plan.complete {
            let before = plan.earlier.as_ref();
            let before = before.map(|earlier| format!("go on with run {}, as it did", earlier.run));
            let why = "it ended before its first case";
            return Err(refuse(&run.id, why, before.as_deref().unwrap_or(ANEW)));
        }
        let known: BTreeSet<_> = catalogue.cases.iter().map(|case| &case.id).collect();
        let all = plan.cases.iter().chain(&plan.elsewhere);
        let unknown: Vec<_> = all.filter(|id| !known.contains(id)).cloned().collect();
        if !unknown.is_empty() {
            let why = format!("the catalogue has no {} any more", unknown.join(", "));
            return Err(refuse(&run.id, &why, ANEW));
        }
        let earlier = earlier(run, &plan, catalogue)?;
        Ok(Self { plan, earlier })
    }

    /// Refuses to go on where something is not as it was there.
    ///
    /// # Errors
    /// A refusal that says what differs.
    pub fn require_same(&self, here: &Inputs) -> Result<()> {
        if here.get(COMMIT).is_empty() {
            let why = "it is not known of which commit this checkout is";
            return Err(refuse(&self.earlier.run, why, ANEW));
        }
        let differences = here.differences(&self.plan.inputs);
        if differences.is_empty() {
            return Ok(());
        }
        let help =
            "what passed there may not pass here: make it as it was, or run anew without --resume";
        Err(refuse(&self.earlier.run, &differences.join("; "), help))
    }
}

/// The name of the checkout's commit among the inputs.
pub const COMMIT: &str = "commit";

impl Earlier {
    /// The cases that need not run again.
    #[must_use]
    pub fn passed_ids(&self) -> BTreeSet<String> {
        self.passed.iter().map(|case| case.id.clone()).collect()
    }

    /// Puts what came of the cases there beside what came of them here.
    pub fn apply(&self, here: &str, results: &mut [CaseResult]) {
        for result in results {
            if let Some(passed) = self.passed.iter().find(|case| case.id == result.id) {
                *result = passed.clone();
            }
            if let Some(failed) = self.failed.iter().find(|case| case.id == result.id) {
                let rounds = failed.rounds.iter().map(|round| (round.clone(), failed.clone()));
                let now = (Round::of(1, Some(here), result), result.clone());
                let all = rounds.chain([now]).collect();
                *result = combine(all).expect("there is a round at least");
            }
        }
    }

    /// What the report says of it.
    #[must_use]
    pub fn resumed(&self, inputs: &Inputs) -> Resumed {
        Resumed {
            run: self.run.clone(),
            inputs: inputs.digest(),
            taken_over: self.passed.len(),
            retried: self.retried.clone(),
        }
    }
}

/// What may be taken over from a run: by its report, or by the outcomes of one that was killed.
fn earlier(run: &RunDir, plan: &Plan, catalogue: &Catalogue) -> Result<Earlier> {
    let report = Report::read(&run.report()).ok();
    let leaks = report.iter().flat_map(|report| &report.leaks);
    let leaks = leaks.map(|leak| format!("{leak} (run {})", run.id));
    let mut found = Earlier {
        run: run.id.to_string(),
        passed: Vec::new(),
        failed: Vec::new(),
        retried: Vec::new(),
        leaks: leaks.collect(),
    };
    let results = match report {
        Some(report) => report.cases,
        None => {
            let chosen = catalogue.cases.iter().filter(|case| plan.cases.contains(&case.id));
            let judged = chosen.map(|case| {
                let outcome = Outcome::read(&run.outcomes(), &case.id)?;
                Ok(judge_case(case, outcome.as_ref(), true))
            });
            let mut results = judged.collect::<Result<Vec<_>>>()?;
            if let Some(before) = &plan.earlier {
                before.apply(run.id.as_str(), &mut results);
                found.leaks.extend(before.leaks.iter().cloned());
            }
            results
        }
    };
    results.into_iter().for_each(|case| found.take(&run.id.to_string(), case));
    Ok(found)
}

impl Earlier {
    fn take(&mut self, run: &str, mut case: CaseResult) {
        let elsewhere = |evidence: &str| match evidence {
            "" => String::new(),
            there if there.starts_with("../") => there.to_owned(),
            here => format!("../{run}/{here}"),
        };
        case.evidence = elsewhere(&case.evidence);
        // Who is in quarantine is said by the run that goes on.
        case.quarantined = None;
        match (case.result, case.class) {
            (Counted::Passed, _) => {
                case.taken_over.get_or_insert_with(|| run.to_owned());
                self.passed.push(case);
            }
            (Counted::Failed, Some(FailureClass::Infrastructure)) if case.rounds.is_empty() => {
                self.retried.push(case.id);
            }
            (Counted::Failed, _) => {
                if case.rounds.is_empty() {
                    case.rounds = vec![Round::of(1, Some(run), &case)];
                }
                for round in &mut case.rounds {
                    round.evidence = elsewhere(&round.evidence);
                }
                self.failed.push(case);
            }
            (Counted::NotRun, _) => {}
        }
    }
}

#[cfg(test)]
mod tests;

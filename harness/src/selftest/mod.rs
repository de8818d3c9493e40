//! The harness proves that it can fail: the promise of each case is made untrue in a copy of the
//! checkout, that copy's own harness runs the cases, and each has to fail for its own saboteur.
//!
//! What is broken is said in suites/saboteurs.toml. The copy, what is built of it, and the last
//! sabotaged run are below the state directory, apart from all that an ordinary run reads.

mod child;
mod matrix;
mod saboteurs;
mod tree;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;

pub use matrix::{Finding, Matrix, Row, SCHEMA};
pub use saboteurs::{Edit, Edited, FILE, Saboteur, Saboteurs, check};

use crate::bootstrap::BootstrapOptions;
use crate::catalogue::{Case, Catalogue, Layer, Profile, SelectError, Selection};
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::journal::Journal;
use crate::lock::Lock;
use crate::paths::{Paths, ensure_private_dir, remove_file, remove_tree};
use crate::progress::Progress;
use crate::quarantine::Quarantine;
use crate::report::Report;
use crate::run_dir::RunDir;
use crate::runner;
use child::{Scratch, bootstrap_arguments};

/// What is asked of a selftest.
#[derive(Debug, Clone, Default)]
pub struct SelftestRequest {
    /// How the cluster is brought up.
    pub bootstrap: BootstrapOptions,
    /// Only cases of these layers; empty for all.
    pub layers: Vec<Layer>,
    /// Only cases of these profiles; empty for all.
    pub profiles: Vec<Profile>,
    /// Only these cases; empty for all.
    pub cases: Vec<String>,
    /// Cases at a time.
    pub threads: Option<usize>,
    /// Where the reports go: the matrix, and those of the sabotaged run in `run/`.
    pub report: PathBuf,
}

impl SelftestRequest {
    /// The cases that are meant.
    ///
    /// # Errors
    /// A case is unknown, or none is selected.
    pub fn choose<'a>(&self, catalogue: &'a Catalogue) -> Result<Vec<&'a Case>> {
        let selection = Selection {
            layers: self.layers.clone(),
            cases: self.cases.clone(),
            profiles: self.profiles.clone(),
            ..Selection::default()
        };
        // Whether a case can fail is asked of one in quarantine too.
        let chosen = catalogue.select(&selection, &Quarantine::default());
        chosen.map_err(SelectError::into_error)
    }
}

/// Sabotages the chosen cases and says what became of them. After a signal the matrix is of what ran.
///
/// # Errors
/// A chosen case has no saboteur, an edit does not apply, what was sabotaged does not compile, or
/// its run left no report.
pub async fn selftest(
    paths: &Paths,
    request: &SelftestRequest,
    progress: &Progress,
) -> Result<Matrix> {
    let (started, started_at) = (Instant::now(), Timestamp::now());
    let catalogue = Catalogue::read(paths.workspace())?;
    let cases = request.choose(&catalogue)?;
    let saboteurs = Saboteurs::read(paths.workspace(), &catalogue)?;
    saboteurs.require(&cases)?;
    let edited = saboteurs.apply(paths.workspace(), &catalogue)?;
    let commit = runner::commit(paths.workspace()).await.unwrap_or_default();
    let place = paths.state().join("selftest");
    let scratch = Scratch { tree: place.join("tree"), target: place.join("target") };
    ensure_private_dir(&scratch.tree)?;
    let lock = place.join("lock");
    let _lock = Lock::acquire_file(&lock, progress, &progress.unlisted()).await?;
    progress
        .stage("scratch tree", async |stage| {
            let files = tree::files(paths.workspace(), &stage).await?;
            let synced = tree::sync(paths.workspace(), &files, &edited, &scratch.tree)?;
            let tree::Synced { files, written, removed } = synced;
            stage.note(format!("{files} files, {written} written, {removed} removed"));
            Ok(())
        })
        .await?;
    let program = progress
        .stage("sabotaged harness", async |stage| {
            scratch.build(paths.log("selftest-build"), &stage).await
        })
        .await?;
    let (report, run) = (absolute(&request.report.join("run"))?, place.join("run"));
    let words = run_arguments(request, &cases, &report);
    // One of an earlier run must not be taken for this one's.
    remove_file(&report.join("report.json"))?;
    let log = paths.log("selftest-run");
    let report = progress
        .stage(format!("sabotaged run of {} case(s)", cases.len()), async |stage| {
            let status = scratch.run(&program, &words, paths, &log, progress, &stage).await?;
            stage.note(status.to_string());
            Report::read(&report).map_err(|error| {
                if stage.is_cancelled() {
                    return HarnessError::interrupted("finish", "the sabotaged run");
                }
                let subject = format!("the sabotaged run, which ended with {status}");
                HarnessError::new(FailureClass::Harness, "understand", subject, error)
                    .with_help(format!("{} says what it did", log.display()))
            })
        })
        .await?;
    set_aside(paths.state(), &report.run, &run)?;
    let chosen: Vec<_> =
        cases.into_iter().filter_map(|case| Some((case, saboteurs.of(&case.id)?))).collect();
    let seconds = started.elapsed().as_secs_f64();
    let matrix = Matrix::grade(&chosen, &report, commit, started_at, seconds);
    matrix.save(&request.report)?;
    Ok(matrix)
}

/// Where the evidence of the last selftest is.
#[must_use]
pub fn evidence(paths: &Paths) -> PathBuf {
    paths.state().join("selftest/run/evidence")
}

fn run_arguments(request: &SelftestRequest, cases: &[&Case], report: &Path) -> Vec<OsString> {
    let mut words: Vec<OsString> =
        vec!["run".into(), "--report".into(), report.into(), "--no-history".into()];
    words.extend(bootstrap_arguments(&request.bootstrap));
    if let Some(threads) = request.threads {
        words.extend(["--threads".into(), threads.to_string().into()]);
    }
    words.extend(cases.iter().flat_map(|case| ["--case".into(), case.id.clone().into()]));
    words
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).infrastructure("resolve", path.display().to_string())
}

/// Takes a sabotaged run out of the runs of the state directory, so that nobody takes what became of
/// its cases for theirs. One that left something behind stays, for `reap`.
fn set_aside(state: &Path, id: &str, to: &Path) -> Result<()> {
    let mut runs = RunDir::all(state)?.into_iter();
    let Some(run) = runs.find(|run| run.id.as_str() == id) else { return Ok(()) };
    if !Journal::read(&run.journal_path())?.outstanding().is_empty() {
        return Ok(());
    }
    remove_tree(to)?;
    std::fs::rename(&run.path, to).infrastructure("set aside", run.path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Resource, State};

    #[test]
    fn a_sabotaged_run_is_no_run_any_more_unless_something_is_left_of_it() {
        let state = tempfile::tempdir().unwrap();
        let to = state.path().join("selftest/run");
        for _ in 0..2 {
            let (run, lock) = RunDir::create(state.path()).unwrap();
            drop(lock);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            let journal = run.journal(None);
            let entry = journal.intend(Resource::Container { name: "c".into() }).unwrap();
            set_aside(state.path(), run.id.as_str(), &to).unwrap();
            assert_eq!(RunDir::all(state.path()).unwrap(), std::slice::from_ref(&run));
            journal.mark(entry, State::Removed).unwrap();
            set_aside(state.path(), run.id.as_str(), &to).unwrap();
            assert!(RunDir::all(state.path()).unwrap().is_empty());
            assert!(to.join("journal.jsonl").exists());
        }
        set_aside(state.path(), "unknown", &to).unwrap();
    }

    #[test]
    fn cases_are_chosen_by_profile_layer_and_name() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let catalogue = Catalogue::read(workspace).unwrap();
        let all = SelftestRequest::default();
        assert_eq!(all.choose(&catalogue).unwrap().len(), catalogue.cases.len());
        let core = SelftestRequest { profiles: vec![Profile::Core], ..Default::default() };
        let core = core.choose(&catalogue).unwrap();
        assert!(core.iter().all(|case| case.profile == Profile::Core) && core.len() > 50);
        let named = SelftestRequest {
            cases: vec!["multi-worker.soak".into()],
            threads: Some(3),
            ..Default::default()
        };
        let chosen = named.choose(&catalogue).unwrap();
        assert_eq!(chosen[0].profile, Profile::Extended);
        let words = run_arguments(&named, &chosen, Path::new("/r"));
        assert_eq!(words[..4], ["run", "--report", "/r", "--no-history"]);
        assert_eq!(words[words.len() - 4..], ["--threads", "3", "--case", "multi-worker.soak"]);
        let one = SelftestRequest { layers: vec![Layer::Cleanup], ..Default::default() };
        assert!(one.choose(&catalogue).unwrap().iter().all(|case| case.layer == Layer::Cleanup));
    }
}

//! The life of a case, from the environment to its outcome.

use std::any::Any;
use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::sync::{Once, OnceLock};
use std::time::{Duration, Instant};

use futures::FutureExt;

use super::{CaseEnv, CaseOptions};
use crate::catalogue::Catalogue;
use crate::environment::{Environment, Keep};
use crate::failure::{FailureClass, HarnessError, Result};
use crate::job_times::JobTimes;
use crate::journal::{EntryId, Resource, State};
use crate::lineage::ProcessIdentity;
use crate::outcome::{Outcome, Status};
use crate::postgres;
use crate::run_dir::{RunDir, RunLock};

/// Any of these set to 1 allows cases to run.
pub const ENABLE_VARIABLES: [&str; 2] = ["HODEI_E2E_K8S", "HODEI_K8S_TEST"];
/// How long tasks that a test left running may hold up its end.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(5);

/// Why a case failed: whose fault, and what was seen.
struct Failure {
    class: FailureClass,
    message: String,
}

/// Runs a case with the usual environment. Panics, as a test does, if it fails.
pub fn run_case<F>(id: &str, body: F)
where
    F: AsyncFnOnce(&mut CaseEnv) -> anyhow::Result<()>,
{
    run_case_with(id, CaseOptions::new(), body);
}

/// Runs a case. Panics, as a test does, if it fails: its body, its audit, or its clean-up.
///
/// # Panics
/// The case failed, could not run, or was run without leave to touch a cluster.
pub fn run_case_with<F>(id: &str, options: CaseOptions, body: F)
where
    F: AsyncFnOnce(&mut CaseEnv) -> anyhow::Result<()>,
{
    let allowed = ENABLE_VARIABLES.iter().any(|name| std::env::var(name).is_ok_and(|v| v == "1"));
    assert!(
        allowed,
        "case {id} needs a cluster and was not run: `make e2e` runs it, or `make up` and then {}=1",
        ENABLE_VARIABLES.join("=1 or ")
    );
    remember_panics();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made in a process that could start");
    let outcome = runtime.block_on(live(id, options, body));
    runtime.shutdown_timeout(SHUTDOWN_DEADLINE);
    match outcome {
        Ok(outcome) if outcome.status == Status::Passed => {}
        Ok(outcome) => panic!(
            "case {id} failed ({}) after {:.1} s: {}\nevidence: {}",
            outcome.class.unwrap_or(FailureClass::Product),
            outcome.seconds,
            outcome.message,
            outcome.evidence.display()
        ),
        Err(error) => panic!("case {id} could not run: {}", explain(&error)),
    }
}

async fn live<F>(id: &str, options: CaseOptions, body: F) -> Result<Outcome>
where
    F: AsyncFnOnce(&mut CaseEnv) -> anyhow::Result<()>,
{
    let started = Instant::now();
    let environment = Environment::load()?;
    let owned = environment.run.is_some();
    let run = run_of(&environment)?;
    let mut outcome = Outcome::running(id, run.evidence(id), run.round);
    outcome.save(&run.outcomes())?;
    let own_process = if owned { Some(own_process(id, &run)?) } else { None };
    let mut jobs = None;
    let lived = match Catalogue::read(&environment.workspace) {
        Ok(catalogue) => match catalogue.case(id) {
            Ok(case) => match environment.require(case) {
                Ok(()) => {
                    let place = Place { id, slug: &case.slug(), run: &run };
                    go_through(&place, environment, options, body, &mut jobs).await
                }
                Err(error) => Err(Failure::of(error)),
            },
            Err(error) => Err(Failure::of(error)),
        },
        Err(error) => Err(Failure::of(error)),
    };
    outcome.seconds = started.elapsed().as_secs_f64();
    outcome.jobs = jobs;
    match lived {
        Ok(()) => outcome.status = Status::Passed,
        Err(failure) => {
            outcome.status = Status::Failed;
            outcome.class = Some(failure.class);
            outcome.message = failure.message;
        }
    }
    if let Some(entry) = own_process {
        run.journal(Some(id)).mark(entry, State::Removed)?;
    }
    outcome.save(&run.outcomes())?;
    Ok(outcome)
}

/// Which case of which run.
struct Place<'a> {
    id: &'a str,
    slug: &'a str,
    run: &'a RunDir,
}

/// Start, body, evidence, audit, clean-up; `jobs` is what its jobs' times were. The first failure is the one reported; the others are
/// added to its message.
async fn go_through<F>(
    place: &Place<'_>,
    environment: Environment,
    options: CaseOptions,
    body: F,
    jobs: &mut Option<JobTimes>,
) -> Result<(), Failure>
where
    F: AsyncFnOnce(&mut CaseEnv) -> anyhow::Result<()>,
{
    let keep = environment.keep;
    let started = CaseEnv::start(place.id, place.slug, environment, place.run, &options).await;
    let mut env = match started {
        Ok(env) => env,
        // What was made is in the journal, and the end of the run removes it.
        Err(error) => return Err(Failure::of(error)),
    };
    let mut failures = Vec::new();
    let ran = AssertUnwindSafe(tokio::time::timeout(options.deadline, body(&mut env)));
    match ran.catch_unwind().await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => failures.push(Failure::of_test(&error)),
        Ok(Err(_)) => failures.push(Failure {
            class: FailureClass::Product,
            message: format!("it did not end within {} s", options.deadline.as_secs()),
        }),
        Err(panic) => failures.push(Failure::of_panic(&*panic)),
    }
    // However the body ended, and before anything is asked of the cluster.
    if let Err(error) = env.end_disturbances().await {
        failures.push(Failure::of(error));
    }
    if failures.is_empty()
        && let Err(error) = env.audit().await
    {
        failures.push(Failure::of(error));
    }
    *jobs = env.dump_evidence().await;
    let failed = !failures.is_empty();
    let kept = keep == Keep::Everything || (failed && keep == Keep::Failures);
    if let Err(error) = env.clean_up(kept, failed).await {
        failures.push(Failure::of(error));
    }
    let mut failures = failures.into_iter();
    let Some(mut first) = failures.next() else { return Ok(()) };
    for further in failures {
        first.message.push_str(&format!("\nthen: {}", further.message));
    }
    Err(first)
}

impl CaseEnv {
    async fn clean_up(mut self, kept: bool, failed: bool) -> Result<()> {
        let mut first: Option<HarnessError> = None;
        let mut note = |result: Result<()>| {
            if let Err(error) = result {
                first.get_or_insert(error);
            }
        };
        if let Some(mut stack) = self.stack.take() {
            note(stack.end(failed).await);
            if kept {
                note(self.journal.mark(stack.database.entry, State::Kept));
            } else {
                let url = &self.environment.postgres.admin_url;
                let dropped = postgres::drop_database(url, &stack.database.name).await;
                note(
                    dropped.and_then(|()| self.journal.mark(stack.database.entry, State::Removed)),
                );
            }
        }
        if kept {
            note(self.namespace.keep(&self.journal));
        } else {
            note(self.namespace.delete(&self.client, &self.journal).await);
        }
        // It holds a token of the case's account, which went with the namespace.
        drop(std::fs::remove_file(&self.kubeconfig));
        if let Ok(proxy) = self.api_proxy() {
            drop(std::fs::remove_file(proxy.kubeconfig()));
        }
        first.map_or(Ok(()), Err)
    }
}

/// The run that a case belongs to: the environment's, or one of this process alone.
fn run_of(environment: &Environment) -> Result<RunDir> {
    static OWN: OnceLock<(RunDir, RunLock)> = OnceLock::new();
    if let Some(run) = &environment.run {
        // So that a case does not outlive a run that was killed.
        if let Err(error) = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL) {
            tracing::warn!(%error, "this case would outlive a killed run");
        }
        return Ok(run.clone());
    }
    if let Some((run, _)) = OWN.get() {
        return Ok(run.clone());
    }
    let made = RunDir::create(&environment.state)?;
    Ok(OWN.get_or_init(|| made).0.clone())
}

fn own_process(id: &str, run: &RunDir) -> Result<EntryId> {
    let journal = run.journal(Some(id));
    let entry = journal.intend(Resource::Process { program: format!("case {id}") })?;
    let pid = i32::try_from(std::process::id()).ok();
    if let Some(process) = pid.and_then(ProcessIdentity::of) {
        journal.started(entry, process)?;
    }
    Ok(entry)
}

thread_local! {
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the place of the last panic of each thread, which its payload does not have.
fn remember_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PLACE.with_borrow_mut(|place| *place = info.location().map(ToString::to_string));
            before(info);
        }));
    });
}

impl Failure {
    fn of(error: HarnessError) -> Self {
        Self { class: error.class, message: explain(&error) }
    }

    fn of_test(error: &anyhow::Error) -> Self {
        let known = error.chain().find_map(|cause| cause.downcast_ref::<HarnessError>());
        let class = known.map_or(FailureClass::Product, |error| error.class);
        Self { class, message: format!("{error:#}") }
    }

    fn of_panic(panic: &(dyn Any + Send)) -> Self {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
        let place = PLACE.with_borrow_mut(Option::take).map(|place| format!(" at {place}"));
        let message = format!("{said}{}", place.unwrap_or_default());
        Self { class: FailureClass::Product, message }
    }
}

/// An error with all of its causes and what to do, on a few lines.
#[must_use]
pub(crate) fn explain(error: &HarnessError) -> String {
    let mut text = error.to_string();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&*error.source);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    match &error.help {
        Some(help) => format!("{text}\nhelp: {help}"),
        None => text,
    }
}

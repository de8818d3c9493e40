//! `hodei job run`: submit, follow, end as the job ended.

use std::{
    io::{IsTerminal as _, Read as _},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use hodei_core::{attempt::Outcome, spec::JobSpec};
use hodei_proto::v1::{self, JobState};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

use crate::{
    args::{JobArgs, RunArgs},
    context::Context,
    failure::Failure,
    follow::{Follower, Position, required, watch},
    screen::{Screen, note, print},
    server::Server,
    waiting::Waiting,
};

/// The exit code where Hodei failed and not the job.
pub(crate) const HODEI_FAILED: u8 = 125;
/// The exit code of a job that a time-out ended.
const TIMED_OUT: u8 = 124;
/// The exit code after Ctrl-C: 128 + SIGINT.
const INTERRUPTED: u8 = 130;
/// How long the rest of the output may be silent after the job's end.
const SILENCE: Duration = Duration::from_secs(30);

/// Runs a job; the exit code to end with.
pub(crate) async fn run(context: &Context, args: RunArgs) -> Result<u8, Failure> {
    let (detach, cancel_on_interrupt) = (args.detach, args.cancel_on_interrupt);
    if detach {
        return submit(context, args.job).await;
    }
    let request = request(args.job)?;
    let server = &Server::connect(context).await?;
    let job = send(server, request).await?;
    let screen = Screen::open();
    let ended = follow_to_end(server, &job.id, &screen, cancel_on_interrupt).await;
    let job = match ended {
        Ok(Ended::Job(job)) => job,
        Ok(Ended::Left) => return Ok(INTERRUPTED),
        Err(failure) => {
            // Show what there was before saying what went wrong.
            let _ = screen.finish().await;
            return Err(failure);
        }
    };
    screen.finish().await?;
    Ok(conclude(&job))
}

/// Submits a job and prints its id.
pub(crate) async fn submit(context: &Context, args: JobArgs) -> Result<u8, Failure> {
    let request = request(args)?;
    let job = send(&Server::connect(context).await?, request).await?;
    print(&format!("{}\n", job.id))?;
    Ok(0)
}

enum Ended {
    Job(Box<v1::Job>),
    Left,
}

fn request(args: JobArgs) -> Result<v1::SubmitJobRequest, Failure> {
    // A key of our own, if none is given, makes it safe to submit again when no answer came.
    let key = args.idempotency_key.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    Ok(v1::SubmitJobRequest {
        spec: Some(spec(args)?),
        idempotency_key: key,
        correlation_id: uuid::Uuid::new_v4().to_string(),
    })
}

async fn send(server: &Server, request: v1::SubmitJobRequest) -> Result<v1::Job, Failure> {
    let jobs = server.jobs();
    let response = server.call(|| {
        let (mut jobs, request) = (jobs.clone(), request.clone());
        async move { jobs.submit(request).await }
    });
    required(response.await?.job)
}

fn spec(args: JobArgs) -> Result<v1::JobSpec, Failure> {
    let run = match &args.script {
        Some(path) => v1::job_spec::Run::Script(read_script(path)?),
        None => v1::job_spec::Run::Command(v1::Command { argv: args.command }),
    };
    let period = |value: Option<Duration>| value.and_then(|value| value.try_into().ok());
    let spec = v1::JobSpec {
        name: args.name.unwrap_or_default(),
        run: Some(run),
        env: args.env.into_iter().collect(),
        working_directory: args.working_directory.unwrap_or_default(),
        resources: Some(v1::Resources {
            cpu_request: args.cpu_request.unwrap_or_default(),
            cpu_limit: args.cpu_limit.unwrap_or_default(),
            memory_request: args.memory_request.unwrap_or_default(),
            memory_limit: args.memory_limit.unwrap_or_default(),
        }),
        timeouts: Some(v1::Timeouts {
            queue: period(args.queue_timeout),
            startup: period(args.startup_timeout),
            run: period(args.timeout),
        }),
        retry: Some(v1::RetryPolicy {
            infrastructure: args.infrastructure_retries,
            command: args.retries,
        }),
        labels: args.label.into_iter().collect(),
        image: args.image.unwrap_or_default(),
        priority: args.priority,
    };
    // The server checks the same; this way a slip needs no server to be found.
    match JobSpec::try_from(spec.clone()) {
        Ok(_) => Ok(spec),
        Err(error) => Err(Failure::Local {
            what: format!("the job is not valid: {error}"),
            help: "`hodei job run --help` says what each flag takes.".to_owned(),
        }),
    }
}

fn read_script(path: &Path) -> Result<String, Failure> {
    let read = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    read.map_err(|error| Failure::File {
        path: path.to_owned(),
        problem: error.to_string(),
        help: "A script is a text file in UTF-8, or - for stdin.",
    })
}

/// Ctrl-C and SIGTERM.
struct Interrupts {
    int: Signal,
    term: Signal,
}

impl Interrupts {
    fn catch() -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::Local {
            what: format!("signals cannot be caught: {error}"),
            help: "Without that, Ctrl-C could not cancel the job.".to_owned(),
        };
        Ok(Self {
            int: signal(SignalKind::interrupt()).map_err(failed)?,
            term: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}

async fn follow_to_end(
    server: &Server,
    id: &str,
    screen: &Screen,
    cancel_on_interrupt: bool,
) -> Result<Ended, Failure> {
    let mut interrupts = Interrupts::catch()?;
    let following = follow(server, id, screen);
    tokio::pin!(following);
    tokio::select! {
        ended = &mut following => return ended,
        () = interrupts.next() => {}
        () = screen.closed() => {
            if cancel_on_interrupt {
                cancel(server, id, "nobody reads the output any more").await?;
            }
            return Err(Failure::OutputClosed);
        }
    }
    if !cancel_on_interrupt {
        note(&format!("left; job {id} goes on. See it with: hodei job logs {id} --follow"));
        return Ok(Ended::Left);
    }
    note(&format!("cancelling job {id}; press Ctrl-C again to leave at once"));
    let cancelled = async {
        cancel(server, id, "interrupted at hodei job run").await?;
        following.await
    };
    tokio::select! {
        ended = cancelled => ended,
        () = interrupts.next() => {
            note(&format!("left; see what becomes of it with: hodei job get {id}"));
            Ok(Ended::Left)
        }
    }
}

/// Shows output and changes until the job has ended and its output was shown.
async fn follow(server: &Server, id: &str, screen: &Screen) -> Result<Ended, Failure> {
    let progress = AtomicU64::new(0);
    let output = Follower::new(server, screen, id, Position::START, true).run(&progress);
    let terminal = std::io::stderr().is_terminal();
    let (waiting, mut told) = (Waiting::default(), None);
    let state = watch(server, id, |job| {
        waiting.turn(job);
        if terminal && told.replace(job.state()) != Some(job.state()) {
            tell(job);
        }
        Ok(())
    });
    let explain = waiting.explain(note);
    tokio::pin!(output, state, explain);
    let job = tokio::select! {
        never = &mut explain => match never {},
        job = &mut state => job?,
        shown = &mut output => {
            shown?;
            return Ok(Ended::Job(Box::new(state.await?)));
        }
    };
    loop {
        let before = progress.load(Ordering::Relaxed);
        match timeout(SILENCE, &mut output).await {
            Ok(shown) => break shown?,
            Err(_) if progress.load(Ordering::Relaxed) != before => {}
            Err(_) => break note("the job has ended, but its output did not; some may be missing"),
        }
    }
    Ok(Ended::Job(Box::new(job)))
}

/// Says on a terminal what is waited for.
fn tell(job: &v1::Job) {
    let id = &job.id;
    match job.state() {
        JobState::Queued if job.attempts.is_empty() => note(&format!("job {id} is queued")),
        JobState::Queued => note(&format!("job {id} is queued again: {}", job.reason)),
        JobState::Starting => note("a worker is starting"),
        JobState::Running => note("running"),
        JobState::Cancelling => note("cancelling"),
        _ => {}
    }
}

/// The exit code of a finished job; what is not the command's own doing is said on stderr.
fn conclude(job: &v1::Job) -> u8 {
    let outcome = job.outcome.clone().and_then(|outcome| Outcome::try_from(outcome).ok());
    let because = if job.reason.is_empty() { String::new() } else { format!(": {}", job.reason) };
    match (job.state(), &outcome) {
        (JobState::TimedOut, _) => {
            note(&format!("job {} timed out{because}", job.id));
            TIMED_OUT
        }
        (JobState::Cancelled, _) => {
            note(&format!("job {} was cancelled{because}", job.id));
            INTERRUPTED
        }
        (_, Some(Outcome::Exited { code, out_of_memory: false })) => {
            u8::try_from(*code).unwrap_or(HODEI_FAILED)
        }
        (_, Some(outcome)) => {
            note(&format!("job {}: {outcome}{because}", job.id));
            u8::try_from(outcome.exit_code()).unwrap_or(HODEI_FAILED)
        }
        (_, None) => {
            note(&format!("job {} failed without a result{because}", job.id));
            HODEI_FAILED
        }
    }
}

/// Cancels a job; a finished one stays as it is.
pub(crate) async fn cancel(server: &Server, id: &str, reason: &str) -> Result<v1::Job, Failure> {
    let request = v1::CancelJobRequest { id: id.to_owned(), reason: reason.to_owned() };
    let jobs = server.jobs();
    let response = server.call(|| {
        let (mut jobs, request) = (jobs.clone(), request.clone());
        async move { jobs.cancel(request).await }
    });
    required(response.await?.job)
}

#[cfg(test)]
mod outside_input {
    use clap::Parser as _;
    use hodei_core::quantity::{parse_bytes, parse_cpu_millis};
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;
    use crate::args::{Cli, Command, JobCommand};

    const FLAGS: [&str; 14] = [
        "--name",
        "--env",
        "--label",
        "--working-directory",
        "--image",
        "--priority",
        "--cpu-request",
        "--cpu-limit",
        "--memory-request",
        "--memory-limit",
        "--timeout",
        "--queue-timeout",
        "--retries",
        "--infrastructure-retries",
    ];

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "[a-z0-9/=-]{0,9}",
            "-?[0-9]{1,20}(m|Mi|Gi|s|h)?",
            select(vec!["A=b", "/tmp", "1Gi", "500m", "90s", "3"]).prop_map(str::to_owned),
        ]
    }

    proptest! {
        #[test]
        fn any_flags_are_a_job_or_the_mistaken_one_is_named(
            flags in vec((select(&FLAGS[..]), text()), 0..4), argv in vec("\\PC{0,6}", 1..3),
        ) {
            let given = flags.iter().map(|(flag, text)| format!("{flag}={text}"));
            let words = ["hodei", "job", "run"].map(str::to_owned).into_iter().chain(given);
            let words = words.chain(["--".to_owned()]).chain(argv.clone());
            let cli = match Cli::try_parse_from(words) {
                Ok(cli) => cli,
                Err(error) => {
                    let text = error.to_string();
                    prop_assert!(FLAGS.iter().any(|flag| text.contains(flag)), "{text}");
                    return Ok(());
                }
            };
            let Command::Job(JobCommand::Run(args)) = cli.command else { panic!("another command") };
            let asked = args.job.timeout;
            match spec(args.job) {
                Ok(wire) => {
                    let job = JobSpec::try_from(wire).unwrap();
                    prop_assert_eq!(job.run, hodei_core::spec::Run::Command(argv));
                    prop_assert!(asked.is_none_or(|asked| job.timeouts.run == asked));
                    let resources = job.resources;
                    let cpus = [resources.cpu_request, resources.cpu_limit];
                    prop_assert!(cpus.iter().flatten().all(|text| parse_cpu_millis(text).is_ok()));
                    let sizes = [resources.memory_request, resources.memory_limit];
                    prop_assert!(sizes.iter().flatten().all(|text| parse_bytes(text).is_ok()));
                }
                Err(failure) => prop_assert!(failure.to_string().contains("spec"), "{failure}"),
            }
        }

        #[test]
        fn a_script_is_the_file_or_a_failure_that_names_it(bytes in prop_oneof![
            any::<Vec<u8>>(), any::<String>().prop_map(String::into_bytes),
        ]) {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &bytes).unwrap();
            match read_script(file.path()) {
                Ok(text) => prop_assert_eq!(text.into_bytes(), bytes),
                Err(failure) => {
                    prop_assert!(failure.to_string().contains(file.path().to_str().unwrap()));
                    prop_assert!(String::from_utf8(bytes).is_err());
                }
            }
        }
    }
}

//! `hodei job get|list|logs|watch|retry|cancel`.

use std::sync::atomic::AtomicU64;

use hodei_proto::v1;
use jiff::Timestamp;

use crate::{
    args::{Format, JobCommand, State},
    context::Context,
    failure::Failure,
    follow::{Follower, Position, get, required, watch},
    run,
    screen::{Screen, print},
    server::Server,
    view::{JobView, job_table, json, json_line},
};

/// Most jobs one call gives.
const PAGE: u32 = 500;

pub(crate) async fn execute(context: &Context, command: JobCommand) -> Result<u8, Failure> {
    // Each arm connects for itself, as a job that is not valid needs no server to be refused.
    let connect = || Server::connect(context);
    match command {
        JobCommand::Run(args) => return run::run(context, *args).await,
        JobCommand::Submit(args) => return run::submit(context, args.job).await,
        JobCommand::Get { id, output } => {
            let job = JobView::new(&get(&connect().await?, &id).await?);
            print(&match output.format {
                Format::Json => json(&job),
                Format::Table => job.describe(Timestamp::now()),
            })?;
        }
        JobCommand::List { state, limit, output } => {
            let jobs: Vec<_> =
                list(&connect().await?, &state, limit).await?.iter().map(JobView::new).collect();
            print(&match output.format {
                Format::Json => json(&serde_json::json!({ "jobs": jobs })),
                Format::Table => job_table(&jobs, Timestamp::now()),
            })?;
        }
        JobCommand::Logs { id, follow, from_sequence, from_attempt } => {
            let position = Position { epoch: from_attempt, sequence: from_sequence };
            logs(&connect().await?, &id, position, follow).await?;
        }
        JobCommand::Watch { id, output } => {
            watch(&connect().await?, &id, |job| {
                let job = JobView::new(job);
                print(&match output.format {
                    Format::Json => json_line(&job),
                    Format::Table => job.change(Timestamp::now()),
                })
            })
            .await?;
        }
        JobCommand::Retry { id, idempotency_key, output } => {
            let job = JobView::new(&retry(&connect().await?, &id, idempotency_key).await?);
            print(&match output.format {
                Format::Json => json(&job),
                Format::Table => job.describe(Timestamp::now()),
            })?;
        }
        JobCommand::Cancel { id, reason } => {
            let job = JobView::new(&run::cancel(&connect().await?, &id, &reason).await?);
            print(&job.describe(Timestamp::now()))?;
        }
    }
    Ok(0)
}

async fn logs(server: &Server, id: &str, position: Position, follow: bool) -> Result<(), Failure> {
    let (screen, progress) = (Screen::open(), AtomicU64::new(0));
    let shown = tokio::select! {
        shown = Follower::new(server, &screen, id, position, follow).run(&progress) => shown,
        () = screen.closed() => Err(Failure::OutputClosed),
    };
    shown.and(screen.finish().await)
}

/// Runs a job again. A key of our own, if none is given, makes it safe to ask again when no answer came.
async fn retry(server: &Server, id: &str, key: Option<String>) -> Result<v1::Job, Failure> {
    let idempotency_key = key.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let request = v1::RetryJobRequest { id: id.to_owned(), idempotency_key };
    let jobs = server.jobs();
    let response = server.call(|| {
        let (mut jobs, request) = (jobs.clone(), request.clone());
        async move { jobs.retry(request).await }
    });
    required(response.await?.job)
}

async fn list(server: &Server, states: &[State], limit: u32) -> Result<Vec<v1::Job>, Failure> {
    let (mut jobs, mut page_token) = (Vec::new(), String::new());
    let states: Vec<i32> = states.iter().map(|&state| v1::JobState::from(state).into()).collect();
    let client = server.jobs();
    loop {
        let left = limit.saturating_sub(u32::try_from(jobs.len()).unwrap_or(u32::MAX));
        let request =
            v1::ListJobsRequest { states: states.clone(), page_size: left.min(PAGE), page_token };
        let page = server.call(|| {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.list(request).await }
        });
        let page = page.await?;
        let came = page.jobs.len();
        jobs.extend(page.jobs.into_iter().take(left as usize));
        page_token = page.next_page_token;
        if page_token.is_empty() || came == 0 || jobs.len() >= limit as usize {
            return Ok(jobs);
        }
    }
}

impl From<State> for v1::JobState {
    fn from(state: State) -> Self {
        match state {
            State::Queued => Self::Queued,
            State::Starting => Self::Starting,
            State::Running => Self::Running,
            State::Cancelling => Self::Cancelling,
            State::Succeeded => Self::Succeeded,
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
            State::TimedOut => Self::TimedOut,
        }
    }
}

//! Running a finished job again, priorities, and draining workers.

use std::fmt::Display;

use hodei_core::{id::JobId, provider::WorkerSpec, spec::JobSpec};
use hodei_proto::v1::{
    Job, JobState, RetryJobRequest, attempt_outcome::How, server_message::Message,
};
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::{
    agent::Agent,
    postgres::create_database,
    running::{Running, http},
};
use crate::store::jobs::Submitted;

async fn retry(server: &Running, id: &str, key: &str) -> Result<Job, Status> {
    let request = RetryJobRequest { id: id.to_owned(), idempotency_key: key.to_owned() };
    server.jobs().await.retry(request).await.map(|answer| answer.into_inner().job.unwrap())
}

/// Takes the next worker's attempt through to an end.
async fn run_through(server: &mut Running, code: i32) -> WorkerSpec {
    let worker = server.next_worker().await;
    let (_agent, mut link, attempt) = Agent::begin(server, &worker).await;
    link.print(&attempt, 1..=1).await;
    link.end(&attempt, How::ExitCode(code), 1).await;
    assert!(link.await_result_ack().await);
    worker
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_job_runs_again_under_the_next_epoch() {
    let mut server = Running::start(&[]).await;
    let id = server.submit(&JobSpec::command(["true"])).await;
    run_through(&mut server, 3).await;
    let failed = server.await_job(id, JobState::Failed).await;
    let queued = retry(&server, &id.to_string(), "again").await.unwrap();
    assert_eq!((queued.state(), queued.reason.as_str()), (JobState::Queued, ""));
    assert!(queued.version == failed.version + 1 && queued.outcome.is_none());
    assert!(queued.finished_at.is_none() && queued.started_at.is_none());
    let worker = run_through(&mut server, 0).await;
    assert_eq!(worker.attempt.unwrap().epoch.0, 2);
    let job = server.await_job(id, JobState::Succeeded).await;
    let ends: Vec<_> =
        job.attempts.iter().map(|a| a.outcome.as_ref().unwrap().how.clone()).collect();
    assert_eq!(ends, [Some(How::ExitCode(3)), Some(How::ExitCode(0))]);
    // The same key is the same retry, whatever became of the job since; another one is refused.
    let again = retry(&server, &id.to_string(), "again").await.unwrap();
    assert_eq!((again.version, again.state()), (job.version, JobState::Succeeded));
    let refused = retry(&server, &id.to_string(), "other").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("a success stands"), "{refused}");
    assert_eq!(server.read_output(id, true).await, "line 1\nline 1\n", "both attempts are told");
    server.await_cleared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_active_an_unknown_and_a_malformed_job_are_not_retried() {
    let mut server = Running::start(&[]).await;
    let id = server.submit(&JobSpec::command(["true"])).await;
    server.next_worker().await;
    for (id, key, code, part) in [
        (id.to_string(), "", Code::FailedPrecondition, "is starting"),
        (JobId::new().to_string(), "", Code::NotFound, "no job"),
        ("nonsense".to_owned(), "", Code::InvalidArgument, "nonsense"),
        (id.to_string(), "a\nb", Code::InvalidArgument, "idempotency_key"),
    ] {
        let status = retry(&server, &id, key).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(part), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_retries_at_once_one_queues_the_job() {
    let server = Running::start(&[]).await;
    server.world.refuse_next(hodei_core::failure::FailureCause::Admission);
    let id = server.submit(&JobSpec::command(["true"])).await;
    let failed = server.await_job(id, JobState::Failed).await;
    let id = id.to_string();
    let tries = (0..8).map(|n| retry(&server, &id, if n < 4 { "one" } else { "" }));
    let results = futures::future::join_all(tries).await;
    let queued = |job: &Job| job.state() == JobState::Queued && job.version == failed.version + 1;
    assert!(results.iter().flatten().any(queued), "{results:?}");
    let events: i64 = sqlx::query_scalar("SELECT count(*) FROM job_events WHERE event = 'retried'")
        .fetch_one(&server.server.app.store.pool)
        .await
        .unwrap();
    assert_eq!(events, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_result_of_the_attempt_before_is_refused_after_a_retry() {
    let mut server = Running::start(&[]).await;
    let id = server.submit(&JobSpec::command(["true"])).await;
    let worker = server.next_worker().await;
    let (_agent, mut link, attempt) = Agent::begin(&server, &worker).await;
    server.await_job(id, JobState::Running).await;
    server.cancel(id).await;
    link.await_message(|message| matches!(message, Message::Cancel(_)).then_some(())).await;
    link.end(&attempt, How::Cancelled(true), 0).await;
    assert!(link.await_result_ack().await);
    server.await_job(id, JobState::Cancelled).await;
    retry(&server, &id.to_string(), "").await.unwrap();
    let second = server.next_worker().await;
    assert_eq!(second.attempt.unwrap().epoch.0, 2);
    // The first agent's success is the first attempt's business, which has ended.
    link.end(&attempt, How::ExitCode(0), 0).await;
    link.await_result_ack().await;
    assert_eq!(server.await_job(id, JobState::Starting).await.outcome, None);
}

#[tokio::test]
async fn the_queue_is_ordered_by_priority_and_then_by_age() {
    let database = create_database().await;
    let store = database.store().await;
    let mut submitted = Vec::new();
    for priority in [0, -1000, 7, 0, 1000, 7] {
        let mut spec = JobSpec::command(["true"]);
        spec.priority = priority;
        let Submitted::New(job) = store.submit(&spec, None, "c").await.unwrap() else { panic!() };
        submitted.push(job.id);
    }
    let due: Vec<_> = store.due_jobs(10).await.unwrap().iter().map(|job| job.id).collect();
    assert_eq!(due, [4, 2, 5, 0, 3, 1].map(|index: usize| submitted[index]));
    // The order is the index's: no row beyond the limit is read or sorted.
    let plan: Vec<String> = sqlx::query_scalar(
        "EXPLAIN SELECT * FROM jobs WHERE state = 'queued' AND not_before <= now()
         ORDER BY priority DESC, submitted_at, id LIMIT 5",
    )
    .fetch_all(&mut *without_sorting(&store).await)
    .await
    .unwrap();
    let plan = plan.join("\n");
    assert!(plan.contains("jobs_due") && !plan.contains("Sort"), "{plan}");
}

/// A connection whose planner takes an index where there is one, however few rows there are.
async fn without_sorting(
    store: &crate::store::Store,
) -> sqlx::pool::PoolConnection<sqlx::Postgres> {
    let mut connection = store.pool.acquire().await.unwrap();
    sqlx::query("SET enable_seqscan = off").execute(&mut *connection).await.unwrap();
    connection
}

/// Has a worker drained; the status of the answer, and how the worker is shown in it.
pub(super) async fn drain(server: &Running, worker: impl Display) -> (u16, Value) {
    let url = server.url(&format!("/api/workers/{worker}/drain"));
    let answer = http().post(url).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// A worker was told to go. It may be gone before that is answered.
pub(super) fn assert_leaving(worker: &Value) {
    let leaving = [json!("terminating"), json!("terminated")];
    assert!(leaving.contains(&worker["state"]), "{worker}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_finishes_its_job_and_leaves() {
    let mut server = Running::start(&[]).await;
    let id = server.submit(&JobSpec::command(["true"])).await;
    let worker = server.next_worker().await;
    let (_agent, mut link, attempt) = Agent::begin(&server, &worker).await;
    server.await_job(id, JobState::Running).await;
    for _ in 0..2 {
        let (status, shown) = drain(&server, worker.worker).await;
        assert_eq!((status, &shown["state"]), (200, &json!("draining")), "{shown}");
    }
    link.end(&attempt, How::ExitCode(0), 0).await;
    assert!(link.await_result_ack().await);
    link.await_message(|message| matches!(message, Message::Shutdown(_)).then_some(())).await;
    assert_eq!(server.await_job(id, JobState::Succeeded).await.attempts.len(), 1);
    server.await_cleared().await;
    assert_eq!(drain(&server, worker.worker).await.1["state"], "terminated");
    assert_eq!(drain(&server, JobId::new()).await.0, 404);
    assert_eq!(drain(&server, "nonsense").await.0, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_drained_before_it_has_its_job_gives_it_back() {
    let mut server = Running::start(&[]).await;
    let mut spec = JobSpec::command(["true"]);
    spec.retry.infrastructure = 0;
    let id = server.submit(&spec).await;
    let first = server.next_worker().await;
    let (status, shown) = drain(&server, first.worker).await;
    assert_eq!((status, &shown["reason"]), (200, &json!("drained")), "{shown}");
    assert_leaving(&shown);
    let second = run_through(&mut server, 0).await;
    assert_eq!((second.attempt.unwrap().job, second.attempt.unwrap().epoch.0), (id, 2));
    let job = server.await_job(id, JobState::Succeeded).await;
    assert!(job.attempts[0].reason.contains("drained"), "{:?}", job.attempts);
    server.await_cleared().await;
}

//! A job's whole way: submitted, run by a scripted agent over gRPC, finished, cleared up.

use std::time::Duration;

use hodei_core::spec::JobSpec;
use hodei_proto::v1::{JobState, attempt_outcome::How, server_message::Message};
use sqlx::Row;

use super::{
    agent::{Agent, lines},
    running::Running,
};

#[tracing_test::traced_test]
#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_from_submission_to_clean_up() {
    let mut server = Running::start(&[]).await;
    let mut spec = JobSpec::command(["sh", "-c", "echo 0xARGUMENT; exit 3"]);
    spec.env.insert("PASSWORD".into(), "0xENVIRONMENT".into());
    let id = server.submit(&spec).await;
    let worker = server.next_worker().await;
    assert_eq!(worker.attempt.unwrap().job, id);
    let (agent, mut link, attempt) = Agent::begin(&server, &worker).await;
    link.print(&attempt, 1..=3).await;
    // It is to be seen while the job runs, before anything is acknowledged.
    server.await_job(id, JobState::Running).await;
    link.end(&attempt, How::ExitCode(3), 3).await;
    assert!(link.await_result_ack().await);
    link.await_message(|message| matches!(message, Message::Shutdown(_)).then_some(())).await;
    let job = server.await_job(id, JobState::Failed).await;
    assert_eq!(job.outcome.unwrap().how, Some(How::ExitCode(3)));
    assert_eq!(server.read_output(id, true).await, lines(1..=3));
    server.await_cleared().await;
    assert_eq!(*server.world.destroyed.lock().unwrap(), [worker.worker]);
    assert_eq!(*server.world.discarded.lock().unwrap(), [worker.worker]);
    let row = sqlx::query("SELECT state, exit_code FROM jobs")
        .fetch_one(&server.server.app.store.pool)
        .await
        .unwrap();
    assert_eq!((row.get("state"), row.get("exit_code")), ("failed", 3));
    server.server.shut_down().await;
    // What tasks log is in no test's span: all that this process logged is searched, at every level.
    let logged = tracing_test::internal::global_buf().lock().unwrap().clone();
    let logged = String::from_utf8_lossy(&logged);
    assert!(logged.contains("result taken"));
    for secret in [worker.otp.expose(), &agent.hello.session_token, "0xARGUMENT", "0xENVIRONMENT"] {
        let line = logged.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "a secret was logged: {line:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_worker_is_kept_for_as_long_as_its_provider_says() {
    let mut server = Running::start(&[]).await;
    *server.world.kept.lock().unwrap() = Some(Duration::from_millis(1500));
    let id = server.submit(&JobSpec::command(["true"])).await;
    let worker = server.next_worker().await;
    let (_agent, mut link, attempt) = Agent::begin(&server, &worker).await;
    link.end(&attempt, How::ExitCode(0), 0).await;
    assert!(link.await_result_ack().await);
    server.await_job(id, JobState::Succeeded).await;
    // One that had no result is not kept.
    let lost = server.submit(&JobSpec::command(["true"])).await;
    let other = server.next_worker().await;
    server.cancel(lost).await;
    server.await_cleared().await;
    assert_eq!(*server.world.destroyed.lock().unwrap(), [other.worker, worker.worker]);
    let row = sqlx::query(
        "SELECT extract(epoch FROM w.terminated_at - a.finished_at)::float8 AS kept
         FROM workers w JOIN attempts a ON a.worker_id = w.id WHERE a.state = 'finished'",
    );
    let row = row.fetch_one(&server.server.app.store.pool).await.unwrap();
    let kept: f64 = row.get("kept");
    assert!(kept >= 1.5, "it was kept for {kept} s only");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_seen_before_the_job_ends() {
    let mut server = Running::start(&[]).await;
    let id = server.submit(&JobSpec::command(["true"])).await;
    let worker = server.next_worker().await;
    let (_agent, mut link, attempt) = Agent::begin(&server, &worker).await;
    link.print(&attempt, 1..=2).await;
    super::await_some("the output", async || match server.read_output(id, false).await {
        output if output == lines(1..=2) => Ok(()),
        other => Err(other),
    })
    .await;
    // A result is not taken before its last frame is there.
    link.end(&attempt, How::ExitCode(0), 3).await;
    link.print(&attempt, 3..=3).await;
    assert!(link.await_result_ack().await);
    server.await_job(id, JobState::Succeeded).await;
    assert_eq!(server.read_output(id, true).await, lines(1..=3));
    server.await_cleared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_is_cancelled_by_its_agent() {
    let mut server = Running::start(&[]).await;
    let id = server.submit(&JobSpec::command(["sleep", "100"])).await;
    let worker = server.next_worker().await;
    let (_agent, mut link, attempt) = Agent::begin(&server, &worker).await;
    server.await_job(id, JobState::Running).await;
    assert_eq!(server.cancel(id).await.state(), JobState::Cancelling);
    let told = link.await_message(|message| match message {
        Message::Cancel(cancel) => Some(cancel),
        _ => None,
    });
    assert_eq!(told.await.attempt.unwrap(), attempt);
    link.end(&attempt, How::Cancelled(true), 0).await;
    assert!(link.await_result_ack().await);
    let job = server.await_job(id, JobState::Cancelled).await;
    assert_eq!(server.cancel(id).await.version, job.version, "cancelling again changes nothing");
    server.await_cleared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_starts_is_cancelled_at_once() {
    let mut server = Running::start(&[]).await;
    let id = server.submit(&JobSpec::command(["true"])).await;
    server.next_worker().await;
    assert_eq!(server.cancel(id).await.state(), JobState::Cancelled);
    server.await_cleared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_runs_too_long_is_stopped_and_timed_out() {
    let mut server = Running::start(&[]).await;
    let mut spec = JobSpec::command(["sleep", "100"]);
    spec.timeouts.run = std::time::Duration::from_millis(100);
    let id = server.submit(&spec).await;
    let worker = server.next_worker().await;
    let (_agent, mut link, attempt) = Agent::begin(&server, &worker).await;
    link.await_message(|message| matches!(message, Message::Cancel(_)).then_some(())).await;
    link.end(&attempt, How::Cancelled(true), 0).await;
    server.await_job(id, JobState::TimedOut).await;
    server.await_cleared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_no_provider_can_run_fails_with_the_reason() {
    let server = Running::start(&[]).await;
    let mut spec = JobSpec::command(["true"]);
    spec.resources.cpu_request = Some("999".into());
    let id = server.submit(&spec).await;
    let job = server.await_job(id, JobState::Failed).await;
    assert_eq!(job.reason, "no provider can run it: fake: no node has 999 cores");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_room_waits_and_says_why() {
    let mut server = Running::start(&[]).await;
    *server.world.full.lock().unwrap() = Some("quota \"q\" has 0 of 3 pods left".to_owned());
    let id = server.submit(&JobSpec::command(["true"])).await;
    let waiting = super::await_some("a reason to wait", || async {
        let job = server.job(id).await;
        if job.reason.is_empty() { Err(format!("{job:?}")) } else { Ok(job) }
    });
    let job = waiting.await;
    assert_eq!(job.state(), JobState::Queued);
    assert_eq!(job.reason, "waiting: fake: quota \"q\" has 0 of 3 pods left");
    *server.world.full.lock().unwrap() = None;
    server.next_worker().await;
    super::await_some("a start without a reason to wait", || async {
        let job = server.job(id).await;
        let started = job.state() == JobState::Starting && job.reason.is_empty();
        if started { Ok(()) } else { Err(format!("{job:?}")) }
    })
    .await;
}

//! What goes wrong on the way: lost links, lost workers, restarts, full quotas, late words.

use hodei_core::{
    failure::{Failure, FailureCause},
    id::JobId,
    provider::{WorkerPhase, WorkerSpec},
    spec::JobSpec,
};
use hodei_proto::v1::{AttemptRef, JobState, attempt_outcome::How, server_message::Message};

use super::{
    agent::{Agent, Link, lines},
    fake::NODE,
    running::Running,
};

/// A job that a first agent runs.
async fn running(more: &[&str]) -> (Running, JobId, Agent, Link, AttemptRef) {
    let mut server = Running::start(more).await;
    let id = server.submit(&JobSpec::command(["true"])).await;
    let worker = server.next_worker().await;
    let (agent, link, attempt) = Agent::begin(&server, &worker).await;
    server.await_job(id, JobState::Running).await;
    (server, id, agent, link, attempt)
}

/// The second attempt of a job runs through.
async fn finish_second(server: &mut Running, id: JobId) -> WorkerSpec {
    let worker = server.next_worker().await;
    let mut agent = Agent::register(server, &worker).await;
    let (mut link, attempt) = agent.take_work().await;
    assert_eq!((attempt.job_id.clone(), attempt.epoch), (id.to_string(), 2));
    link.start(&attempt).await;
    link.print(&attempt, 1..=1).await;
    link.end(&attempt, How::ExitCode(0), 1).await;
    assert!(link.await_result_ack().await);
    server.await_job(id, JobState::Succeeded).await;
    server.await_cleared().await;
    worker
}

async fn await_acknowledged(link: &mut Link, wanted: u64) {
    let pick = |message| match message {
        Message::LogAck(ack) if ack.sequence >= wanted => Some(()),
        _ => None,
    };
    link.await_message(pick).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_restart_loses_neither_the_job_nor_a_line() {
    let (server, id, mut agent, mut link, attempt) = running(&[]).await;
    link.print(&attempt, 1..=5).await;
    await_acknowledged(&mut link, 5).await;
    let server = server.restart().await;
    agent.follow_to(&server).await;
    let (mut link, welcome) = agent.try_open(Some(attempt.clone())).await.unwrap();
    assert!(!welcome.attempt_revoked && welcome.acked_sequence == 5, "{welcome:?}");
    // An agent that had no acknowledgement of the last ones sends them again.
    link.print(&attempt, 4..=9).await;
    link.end(&attempt, How::ExitCode(0), 9).await;
    assert!(link.await_result_ack().await);
    server.await_job(id, JobState::Succeeded).await;
    assert_eq!(server.read_output(id, true).await, lines(1..=9));
    server.await_cleared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_stream_ends_the_first_and_a_repeated_result_is_taken_once() {
    let (server, id, mut agent, mut first, attempt) = running(&[]).await;
    let (mut second, _) = agent.try_open(Some(attempt.clone())).await.unwrap();
    let over = loop {
        if let Err(status) = first.try_next().await {
            break status;
        }
    };
    assert_eq!(over.code(), tonic::Code::Unavailable);
    second.end(&attempt, How::ExitCode(0), 0).await;
    assert!(second.await_result_ack().await);
    second.end(&attempt, How::ExitCode(1), 0).await;
    assert!(second.await_result_ack().await, "it need not be sent again");
    let job = server.await_job(id, JobState::Succeeded).await;
    assert_eq!(job.outcome.unwrap().how, Some(How::ExitCode(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_worker_is_replaced_and_its_late_result_refused() {
    let (mut server, id, _agent, mut link, attempt) = running(&[]).await;
    let worker = server.server.app.store.list_workers(false, None, 1).await.unwrap()[0].id;
    let failure = Failure { cause: FailureCause::NodeLost, message: "node-1 is gone".into() };
    server.world.turn(worker, WorkerPhase::Failed(failure));
    server.await_job(id, JobState::Queued).await;
    link.end(&attempt, How::ExitCode(0), 0).await;
    assert!(!link.await_result_ack().await);
    assert_eq!(finish_second(&mut server, id).await.avoid_nodes, [NODE]);
    let query = "SELECT count(*) FROM audit_events WHERE kind = 'result_refused' AND epoch = 1";
    let refused: i64 =
        sqlx::query_scalar(query).fetch_one(&server.server.app.store.pool).await.unwrap();
    assert_eq!(refused, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_worker_loses_its_lease() {
    let (mut server, id, _agent, link, _) =
        running(&["--heartbeat-seconds", "0.2", "--lease-seconds", "1"]).await;
    drop(link);
    server.await_job(id, JobState::Queued).await;
    finish_second(&mut server, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_deleted_by_somebody_else_is_replaced() {
    let (mut server, id, _agent, _link, _) = running(&[]).await;
    let worker = server.server.app.store.list_workers(false, None, 1).await.unwrap()[0].id;
    server.world.turn(worker, WorkerPhase::Gone);
    server.await_job(id, JobState::Queued).await;
    finish_second(&mut server, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_quota_is_waited_for_without_using_an_attempt_up() {
    let mut server = Running::start(&[]).await;
    server.world.refuse_next(FailureCause::Quota);
    let mut spec = JobSpec::command(["true"]);
    spec.retry.infrastructure = 0;
    let id = server.submit(&spec).await;
    finish_second(&mut server, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_worker_fails_the_job_with_the_cause() {
    let server = Running::start(&[]).await;
    server.world.refuse_next(FailureCause::Admission);
    let id = server.submit(&JobSpec::command(["true"])).await;
    let job = server.await_job(id, JobState::Failed).await;
    assert_eq!(job.reason, "admission: as the test wants");
    server.await_cleared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_never_registers_times_out() {
    let mut server = Running::start(&[]).await;
    let mut spec = JobSpec::command(["true"]);
    spec.timeouts.startup = std::time::Duration::from_millis(300);
    spec.retry.infrastructure = 0;
    let id = server.submit(&spec).await;
    server.next_worker().await;
    let job = server.await_job(id, JobState::TimedOut).await;
    assert!(job.reason.contains("did not register in time; last seen: Running"), "{}", job.reason);
    server.await_cleared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_shows_the_output_and_cancels_the_job() {
    let (server, id, _agent, mut link, attempt) = running(&[]).await;
    let replica = server.start_replica().await;
    link.print(&attempt, 1..=3).await;
    super::await_some("the output", async || match replica.read_output(id, false).await {
        output if output == lines(1..=3) => Ok(()),
        other => Err(other),
    })
    .await;
    replica.cancel(id).await;
    link.await_message(|message| matches!(message, Message::Cancel(_)).then_some(())).await;
    link.print(&attempt, 4..=5).await;
    link.end(&attempt, How::Cancelled(true), 5).await;
    assert!(link.await_result_ack().await);
    replica.await_job(id, JobState::Cancelled).await;
    assert_eq!(replica.read_output(id, true).await, lines(1..=5));
    server.await_cleared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_agent_moves_to_another_replica() {
    let (server, id, mut agent, mut link, attempt) = running(&[]).await;
    let replica = server.start_replica().await;
    link.print(&attempt, 1..=3).await;
    await_acknowledged(&mut link, 3).await;
    agent.follow_to(&replica).await;
    let (mut moved, welcome) = agent.try_open(Some(attempt.clone())).await.unwrap();
    assert_eq!(welcome.acked_sequence, 3);
    moved.print(&attempt, 4..=6).await;
    await_acknowledged(&mut moved, 6).await;
    // What the stale stream still sends is not stored a second time, and ends it.
    link.print(&attempt, 4..=6).await;
    while link.try_next().await.is_ok_and(|message| message.is_some()) {}
    moved.end(&attempt, How::ExitCode(0), 6).await;
    assert!(moved.await_result_ack().await);
    server.await_job(id, JobState::Succeeded).await;
    assert_eq!(server.read_output(id, true).await, lines(1..=6));
}

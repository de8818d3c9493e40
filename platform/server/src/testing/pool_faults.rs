//! What goes wrong with pooled workers: lost links, restarts, losses, drains.

use std::time::Duration;

use hodei_core::{
    failure::{Failure, FailureCause},
    id::WorkerId,
    provider::WorkerPhase,
};
use hodei_proto::{
    timestamp,
    v1::{
        Draining, Heartbeat, JobState, agent_message::Message as Say, attempt_outcome::How,
        server_message::Message,
    },
};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::{
    agent::{Agent, Link, lines},
    pool::{await_idle, count, idle, job, second_runs, workers},
    retry::{assert_leaving, drain},
    running::{PATIENCE, Running},
};

async fn only_worker(server: &Running) -> WorkerId {
    workers(server).await[0]["id"].as_str().unwrap().parse().unwrap()
}

async fn await_shutdown(link: &mut Link) {
    link.await_message(|message| matches!(message, Message::Shutdown(_)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_outlives_a_restart_of_the_server() {
    let (server, _, mut agent, _link, _) = idle(json!({"maximum": 1}), &[]).await;
    let server = server.restart().await;
    agent.follow_to(&server).await;
    let (mut link, welcome) = agent.try_open(None).await.unwrap();
    assert!(!welcome.attempt_revoked);
    let next = server.submit(&job()).await;
    let attempt = link.await_assignment().await;
    link.run_through(&attempt, 2).await;
    server.await_job(next, JobState::Succeeded).await;
    assert_eq!(server.read_output(next, true).await, lines(1..=2));
    assert_eq!(count(&server, "SELECT count(*) FROM workers").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_of_a_pooled_worker_outlives_a_restart_of_the_server() {
    let (server, [_, second], mut agent, link, [_, attempt]) = second_runs(&[]).await;
    link.print(&attempt, 1..=2).await;
    let server = server.restart().await;
    agent.follow_to(&server).await;
    let (mut link, welcome) = agent.try_open(Some(attempt.clone())).await.unwrap();
    assert!(!welcome.attempt_revoked);
    link.print(&attempt, welcome.acked_sequence + 1..=4).await;
    link.end(&attempt, How::ExitCode(0), 4).await;
    assert!(link.await_result_ack().await);
    server.await_job(second, JobState::Succeeded).await;
    assert_eq!(server.read_output(second, true).await, lines(1..=4));
    let third = server.submit(&job()).await;
    let attempt = link.await_assignment().await;
    assert_eq!(attempt.job_id, third.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_given_while_the_link_is_down_is_told_once_it_is_up() {
    let (server, _, mut agent, link, _) = idle(json!({"maximum": 1}), &[]).await;
    drop(link);
    let next = server.submit(&job()).await;
    server.await_job(next, JobState::Starting).await;
    let (link, attempt) = agent.take_work().await;
    assert_eq!(attempt.job_id, next.to_string());
    // Its assignment may have got lost with the link: it is told again, as long as nothing runs.
    drop(link);
    let (mut link, again) = agent.take_work().await;
    assert_eq!(again, attempt);
    link.run_through(&attempt, 1).await;
    server.await_job(next, JobState::Succeeded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_missed_the_word_of_its_result_goes_on() {
    let (server, first, mut agent, link, ended) = idle(json!({"maximum": 1}), &[]).await;
    drop(link);
    // Nothing else to do: it says its result again, and only then gets the next job.
    let (mut link, welcome) = agent.try_open(Some(ended.clone())).await.unwrap();
    assert!(!welcome.attempt_revoked);
    let second = server.submit(&job()).await;
    server.await_job(second, JobState::Starting).await;
    link.end(&ended, How::ExitCode(5), 3).await;
    assert!(link.await_result_ack().await);
    let attempt = link.await_assignment().await;
    link.run_through(&attempt, 1).await;
    drop(link);
    // The next one waits already: what is held is over.
    let third = server.submit(&job()).await;
    server.await_job(third, JobState::Starting).await;
    let (mut link, welcome) = agent.try_open(Some(attempt)).await.unwrap();
    assert!(welcome.attempt_revoked);
    let attempt = link.await_assignment().await;
    assert_eq!(attempt.job_id, third.to_string());
    link.run_through(&attempt, 1).await;
    for id in [first, second, third] {
        assert_eq!(server.await_job(id, JobState::Succeeded).await.attempts.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_stream_on_another_server_gives_nothing_away() {
    let (server, _, mut agent, mut stale, _) = idle(json!({"maximum": 1}), &[]).await;
    let replica = server.start_replica().await;
    agent.follow_to(&replica).await;
    let (mut link, _) = agent.try_open(None).await.unwrap();
    for _ in 0..5 {
        let next = server.submit(&job()).await;
        let attempt = link.await_assignment().await;
        assert_eq!(attempt.job_id, next.to_string());
        link.run_through(&attempt, 1).await;
    }
    let over = loop {
        match stale.try_next().await {
            Ok(Some(message)) => assert!(!matches!(message, Message::Assignment(_))),
            over => break over,
        }
    };
    assert_eq!(over.err().map(|status| status.code()), Some(tonic::Code::Aborted));
    replica.server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_a_pooled_worker_charges_its_present_job_alone() {
    let (mut server, [first, second], ..) = second_runs(&[]).await;
    let failure = Failure { cause: FailureCause::NodeLost, message: "node-1 is gone".into() };
    server.world.turn(only_worker(&server).await, WorkerPhase::Failed(failure));
    let worker = server.next_worker().await;
    let mut agent = Agent::register(&server, &worker).await;
    let (mut link, attempt) = agent.take_work().await;
    assert_eq!((attempt.job_id.clone(), attempt.epoch), (second.to_string(), 2));
    link.run_through(&attempt, 1).await;
    server.await_job(second, JobState::Succeeded).await;
    assert_eq!(server.job(first).await.attempts.len(), 1);
    let charged = "SELECT sum(infrastructure_failures) FROM jobs";
    assert_eq!(count(&server, charged).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_idle_worker_was_gone_is_given_back_at_no_cost() {
    let (mut server, _, _agent, link, _) = idle(json!({"maximum": 1}), &[]).await;
    drop(link);
    let mut spec = job();
    spec.retry.infrastructure = 0;
    let id = server.submit(&spec).await;
    server.await_job(id, JobState::Starting).await;
    server.world.turn(only_worker(&server).await, WorkerPhase::Gone);
    let worker = server.next_worker().await;
    let mut agent = Agent::register(&server, &worker).await;
    let (mut link, attempt) = agent.take_work().await;
    link.run_through(&attempt, 1).await;
    assert_eq!(server.await_job(id, JobState::Succeeded).await.attempts.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_that_falls_silent_is_destroyed_and_charges_nobody() {
    let times = ["--heartbeat-seconds", "0.2", "--lease-seconds", "1"];
    let (server, first, _agent, link, _) = idle(json!({"maximum": 1}), &times).await;
    drop(link);
    server.await_cleared().await;
    assert_eq!(server.job(first).await.attempts.len(), 1);
    let why = "SELECT count(*) FROM workers WHERE reason = 'nothing was heard of it'";
    assert_eq!(count(&server, why).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_keep_an_idle_worker() {
    let times = ["--heartbeat-seconds", "0.2", "--lease-seconds", "1"];
    let (server, _, _agent, mut link, _) = idle(json!({"maximum": 1}), &times).await;
    let registered = std::time::Instant::now();
    while registered.elapsed() < Duration::from_secs(3) {
        link.say(Say::Heartbeat(Default::default())).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    server.submit(&job()).await;
    link.await_assignment().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_of_a_worker_is_told() {
    let times = ["--heartbeat-seconds", "0.2", "--lease-seconds", "1"];
    let (server, _, _agent, link, _) = idle(json!({"maximum": 1}), &times).await;
    let begun = std::time::Instant::now();
    let offset = loop {
        let time = Some(timestamp(Timestamp::now() + SignedDuration::from_secs(90)));
        link.say(Say::Heartbeat(Heartbeat { time })).await;
        if let Some(offset) = workers(&server).await[0]["clock_offset_ms"].as_i64() {
            break offset;
        }
        assert!(begun.elapsed() < PATIENCE, "nothing was said of it");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!((80_000..=90_000).contains(&offset), "{offset} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_is_drained_at_once_and_a_busy_one_after_its_job() {
    let (server, _, _agent, mut link, _) = idle(json!({"maximum": 1}), &[]).await;
    // It goes without a job of its own: there is nothing to keep it for.
    *server.world.kept.lock().unwrap() = Some(Duration::from_secs(600));
    let (_, shown) = drain(&server, only_worker(&server).await).await;
    assert_leaving(&shown);
    await_shutdown(&mut link).await;
    server.await_cleared().await;

    let (server, [_, second], _agent, mut link, [_, attempt]) = second_runs(&[]).await;
    let (_, shown) = drain(&server, only_worker(&server).await).await;
    assert_eq!(shown["state"], "draining", "{shown}");
    link.end(&attempt, How::ExitCode(0), 0).await;
    assert!(link.await_result_ack().await);
    await_shutdown(&mut link).await;
    assert_eq!(server.await_job(second, JobState::Succeeded).await.attempts.len(), 1);
    server.await_cleared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_leaves_by_itself_takes_no_more() {
    let leaving = || Say::Draining(Draining { reason: "SIGTERM".into() });
    let (server, _, _agent, mut link, _) = idle(json!({"maximum": 1}), &[]).await;
    link.say(leaving()).await;
    await_shutdown(&mut link).await;
    server.await_cleared().await;

    let (server, [_, second], _agent, mut link, [_, attempt]) = second_runs(&[]).await;
    link.say(leaving()).await;
    link.end(&attempt, How::ExitCode(0), 0).await;
    assert!(link.await_result_ack().await);
    await_shutdown(&mut link).await;
    server.await_job(second, JobState::Succeeded).await;
    server.await_cleared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_lost_its_running_job_ends_with_it() {
    let (server, [_, second], mut agent, link, _) = second_runs(&[]).await;
    drop(link);
    let (mut link, _) = agent.try_open(None).await.unwrap();
    await_shutdown(&mut link).await;
    let job = server.await_job(second, JobState::Queued).await;
    assert!(job.attempts[0].reason.contains("without the attempt"), "{job:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_job_of_an_idle_worker_that_never_had_one_is_its_first() {
    let mut server = Running::start_pooled(json!({"minimum": 1, "maximum": 1}), &[]).await;
    let worker = server.next_worker().await;
    let mut agent = Agent::register(&server, &worker).await;
    let (mut link, _) = agent.try_open(None).await.unwrap();
    await_idle(&server).await;
    for _ in 0..2 {
        let id = server.submit(&job()).await;
        let attempt = link.await_assignment().await;
        assert_eq!((attempt.job_id.clone(), attempt.epoch), (id.to_string(), 1));
        link.run_through(&attempt, 1).await;
        server.await_job(id, JobState::Succeeded).await;
    }
}

//! Pooled workers: one job after another on one worker.

use hodei_core::{id::JobId, spec::JobSpec};
use hodei_proto::v1::{AttemptRef, JobState, attempt_outcome::How, server_message::Message};
use serde_json::{Value, json};

use super::{
    agent::{Agent, Link, lines},
    running::{Running, http},
};

pub(super) fn job() -> JobSpec {
    JobSpec::command(["true"])
}

/// A server whose pool has one worker, which has run a first job and is idle.
pub(super) async fn idle(pool: Value, more: &[&str]) -> (Running, JobId, Agent, Link, AttemptRef) {
    let mut server = Running::start_pooled(pool, more).await;
    let id = server.submit(&job()).await;
    let worker = server.next_worker().await;
    let mut agent = Agent::register(&server, &worker).await;
    let (mut link, attempt) = agent.take_work().await;
    link.run_through(&attempt, 3).await;
    server.await_job(id, JobState::Succeeded).await;
    (server, id, agent, link, attempt)
}

/// As [`idle`], with a second job that runs.
pub(super) async fn second_runs(
    more: &[&str],
) -> (Running, [JobId; 2], Agent, Link, [AttemptRef; 2]) {
    let (server, first, agent, mut link, ended) = idle(json!({"maximum": 1}), more).await;
    let second = server.submit(&job()).await;
    let attempt = link.await_assignment().await;
    assert_eq!((attempt.job_id.clone(), attempt.epoch), (second.to_string(), 1));
    link.start(&attempt).await;
    server.await_job(second, JobState::Running).await;
    (server, [first, second], agent, link, [ended, attempt])
}

pub(super) async fn workers(server: &Running) -> Vec<Value> {
    let answer = http().get(server.url("/api/workers")).send().await.unwrap();
    answer.json::<Value>().await.unwrap()["workers"].as_array().unwrap().clone()
}

pub(super) async fn count(server: &Running, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(&server.server.app.store.pool).await.unwrap()
}

/// The one worker once it is idle.
pub(super) async fn await_idle(server: &Running) {
    super::await_some("an idle worker", async || match workers(server).await.as_slice() {
        [one] if one["idle_since"].is_string() => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
}

/// As a heartbeat does, which happens to come with the job.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_that_is_held_for_a_moment_is_waited_for() {
    let (server, _, _agent, mut link, _) = idle(json!({"maximum": 2}), &[]).await;
    await_idle(&server).await;
    let mut beat = server.server.app.store.pool.begin().await.unwrap();
    sqlx::query("UPDATE workers SET lease_until = lease_until").execute(&mut *beat).await.unwrap();
    let job = server.submit(&job()).await;
    super::await_some("a claim that waits", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND wait_event_type = 'Lock' AND query LIKE 'SELECT w.id, w.provider%'";
        let made = "SELECT count(*) FROM workers";
        match (count(&server, waiting).await, count(&server, made).await) {
            (1, 1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    beat.commit().await.unwrap();
    let attempt = link.await_assignment().await;
    assert_eq!(attempt.job_id, job.to_string());
    assert_eq!(count(&server, "SELECT count(*) FROM workers").await, 1, "no other was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_jobs_run_on_one_worker_one_after_the_other() {
    let (server, [first, second], _agent, mut link, [_, attempt]) = second_runs(&[]).await;
    let shown = workers(&server).await.remove(0);
    assert_eq!((&shown["state"], &shown["job_id"]), (&json!("busy"), &json!(second)), "{shown}");
    assert_eq!((&shown["pooled"], &shown["idle_since"]), (&json!(true), &json!(null)), "{shown}");
    link.print(&attempt, 1..=2).await;
    link.end(&attempt, How::ExitCode(7), 2).await;
    assert!(link.await_result_ack().await);
    let failed = server.await_job(second, JobState::Failed).await;
    assert_eq!(server.read_output(first, true).await, lines(1..=3));
    assert_eq!(server.read_output(second, true).await, lines(1..=2));
    let one = server.job(first).await.attempts.remove(0).worker_id;
    assert_eq!(failed.attempts[0].worker_id, one);
    await_idle(&server).await;
    let shown = workers(&server).await.remove(0);
    assert_eq!((&shown["state"], &shown["jobs_done"]), (&json!("ready"), &json!(2)), "{shown}");
    assert_eq!((&shown["job_id"], server.world.count()), (&json!(null), 1), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_worker_outlives_the_jobs_it_may_take() {
    let pool = json!({"maximum": 1, "maximum_age_seconds": 5000});
    let mut server = Running::start_pooled(pool, &[]).await;
    server.submit(&job()).await;
    let worker = server.next_worker().await;
    assert_eq!(worker.env.get("HODEI_WORKER_POOLED").map(String::as_str), Some("1"));
    assert_eq!((worker.attempt, worker.image), (None, None), "it is no job's own");
    assert!(worker.deadline.unwrap().as_secs() >= 2 * 5000, "{:?}", worker.deadline);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_wants_something_of_its_own_gets_a_worker_of_its_own() {
    let pool = json!({"maximum": 1, "maximum_age_seconds": 5000});
    let (mut server, ..) = idle(pool, &[]).await;
    let mut own_image = job();
    own_image.image = Some("own:1".into());
    let mut own_memory = job();
    own_memory.resources.memory_limit = Some("1Gi".into());
    let mut long = job();
    long.timeouts.run = std::time::Duration::from_secs(4900);
    for spec in [own_image, own_memory, long] {
        let id = server.submit(&spec).await;
        let worker = server.next_worker().await;
        assert_eq!(worker.attempt.map(|attempt| attempt.job), Some(id));
        assert!(!worker.env.contains_key("HODEI_WORKER_POOLED") && worker.image == spec.image);
        let (_agent, mut link, attempt) = Agent::begin(&server, &worker).await;
        link.end(&attempt, How::ExitCode(0), 0).await;
        assert!(link.await_result_ack().await);
        link.await_message(|message| matches!(message, Message::Shutdown(_)).then_some(())).await;
        server.await_job(id, JobState::Succeeded).await;
    }
    await_idle(&server).await;
    super::await_some("only the pool's worker", async || match server.world.count() {
        1 => Ok(()),
        seen => Err(seen.to_string()),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_ended_attempt_still_says_is_refused_and_changes_nothing() {
    let (server, [first, second], _agent, mut link, [ended, attempt]) = second_runs(&[]).await;
    let before = server.job(first).await;
    link.print(&ended, 1..=9).await;
    link.end(&ended, How::ExitCode(1), 9).await;
    assert!(!link.await_result_ack().await);
    let refused = "SELECT count(*) FROM audit_events
        WHERE kind IN ('result_refused', 'logs_refused') AND reason = 'not its attempt'";
    assert_eq!(count(&server, refused).await, 2);
    assert_eq!(server.job(first).await, before);
    assert_eq!(server.read_output(first, true).await, lines(1..=3));
    assert_eq!(server.job(second).await.state(), JobState::Running);
    link.print(&attempt, 1..=1).await;
    link.end(&attempt, How::ExitCode(0), 1).await;
    assert!(link.await_result_ack().await);
    server.await_job(second, JobState::Succeeded).await;
    assert_eq!(server.read_output(second, true).await, lines(1..=1));
    await_idle(&server).await;
    // An idle worker says nothing for its last job either.
    link.print(&attempt, 2..=2).await;
    super::await_some("the refusal", async || match count(&server, refused).await {
        3 => Ok(()),
        seen => Err(seen.to_string()),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_for_a_worker_of_a_full_pool_and_says_so() {
    let (server, _, _agent, mut link, [_, attempt]) = second_runs(&[]).await;
    let third = server.submit(&job()).await;
    super::await_some("a reason to wait", async || {
        let job = server.job(third).await;
        let said = job.reason == "waiting: for a worker of the pool of fake";
        if said && job.state() == JobState::Queued { Ok(()) } else { Err(format!("{job:?}")) }
    })
    .await;
    link.end(&attempt, How::ExitCode(0), 0).await;
    let next = link.await_assignment().await;
    assert_eq!(next.job_id, third.to_string());
    assert_eq!(server.await_job(third, JobState::Starting).await.reason, "");
    link.run_through(&next, 1).await;
    assert_eq!(server.await_job(third, JobState::Succeeded).await.attempts.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_of_a_pooled_worker_is_cancelled_alone() {
    let (server, [_, second], _agent, mut link, [_, attempt]) = second_runs(&[]).await;
    for (id, attempt) in [(second, attempt), (server.submit(&job()).await, AttemptRef::default())] {
        let attempt = match attempt.epoch {
            0 => {
                let next = link.await_assignment().await;
                link.start(&next).await;
                server.await_job(id, JobState::Running).await;
                next
            }
            _ => attempt,
        };
        server.cancel(id).await;
        let told = link.await_message(|message| match message {
            Message::Cancel(cancel) => cancel.attempt,
            _ => None,
        });
        assert_eq!(told.await, attempt);
        link.end(&attempt, How::Cancelled(true), 0).await;
        assert!(link.await_result_ack().await);
        server.await_job(id, JobState::Cancelled).await;
    }
    await_idle(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_cancelled_before_its_agent_heard_of_it_leaves_the_worker_idle() {
    let (server, _, mut agent, link, _) = idle(json!({"maximum": 1}), &[]).await;
    drop(link);
    let unseen = server.submit(&job()).await;
    server.await_job(unseen, JobState::Starting).await;
    assert_eq!(server.cancel(unseen).await.state(), JobState::Cancelled);
    await_idle(&server).await;
    let third = server.submit(&job()).await;
    let (mut link, attempt) = agent.take_work().await;
    assert_eq!(attempt.job_id, third.to_string());
    link.run_through(&attempt, 1).await;
    server.await_job(third, JobState::Succeeded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pool_is_measured() {
    let mut server =
        Running::start_with("measured", &[], "", json!({"minimum": 1, "maximum": 2})).await;
    let url = server.url("/metrics");
    let shown = async |state: &str| {
        let text = http().get(&url).send().await.unwrap().text().await.unwrap();
        let line = format!("hodei_pool_workers{{provider=\"measured\",state=\"{state}\"}} 1");
        if text.lines().any(|text| text == line) { Ok(()) } else { Err(text) }
    };
    super::await_some("a starting worker", async || shown("starting").await).await;
    let worker = server.asked_for.recv().await.unwrap();
    let mut agent = Agent::register(&server, &worker).await;
    super::await_some("an idle worker", async || shown("idle").await).await;
    server.submit(&job()).await;
    let _link = agent.take_work().await;
    super::await_some("a busy worker", async || shown("busy").await).await;
}

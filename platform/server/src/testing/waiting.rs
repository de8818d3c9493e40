//! What a waiting job says it waits for, and the stages that are measured.

use std::time::Duration;

use hodei_core::{
    failure::FailureCause,
    id::JobId,
    provider::{WorkerPhase, WorkerSpec},
    spec::JobSpec,
};
use hodei_proto::v1::{JobState, WatchJobRequest, attempt_outcome::How};

use super::{
    agent::Agent,
    running::{PATIENCE, Running, http},
};

/// The job once its reason is as wanted, by watching it; every reason seen on the way.
async fn await_reason(server: &Running, id: JobId, wanted: &str) -> Vec<String> {
    let request = WatchJobRequest { id: id.to_string() };
    let mut changes = server.jobs().await.watch(request).await.unwrap().into_inner();
    let mut seen = Vec::new();
    let watching = async {
        while let Some(change) = changes.message().await.unwrap() {
            seen.push(change.job.unwrap().reason);
            if seen.last().is_some_and(|reason| reason == wanted) {
                return true;
            }
        }
        false
    };
    let found = tokio::time::timeout(PATIENCE, watching).await.unwrap_or(false);
    assert!(found, "the reason never was {wanted:?}; seen: {seen:?}");
    seen
}

async fn reason_changes(server: &Running, id: JobId) -> Vec<(i64, String)> {
    sqlx::query_as(
        "SELECT version, reason FROM job_events
         WHERE job_id = $1 AND event = 'reason_changed' AND from_state = to_state ORDER BY version",
    )
    .bind(id.as_uuid())
    .fetch_all(&server.server.app.store.pool)
    .await
    .unwrap()
}

/// The count of a histogram of `stage` at the provider of this server.
async fn count(server: &Running, stage: &str) -> u64 {
    let text = http().get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let provider = &server.provider;
    let line =
        format!("hodei_worker_stage_seconds_count{{provider=\"{provider}\",stage=\"{stage}\"}} ");
    let found = text.lines().find_map(|text| text.strip_prefix(line.as_str()));
    found.map_or(0, |count| count.parse().unwrap())
}

async fn finish(server: &Running, id: JobId, worker: &WorkerSpec) {
    let (_agent, mut link, attempt) = Agent::begin(server, worker).await;
    assert_eq!(server.await_job(id, JobState::Running).await.reason, "", "it waits for nothing");
    link.end(&attempt, How::ExitCode(0), 0).await;
    assert!(link.await_result_ack().await);
    assert_eq!(server.await_job(id, JobState::Succeeded).await.reason, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_stage_moves_its_histogram_once() {
    let mut server = Running::start_as("stages", &[]).await;
    server.world.refuse_next(FailureCause::Quota);
    server.world.refuse_next(FailureCause::Quota);
    let id = server.submit(&JobSpec::command(["true"])).await;
    let worker = server.next_worker().await;
    super::await_some("the creation", async || match count(&server, "quota").await {
        1 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
    assert_eq!(count(&server, "connect").await, 0);
    let mut agent = Agent::register(&server, &worker).await;
    assert_eq!((count(&server, "connect").await, count(&server, "register").await), (1, 0));
    let (link, attempt) = agent.take_work().await;
    assert_eq!(count(&server, "register").await, 1);
    // A second session of the same agent is no second start.
    drop(link);
    let (mut link, _) = agent.try_open(Some(attempt.clone())).await.unwrap();
    link.end(&attempt, How::ExitCode(0), 0).await;
    assert!(link.await_result_ack().await);
    server.await_job(id, JobState::Succeeded).await;
    for stage in ["quota", "connect", "register"] {
        assert_eq!(count(&server, stage).await, 1, "{stage}");
    }
    let text = http().get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(text.contains("# HELP hodei_worker_stage_seconds"));
    // Two refusals are at least two pauses: the first counts from the beginning.
    let sum = "hodei_worker_stage_seconds_sum{provider=\"stages\",stage=\"quota\"} ";
    let sum: f64 = text.lines().find_map(|line| line.strip_prefix(sum)).unwrap().parse().unwrap();
    assert!((3.0..30.0).contains(&sum), "{sum}");
    let hour = "stage=\"quota\",le=\"3600\"} 1";
    assert!(text.contains(hour), "the buckets reach to an hour: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_says_that_it_waits_for_a_quota_until_it_has_a_worker() {
    let mut server = Running::start(&[]).await;
    server.world.refuse_next(FailureCause::Quota);
    let first = server.submit(&JobSpec::command(["true"])).await;
    await_reason(&server, first, "waiting: quota: as the test wants").await;
    // However slow this test runs, the pause outlasts it.
    let registry = &server.server.app.registry;
    registry.pause(&"fake".parse().unwrap(), Duration::from_secs(600));
    let second = server.submit(&JobSpec::command(["true"])).await;
    await_reason(&server, second, "waiting: quota: no room for more at fake").await;
    registry.resume(&"fake".parse().unwrap());
    for _ in 0..2 {
        let worker = server.next_worker().await;
        let id = worker.attempt.unwrap().job;
        await_reason(&server, id, "").await;
        finish(&server, id, &worker).await;
    }
    let texts = |changes: Vec<(i64, String)>| changes.into_iter().map(|(_, reason)| reason);
    let second: Vec<_> = texts(reason_changes(&server, second).await).collect();
    assert_eq!(second, ["waiting: quota: no room for more at fake", ""], "once each");
    // The words of the refusal stay until a worker is there: through the pause and the next try.
    assert_eq!(texts(reason_changes(&server, first).await).collect::<Vec<_>>(), [""]);
    let tried: String = sqlx::query_scalar(
        "SELECT reason FROM job_events WHERE job_id = $1 AND event = 'attempt_created' AND epoch = 2",
    )
    .bind(first.as_uuid())
    .fetch_one(&server.server.app.store.pool)
    .await
    .unwrap();
    assert_eq!(tried, "waiting: quota: as the test wants");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_worker_that_is_cleared_up_makes_no_room() {
    let mut server = Running::start(&[]).await;
    server.world.refuse_next(FailureCause::Quota);
    let begun = std::time::Instant::now();
    let id = server.submit(&JobSpec::command(["true"])).await;
    let worker = server.next_worker().await;
    assert_eq!(worker.attempt.unwrap().epoch.0, 2);
    // The provider is left alone for 2 s; the job's own pause alone is 0.5 s.
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    finish(&server, id, &worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_says_what_its_worker_waits_for() {
    let mut server = Running::start(&[]).await;
    let id = server.submit(&JobSpec::command(["true"])).await;
    let worker = server.next_worker().await;
    server.world.turn(worker.worker, WorkerPhase::Pending);
    await_reason(&server, id, "worker pending: it is on no node yet").await;
    let version = server.job(id).await.version;
    // This provider's workers run as soon as they are made: that may have been told before.
    let told = reason_changes(&server, id).await.len();
    server.world.turn(worker.worker, WorkerPhase::Starting);
    let starting = "worker starting on node node-1: its image or its container is not ready yet";
    await_reason(&server, id, starting).await;
    // More of the same is no news, whoever looks.
    for _ in 0..20 {
        server.world.turn(worker.worker, WorkerPhase::Starting);
        let key = worker.attempt.unwrap();
        server.server.app.store.note_starting(key, starting).await.unwrap();
    }
    server.world.turn(worker.worker, WorkerPhase::Running);
    await_reason(&server, id, "worker running on node node-1: its agent has not registered yet")
        .await;
    let job = server.job(id).await;
    assert_eq!((job.version, job.state()), (version + 2, JobState::Starting));
    finish(&server, id, &worker).await;
    assert_eq!(reason_changes(&server, id).await.len(), told + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quick_job_writes_no_reason() {
    let mut server = Running::start(&[]).await;
    let id = server.submit(&JobSpec::command(["true"])).await;
    let worker = server.next_worker().await;
    finish(&server, id, &worker).await;
    assert_eq!(reason_changes(&server, id).await, []);
    // submitted, attempt_created, attempt_running, finished.
    assert_eq!(server.job(id).await.version, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_says_that_there_is_no_provider() {
    let mut server = Running::start(&[]).await;
    let removed = http().delete(server.url("/api/providers/fake")).send().await.unwrap();
    assert_eq!(removed.status(), 204);
    super::await_some("the provider to be gone", async || match server.server.app.registry.all() {
        left if left.is_empty() => Ok(()),
        left => Err(left.len().to_string()),
    })
    .await;
    let mut spec = JobSpec::command(["true"]);
    spec.timeouts.queue = Duration::from_secs(60);
    let id = server.submit(&spec).await;
    await_reason(&server, id, "waiting: no provider is connected").await;
    let body = serde_json::json!({"type": "fake", "name": "fake"});
    assert_eq!(server.post("/api/providers", &body).await.0, 201);
    let worker = server.next_worker().await;
    finish(&server, id, &worker).await;
}

//! How many pooled workers there are: minimum, maximum, idle time, age, and removal.

use std::{collections::HashSet, time::Duration};

use hodei_core::{
    failure::FailureCause,
    id::ProviderId,
    provider::{WorkerPhase, WorkerSpec},
    secret::{Secret, SecretHash},
};
use hodei_proto::v1::{JobState, server_message::Message};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use super::{
    agent::Agent,
    pool::{await_idle, count, idle, job, workers},
    postgres::create_database,
    running::{Running, http},
};
use crate::{
    pool::Pool,
    store::{Store, pool::Idle},
};

/// An agent that takes one job after another until it is told to leave.
async fn work(mut agent: Agent) {
    let (mut link, _) = agent.try_open(None).await.unwrap();
    loop {
        match link.next().await {
            Message::Assignment(given) => link.run_through(&given.attempt.unwrap(), 1).await,
            Message::Shutdown(_) => return,
            _ => {}
        }
    }
}

async fn await_idle_workers(server: &Running, wanted: usize) -> Vec<Value> {
    super::await_some("idle workers", async || {
        let seen = workers(server).await;
        let idle = seen.iter().filter(|worker| worker["idle_since"].is_string()).count();
        if (idle, seen.len()) == (wanted, wanted) { Ok(seen) } else { Err(format!("{seen:?}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_minimum_is_kept_and_refilled_after_a_loss() {
    let mut server = Running::start_pooled(json!({"minimum": 2, "maximum": 3}), &[]).await;
    let made = [server.next_worker().await, server.next_worker().await];
    let mut links = Vec::new();
    for worker in &made {
        links.push(Agent::register(&server, worker).await.try_open(None).await.unwrap());
    }
    await_idle_workers(&server, 2).await;
    server.world.turn(made[0].worker, WorkerPhase::Gone);
    let third = server.next_worker().await;
    Agent::register(&server, &third).await;
    await_idle_workers(&server, 2).await;
    let jobs = "SELECT count(*) FROM jobs";
    assert_eq!((count(&server, jobs).await, server.world.count()), (0, 2));
    assert!(server.asked_for.try_recv().is_err(), "no more than the minimum are made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_be_made_is_tried_again_after_growing_pauses() {
    let server = Running::start_pooled(json!({"maximum": 1}), &[]).await;
    for _ in 0..20 {
        server.world.refuse_next(FailureCause::Admission);
    }
    let set = http().put(server.url("/api/providers/fake/pool"));
    let set = set.json(&json!({"minimum": 1, "maximum": 1})).send().await.unwrap();
    assert_eq!(set.status(), 200);
    let begun = std::time::Instant::now();
    super::await_some("four failures", async || {
        match count(&server, "SELECT pool_failures::bigint FROM providers").await {
            4.. => Ok(()),
            seen => Err(seen.to_string()),
        }
    })
    .await;
    // 1 s, 2 s and 4 s lie between them.
    assert!(begun.elapsed() >= Duration::from_millis(6900), "{:?}", begun.elapsed());
    assert_eq!(count(&server, "SELECT count(*) FROM workers").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_quota_pauses_the_filling_of_a_pool() {
    let mut server = Running::start_pooled(json!({"maximum": 1}), &[]).await;
    server.world.refuse_next(FailureCause::Quota);
    let begun = std::time::Instant::now();
    let pool = Pool::from_json(&json!({"minimum": 1, "maximum": 1})).unwrap();
    server.server.app.store.set_pool(&"fake".parse().unwrap(), Some(pool)).await.unwrap();
    server.next_worker().await;
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_jobs_at_two_servers_never_pass_the_maximum() {
    let mut server = Running::start_pooled(json!({"minimum": 1, "maximum": 4}), &[]).await;
    let replica = server.start_replica().await;
    let spec = job();
    let jobs = futures::future::join_all((0..20).map(|number| match number % 2 {
        0 => server.submit(&spec),
        _ => replica.submit(&spec),
    }))
    .await;
    let mut made: HashSet<_> = HashSet::new();
    let mut agents = tokio::task::JoinSet::new();
    while count(&server, "SELECT count(*) FROM jobs WHERE state <> 'succeeded'").await > 0 {
        let next = tokio::time::timeout(Duration::from_millis(50), server.asked_for.recv()).await;
        let Ok(Some(WorkerSpec { worker, .. })) = &next else { continue };
        made.insert(*worker);
        assert!(made.len() <= 4, "{made:?}");
        agents
            .spawn(work(Agent::register(&server, next.as_ref().unwrap().as_ref().unwrap()).await));
    }
    for id in jobs {
        assert_eq!(replica.await_job(id, JobState::Succeeded).await.attempts.len(), 1);
    }
    assert!(count(&server, "SELECT count(*) FROM workers").await <= 4);
    assert_eq!(count(&server, "SELECT sum(jobs_done) FROM workers").await, 20);
    replica.server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_above_the_minimum_go_when_they_are_idle_for_long() {
    let pool = json!({"minimum": 1, "maximum": 3, "idle_seconds": 1});
    let mut server = Running::start_pooled(pool, &[]).await;
    let mut links = Vec::new();
    for _ in 0..3 {
        server.submit(&job()).await;
    }
    for _ in 0..3 {
        let worker = server.next_worker().await;
        let mut agent = Agent::register(&server, &worker).await;
        links.push((agent.take_work().await, agent));
    }
    for ((link, attempt), _) in &mut links {
        link.run_through(attempt, 1).await;
    }
    let seen = await_idle_workers(&server, 1).await;
    assert_eq!(seen[0]["jobs_done"], 1);
    super::await_some("their end", async || match server.world.count() {
        1 => Ok(()),
        seen => Err(seen.to_string()),
    })
    .await;
    let reason =
        "SELECT count(*) FROM workers WHERE reason = 'idle for longer than its pool keeps it'";
    assert_eq!(count(&server, reason).await, 2);
}

/// Idle workers in a database without a server, and a pool that wants none of them.
async fn idle_store(workers: usize) -> (super::postgres::TestDatabase, Store, ProviderId) {
    let database = create_database().await;
    let store = database.store().await;
    let provider: ProviderId = "p".parse().unwrap();
    let pool = Pool::from_json(&json!({"minimum": workers, "maximum": workers})).unwrap();
    store.add_provider(&provider, "fake", false, &json!({}), Some(pool)).await.unwrap();
    let otps: Vec<SecretHash> = (0..workers).map(|_| Secret::generate().hash()).collect();
    let made = store.tend_pool(&provider, &otps, Duration::from_secs(60)).await.unwrap().made;
    assert_eq!(made.len(), workers);
    let idle = "UPDATE workers SET state = 'ready', registered_at = now(), idle_since = now() - interval '1 hour',
        lease_until = now() + interval '1 hour'";
    sqlx::query(idle).execute(&store.pool).await.unwrap();
    let none = Pool::from_json(&json!({"maximum": workers, "idle_seconds": 1})).unwrap();
    store.set_pool(&provider, Some(none)).await.unwrap();
    (database, store, provider)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_to_go_is_never_given_a_job() {
    for _ in 0..5 {
        let (_database, store, provider) = idle_store(20).await;
        for _ in 0..10 {
            store.submit(&job(), None, "c").await.unwrap();
        }
        let claim = async {
            let mut given = 0;
            for job in store.due_jobs(10).await.unwrap() {
                let claimed = store.claim_idle(job.id, &["p"], Duration::from_secs(1)).await;
                given += usize::from(matches!(claimed.unwrap(), Idle::Given(_)));
            }
            given
        };
        let tend = async {
            let begun = store.tend_pool(&provider, &[], Duration::from_secs(60)).await;
            begun.unwrap().retired
        };
        let close = store.set_pool(&provider, None);
        let (given, retired, closed) = tokio::join!(claim, tend, close);
        closed.unwrap();
        let both = "SELECT count(*) FROM attempts a JOIN workers w ON w.id = a.worker_id
            WHERE w.state <> 'busy' OR w.destroy_after IS NOT NULL";
        let both: i64 = sqlx::query_scalar(both).fetch_one(&store.pool).await.unwrap();
        assert_eq!(both, 0, "{given} were given, {retired} retired");
    }
}

#[tokio::test]
async fn a_worker_that_may_not_last_is_given_nothing() {
    let (_database, store, _) = idle_store(1).await;
    store.submit(&job(), None, "c").await.unwrap();
    let id = store.due_jobs(1).await.unwrap()[0].id;
    let heard = Duration::from_secs(15);
    let fresh = "UPDATE workers SET state = 'ready', idle_since = now(), created_at = now(),
        lease_until = now() + interval '30 seconds'";
    for spoilt in [
        "lease_until = now() + interval '14 seconds'",
        "created_at = now() - interval '86401 seconds'",
        "state = 'draining'",
        "idle_since = NULL",
    ] {
        sqlx::query(fresh).execute(&store.pool).await.unwrap();
        let spoil = AssertSqlSafe(format!("UPDATE workers SET {spoilt}"));
        sqlx::query(spoil).execute(&store.pool).await.unwrap();
        let found = store.claim_idle(id, &["p"], heard).await.unwrap();
        assert!(matches!(found, Idle::None), "{spoilt}: {found:?}");
    }
    sqlx::query(fresh).execute(&store.pool).await.unwrap();
    assert!(matches!(store.claim_idle(id, &["p"], heard).await.unwrap(), Idle::Given(_)));
    assert!(matches!(store.claim_idle(id, &["p"], heard).await.unwrap(), Idle::NotQueued));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_worker_is_given_two_jobs() {
    let (database, store, _) = idle_store(5).await;
    for _ in 0..20 {
        store.submit(&job(), None, "c").await.unwrap();
    }
    let mut claimers = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let store = database.store().await;
        claimers.spawn(async move {
            for job in store.due_jobs(20).await.unwrap() {
                store.claim_idle(job.id, &["p"], Duration::from_secs(1)).await.unwrap();
            }
        });
    }
    claimers.join_all().await;
    let given = "SELECT count(*), count(DISTINCT worker_id) FROM attempts";
    let given: (i64, i64) = sqlx::query_as(given).fetch_one(&store.pool).await.unwrap();
    assert_eq!(given, (5, 5));
    // The schema itself holds to it.
    let second =
        "INSERT INTO attempts (job_id, epoch, worker_id, provider, state, startup_deadline)
        SELECT j.id, 1, a.worker_id, 'p', 'provisioning', now() FROM attempts a,
            (SELECT id FROM jobs WHERE state = 'queued' LIMIT 1) j LIMIT 1";
    let refused = sqlx::query(second).execute(&store.pool).await.unwrap_err().to_string();
    assert!(refused.contains("attempts_one_open_of_worker"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_too_old_takes_no_job_and_is_replaced() {
    let pool = json!({"maximum": 2, "maximum_age_seconds": 5000});
    let (mut server, _, _agent, mut link, _) = idle(pool.clone(), &[]).await;
    let mut pool = Pool::from_json(&pool).unwrap();
    pool.minimum = 1;
    server.server.app.store.set_pool(&"fake".parse().unwrap(), Some(pool)).await.unwrap();
    let old = "UPDATE workers SET created_at = now() - interval '5001 seconds' WHERE jobs_done = 1";
    sqlx::query(AssertSqlSafe(old)).execute(&server.server.app.store.pool).await.unwrap();
    link.await_message(|message| matches!(message, Message::Shutdown(_)).then_some(())).await;
    let fresh = server.next_worker().await;
    Agent::register(&server, &fresh).await;
    let left = await_idle_workers(&server, 1).await;
    assert_eq!(left[0]["id"], json!(fresh.worker));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_changed_and_removed_with_its_idle_workers() {
    let (server, _, _agent, mut link, _) = idle(json!({"minimum": 1, "maximum": 1}), &[]).await;
    let url = server.url("/api/providers/fake/pool");
    let bad = json!({"minimum": 3, "maximum": 2, "size": 1});
    let bad = http().put(&url).json(&bad).send().await.unwrap();
    assert_eq!(bad.status(), 422);
    let problem: Value = bad.json().await.unwrap();
    assert_eq!(problem["mistakes"].as_array().unwrap().len(), 2, "{problem}");
    let set = http().put(&url).json(&json!({"minimum": 1, "maximum": 5})).send().await.unwrap();
    assert_eq!(set.status(), 200);
    let shown = http().get(server.url("/api/providers/fake")).send().await.unwrap();
    assert_eq!(shown.json::<Value>().await.unwrap()["pool"]["maximum"], 5);
    await_idle(&server).await;
    for _ in 0..2 {
        assert_eq!(http().delete(&url).send().await.unwrap().status(), 204);
    }
    link.await_message(|message| matches!(message, Message::Shutdown(_)).then_some(())).await;
    server.await_cleared().await;
    let none = server.url("/api/providers/none/pool");
    assert_eq!(http().delete(none).send().await.unwrap().status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_with_idle_workers_only_is_removed_with_them() {
    let (server, _, _agent, mut link, _) = idle(json!({"minimum": 1, "maximum": 1}), &[]).await;
    let url = server.url("/api/providers/fake");
    let running = server.submit(&job()).await;
    let attempt = link.await_assignment().await;
    assert_eq!(http().delete(&url).send().await.unwrap().status(), 409, "it has a job");
    link.run_through(&attempt, 1).await;
    server.await_job(running, JobState::Succeeded).await;
    await_idle(&server).await;
    assert_eq!(http().delete(&url).send().await.unwrap().status(), 204);
    server.await_cleared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_pool_is_refused_with_every_mistake_and_stores_nothing() {
    let server = Running::start(&[]).await;
    let body = json!({"type": "fake", "name": "p", "pool": {"minimum": "two", "idle_seconds": 0}});
    let (status, problem) = server.post("/api/providers", &body).await;
    assert_eq!(status, 422);
    let detail = problem["detail"].as_str().unwrap();
    for field in ["pool.minimum", "pool.maximum", "pool.idle_seconds"] {
        assert!(detail.contains(field), "{detail}");
    }
    assert_eq!(count(&server, "SELECT count(*) FROM providers").await, 1);
    let other = json!({"type": "fake", "name": "fake", "pool": {"maximum": 1}});
    assert_eq!(server.post("/api/providers", &other).await.0, 409);
}

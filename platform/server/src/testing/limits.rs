//! Limits, as clients and agents meet them.

use std::time::Instant;

use futures::future::join_all;
use hodei_core::{id::WorkerId, secret::Secret};
use hodei_proto::v1::{
    ListJobsRequest, RegisterRequest, job_service_client::JobServiceClient,
    worker_agent_service_client::WorkerAgentServiceClient,
};
use serde_json::Value;
use sqlx::Row;
use tonic::Code;
use tonic_types::StatusExt;

use super::running::{Running, http};

const STRICT: [&str; 4] = ["--requests-per-second", "1", "--request-burst", "5"];

#[tokio::test(flavor = "multi_thread")]
async fn a_rest_client_is_told_when_to_try_again_and_probes_always_pass() {
    let server = Running::start(&STRICT).await;
    let (client, url) = (http(), server.url("/api/jobs"));
    let answers = join_all((0..100).map(|_| client.get(&url).send())).await;
    let refused = answers.into_iter().map(Result::unwrap).find(|answer| answer.status() == 429);
    let refused = refused.expect("the budget must be used up");
    assert_eq!(refused.headers()["content-type"], "application/problem+json");
    let seconds: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(
        (&problem["status"], &problem["retry_after_seconds"]),
        (&429.into(), &seconds.into())
    );
    assert!((1..=2).contains(&seconds), "{problem}");
    for _ in 0..20 {
        for probe in ["/healthz", "/readyz"] {
            assert_eq!(http().get(server.url(probe)).send().await.unwrap().status(), 200);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_client_has_the_same_budget_and_agents_have_their_own() {
    let server = Running::start(&STRICT).await;
    let jobs = JobServiceClient::new(server.channel().await);
    let list = || {
        let mut jobs = jobs.clone();
        async move { jobs.list(ListJobsRequest::default()).await }
    };
    let answers = join_all((0..100).map(|_| list())).await;
    let refused = answers.into_iter().find_map(Result::err).expect("the budget must be used up");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let wait = refused.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(wait.as_secs() <= 1, "{wait:?}");
    assert!(refused.message().contains("try again in"), "{refused}");
    // A budget of its own would let five pass at once; a shared one gives one back a second.
    let (client, url, used_up) = (http(), server.url("/api/jobs"), Instant::now());
    let answers = join_all((0..20).map(|_| client.get(&url).send())).await;
    let passed = answers.into_iter().map(Result::unwrap).filter(|answer| answer.status() == 200);
    assert!(passed.count() as u64 <= used_up.elapsed().as_secs() + 2, "one budget for both");
    let mut agents = WorkerAgentServiceClient::new(server.channel().await);
    let guess = agents.register(guess(WorkerId::new())).await.unwrap_err();
    assert_eq!(guess.code(), Code::Unauthenticated, "agents are no clients");
}

fn guess(worker: WorkerId) -> RegisterRequest {
    RegisterRequest {
        worker_id: worker.to_string(),
        otp: Secret::generate().expose().to_owned(),
        protocol_version: hodei_core::PROTOCOL_VERSION,
        pod_uid: "0".repeat(36),
        agent_version: "0".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_passwords_is_slowed_down_and_does_not_fill_the_audit() {
    let server = Running::start(&[]).await;
    let agents = WorkerAgentServiceClient::new(server.channel().await);
    let guessed = WorkerId::new();
    let guess_at = |worker| {
        let mut agents = agents.clone();
        async move { agents.register(guess(worker)).await.unwrap_err().code() }
    };
    let codes = join_all((0..200).map(|_| guess_at(guessed))).await;
    assert!(codes.contains(&Code::Unauthenticated), "{codes:?}");
    let slowed = codes.iter().filter(|code| **code == Code::ResourceExhausted).count();
    assert!(slowed > 100, "{codes:?}");
    let others = join_all((0..300).map(|_| guess_at(WorkerId::new()))).await;
    let hindered = others.iter().find(|code| **code != Code::Unauthenticated);
    assert_eq!(hindered, None, "another worker is not hindered");
    let written = sqlx::query("SELECT count(*) AS n FROM audit_events")
        .fetch_one(&server.server.app.store.pool)
        .await
        .unwrap();
    let written: i64 = written.get("n");
    assert!((20..200).contains(&written), "{written} refusals were written down");
}

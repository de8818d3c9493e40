//! Who may register, as an agent meets it: over gRPC, against the database.

use hodei_core::{provider::WorkerSpec, secret::Secret, spec::JobSpec};
use hodei_proto::v1::{RegisterRequest, worker_agent_service_client::WorkerAgentServiceClient};
use sqlx::Row;
use tonic::{Code, Status};

use super::{
    agent::{Agent, registration},
    running::Running,
};

async fn try_register(server: &Running, request: RegisterRequest) -> Result<(), Status> {
    let mut client = WorkerAgentServiceClient::new(server.channel().await);
    client.register(request).await.map(drop)
}

async fn audited(server: &Running) -> Vec<String> {
    let rows = sqlx::query("SELECT reason FROM audit_events ORDER BY id")
        .fetch_all(&server.server.app.store.pool)
        .await
        .unwrap();
    rows.iter().map(|row| row.get("reason")).collect()
}

async fn two_workers() -> (Running, WorkerSpec, WorkerSpec) {
    let mut server = Running::start(&[]).await;
    for _ in 0..2 {
        server.submit(&JobSpec::command(["true"])).await;
    }
    let (one, other) = (server.next_worker().await, server.next_worker().await);
    (server, one, other)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_password_gets_the_same_answer_and_its_own_audit() {
    let (server, mine, other) = two_workers().await;
    type Change = Box<dyn Fn(&mut RegisterRequest)>;
    let foreign = other.otp.expose().to_owned();
    let table: [(&str, Change); 8] = [
        ("malformed", Box::new(|r| r.otp.clear())),
        ("malformed", Box::new(|r| r.otp = "a".repeat(100_000))),
        ("malformed", Box::new(|r| r.worker_id = "x".repeat(100_000))),
        ("malformed", Box::new(|r| r.pod_uid.clear())),
        ("wrong secret", Box::new(|r| r.otp = Secret::generate().expose().to_owned())),
        ("wrong secret", Box::new(move |r| r.otp = foreign.clone())),
        ("unknown worker", Box::new(|r| r.worker_id = uuid::Uuid::nil().to_string())),
        ("foreign pod", Box::new(|r| r.pod_uid = "another-pod".into())),
    ];
    let mut expected = Vec::new();
    for (reason, change) in &table {
        let mut request = registration(&mine);
        change(&mut request);
        let status = try_register(&server, request).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{reason}");
        assert_eq!(status.message(), "one-time password refused", "{reason}");
        expected.push(*reason);
    }
    assert_eq!(audited(&server).await, expected);
    // After all of that the right one still works, once.
    try_register(&server, registration(&mine)).await.unwrap();
    let replay = try_register(&server, registration(&mine)).await.unwrap_err();
    assert_eq!(replay.message(), "one-time password refused");
    assert_eq!(audited(&server).await.last().unwrap(), "replayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_password_is_refused() {
    let (server, mine, _) = two_workers().await;
    sqlx::query("UPDATE workers SET otp_expires_at = now() - interval '1 second' WHERE id = $1")
        .bind(mine.worker.as_uuid())
        .execute(&server.server.app.store.pool)
        .await
        .unwrap();
    let status = try_register(&server, registration(&mine)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(audited(&server).await, ["expired"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_agents_with_one_password_one_gets_in() {
    let (server, mine, _) = two_workers().await;
    let tries = (0..8).map(|_| try_register(&server, registration(&mine)));
    let results = futures::future::join_all(tries).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_version_is_told_both() {
    let (server, mine, _) = two_workers().await;
    let request = RegisterRequest { protocol_version: 99, ..registration(&mine) };
    let status = try_register(&server, request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("99") && status.message().contains(" 1"), "{status}");
    try_register(&server, registration(&mine)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_needs_its_token_and_its_pod() {
    let (server, mine, _) = two_workers().await;
    let mut agent = Agent::register(&server, &mine).await;
    let good = agent.hello.clone();
    agent.hello.session_token = Secret::generate().expose().to_owned();
    assert_eq!(agent.try_open(None).await.err().unwrap().code(), Code::Unauthenticated);
    agent.hello = good.clone();
    agent.hello.pod_uid = "another-pod".into();
    assert_eq!(agent.try_open(None).await.err().unwrap().code(), Code::Unauthenticated);
    assert_eq!(audited(&server).await, ["wrong secret", "foreign pod"]);
    agent.hello = good;
    agent.try_open(None).await.unwrap();
    // What the store keeps of both secrets is not the secrets.
    let row = sqlx::query("SELECT to_jsonb(workers)::text AS text FROM workers WHERE id = $1")
        .bind(mine.worker.as_uuid())
        .fetch_one(&server.server.app.store.pool)
        .await
        .unwrap();
    let text: String = row.get("text");
    assert!(!text.contains(mine.otp.expose()) && !text.contains(&agent.hello.session_token));
}

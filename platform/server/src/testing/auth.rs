//! The token of the API, as clients with and without it meet it.

use hodei_proto::v1::{
    ListJobsRequest, StreamLogsRequest, job_service_client::JobServiceClient,
    log_stream_service_client::LogStreamServiceClient,
};
use serde_json::Value;
use tonic::{Code, Request, metadata::MetadataValue};

use super::{
    agent::Agent,
    running::{Running, http},
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn with_token<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    request
}

async fn list(server: &Running, token: Option<&str>) -> Code {
    let mut jobs = JobServiceClient::new(server.channel().await);
    let listed = jobs.list(with_token(ListJobsRequest::default(), token)).await;
    listed.map_or_else(|status| status.code(), |_| Code::Ok)
}

async fn logs(server: &Running, token: Option<&str>) -> Code {
    let mut logs = LogStreamServiceClient::new(server.channel().await);
    let read = logs.stream(with_token(StreamLogsRequest::default(), token)).await;
    read.map_or_else(|status| status.code(), |_| Code::Ok)
}

async fn status(server: &Running, path: &str, token: Option<&str>) -> u16 {
    let mut request = http().get(server.url(path));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    if status == 401 {
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["status"], 401);
        assert!(!problem.to_string().contains(TOKEN));
    }
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_but_health_and_agents_needs_the_token() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{TOKEN}\n")).unwrap();
    let server = Running::with_token(file.path().to_str().unwrap(), TOKEN).await;
    let wrong = "0123456789abcdef0123456789abcdee";
    for token in [None, Some(wrong)] {
        assert_eq!(list(&server, token).await, Code::Unauthenticated, "{token:?}");
        assert_eq!(logs(&server, token).await, Code::Unauthenticated, "{token:?}");
        for path in ["/api/jobs", "/api/workers", "/api/providers", "/metrics", "/nothing"] {
            assert_eq!(status(&server, path, token).await, 401, "{path} {token:?}");
        }
        for path in ["/healthz", "/readyz"] {
            assert_eq!(status(&server, path, token).await, 200, "{path} {token:?}");
        }
    }
    assert_eq!(list(&server, Some(TOKEN)).await, Code::Ok);
    assert_eq!(logs(&server, Some(TOKEN)).await, Code::InvalidArgument, "it is let in");
    assert_eq!(status(&server, "/api/jobs", Some(TOKEN)).await, 200);
    assert_eq!(status(&server, "/nothing", Some(TOKEN)).await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_needs_no_token_beside_its_password() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), TOKEN).unwrap();
    let mut server = Running::with_token(file.path().to_str().unwrap(), TOKEN).await;
    let spec = hodei_core::spec::JobSpec::command(["true"]);
    server.server.app.store.submit(&spec, None, "c").await.unwrap();
    let worker = server.next_worker().await;
    let mut agent = Agent::register(&server, &worker).await;
    agent.take_work().await;
}

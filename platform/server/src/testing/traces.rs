//! Traces, as a collector gets them over OTLP.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hodei_core::spec::JobSpec;
use hodei_proto::v1::{
    JobState, SubmitJobRequest, attempt_outcome::How, job_service_client::JobServiceClient,
    server_message::Message,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use super::{
    agent::Agent,
    running::{Running, http},
};
use crate::trace::FLUSH_TIMEOUT;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector that keeps all it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Serves it on a free port; its URL.
    async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let collector = Self::default();
        let service = TraceServiceServer::new(collector.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        (collector, url)
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.0.lock().unwrap();
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    fn named(&self, name: &str) -> Span {
        let spans = self.spans();
        let mut found = spans.iter().filter(|span| span.name == name);
        let first = found.next().unwrap_or_else(|| panic!("no {name} in {spans:#?}"));
        assert!(found.next().is_none(), "{name} came twice: {spans:#?}");
        first.clone()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|found| found.value.clone()).and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{key} is {other:?} in {attributes:?}"),
    }
}

/// Submits as a client does that is traced itself.
async fn submit(server: &Running, flags: &str) -> String {
    let request = SubmitJobRequest {
        spec: Some((&JobSpec::command(["true"])).into()),
        correlation_id: "corr-1".to_owned(),
        ..Default::default()
    };
    let mut request = Request::new(request);
    let place = format!("00-{TRACE}-{PARENT}-{flags}");
    request.metadata_mut().insert("traceparent", place.parse().unwrap());
    let mut jobs = JobServiceClient::new(server.channel().await);
    jobs.submit(request).await.unwrap().into_inner().job.unwrap().id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_one_trace_over_a_restart() {
    let (collector, url) = Collector::start().await;
    let mut server = Running::start(&["--otlp-endpoint", &url]).await;
    let id = submit(&server, "01").await;
    let worker = server.next_worker().await;
    // The server that saw the submission is another one than the one that sees the end.
    let mut server = server.restart().await;
    let (_agent, mut link, attempt) = Agent::begin(&server, &worker).await;
    link.start(&attempt).await;
    server.await_job(id.parse().unwrap(), JobState::Running).await;
    link.end(&attempt, How::ExitCode(3), 0).await;
    assert!(link.await_result_ack().await);
    link.await_message(|message| matches!(message, Message::Shutdown(_)).then_some(())).await;
    server = server.restart().await;
    let submitted = collector.named("hodei.v1.JobService/Submit");
    assert_eq!(
        (hex(&submitted.trace_id), hex(&submitted.parent_span_id)),
        (TRACE.into(), PARENT.into())
    );
    assert_eq!(text(&submitted.attributes, "job_id"), id);
    assert_eq!(text(&submitted.attributes, "rpc.grpc.status_code"), "0");
    let whole = collector.named("attempt");
    assert_eq!(hex(&whole.trace_id), TRACE);
    assert_eq!(whole.parent_span_id, submitted.span_id);
    let below = |span: &Span| span.parent_span_id == whole.span_id;
    let mut phases: Vec<_> = collector.spans().into_iter().filter(below).collect();
    phases.sort_by_key(|phase| (phase.start_time_unix_nano, phase.end_time_unix_nano));
    let mut last = whole.start_time_unix_nano;
    for phase in &phases {
        for (key, value) in [
            ("job_id", id.clone()),
            ("epoch", "1".to_owned()),
            ("worker_id", worker.worker.to_string()),
            ("correlation_id", "corr-1".to_owned()),
            ("exit_code", "3".to_owned()),
        ] {
            assert_eq!(text(&phase.attributes, key), value);
        }
        assert_eq!(phase.start_time_unix_nano, last, "{} follows at once", phase.name);
        last = phase.end_time_unix_nano;
    }
    // Whether the worker was seen on a node before it registered is the watch's business.
    let names = phases.iter().map(|phase| phase.name.as_str());
    let names: Vec<_> = names.filter(|name| *name != "register").collect();
    assert_eq!(names, ["queue", "create worker", "assign", "run"]);
    assert_eq!(last, whole.end_time_unix_nano);
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_does_not_sample_is_not_sent_and_rest_has_spans_too() {
    let (collector, url) = Collector::start().await;
    let flags = ["--otlp-traces-endpoint", &url, "--otlp-endpoint", "http://x:1"];
    let mut server = Running::start(&flags).await;
    let id = submit(&server, "00").await;
    server.next_worker().await;
    let place = format!("00-{TRACE}-{PARENT}-01");
    let get = http().get(server.url(&format!("/api/jobs/{id}"))).header("traceparent", place);
    assert_eq!(get.send().await.unwrap().status(), 200);
    server.cancel(id.parse().unwrap()).await;
    let _server = server.restart().await;
    let got = collector.named("GET /api/jobs/{id}");
    assert_eq!((hex(&got.trace_id), hex(&got.parent_span_id)), (TRACE.into(), PARENT.into()));
    assert_eq!(text(&got.attributes, "http.response.status_code"), "200");
    let spans = collector.spans();
    let unsampled = |span: &&Span| span.name.ends_with("/Submit") || span.name == "attempt";
    assert_eq!(spans.iter().find(unsampled), None);
    let requests = collector.0.lock().unwrap();
    let resource = requests[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(text(&resource.attributes, "service.name"), "hodei-server");
}

/// It accepts connections and says nothing, which is worse than none at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_collector_delays_nothing() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut server = Running::start(&["--otlp-endpoint", &url]).await;
    let begun = Instant::now();
    for _ in 0..20 {
        submit(&server, "01").await;
        server.next_worker().await;
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let begun = Instant::now();
    server.server.shut_down().await;
    let most = FLUSH_TIMEOUT + Duration::from_secs(3);
    assert!(begun.elapsed() < most, "it took {:?}", begun.elapsed());
}

//! Requests that nobody thought of, to a running server. PROPTEST_CASES says how many each property gets;
//! 256 if nothing is said. Each takes milliseconds, so that `make fuzz` gives them a hundredth.

mod agents;

use std::sync::OnceLock;

use hodei_core::spec::JobSpec;
use hodei_proto::v1::{
    CancelJobRequest, JobSpec as WireSpec, ListJobsRequest, SubmitJobRequest,
    job_service_client::JobServiceClient, job_spec::Run,
};
use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    test_runner::TestRunner,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
};
use tonic::Code;

use super::running::{PATIENCE, Running};

/// A server and the runtime it lives in, for a property of synchronous form.
fn start() -> (Runtime, Running) {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(Running::start(&["--requests-per-second", "0"]));
    (runtime, server)
}

/// Sends bytes as they are; the status of the answer.
async fn send(server: &Running, request: &[u8]) -> (u16, String) {
    let exchange = async {
        let mut stream = TcpStream::connect(server.server.rest).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await.expect("there must be an answer");
    let status = answer.split(' ').nth(1).and_then(|text| text.parse().ok());
    (status.unwrap_or_else(|| panic!("no status in {answer:?}")), answer)
}

fn assert_answer(status: u16, answer: &str) -> Result<(), TestCaseError> {
    prop_assert!((200..500).contains(&status), "{answer}");
    let is_problem = answer.contains("application/problem+json");
    // Requests that are no HTTP never reach the router.
    let no_http = status == 400 && answer.contains("content-length: 0");
    prop_assert!(status < 400 || is_problem || no_http, "{answer}");
    Ok(())
}

/// Bytes of a path or a query: no space and no control character, which would end it.
fn target() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        prop::sample::select(vec![
            "page_size=",
            "page_token=",
            "state=",
            "all=",
            "&",
            "=",
            "%00",
            "%ff",
            "%",
            "true",
            "queued",
            ",",
            "4294967296",
            "-1",
            "..",
            "/",
            "01a1fe53-9538-70ce-af75-f304731b6092",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        vec(33_u8..127, 0..6),
    ];
    vec(part, 0..6).prop_map(|parts| parts.concat())
}

#[test]
fn any_path_and_query_is_answered_and_never_with_500() {
    let (runtime, server) = start();
    let base = prop::sample::select(vec![
        "/api/jobs?",
        "/api/workers?",
        "/api/providers?",
        "/api/jobs/",
        "/api/workers/",
        "/api/providers/",
        "/",
    ]);
    let method = prop::sample::select(vec!["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS"]);
    TestRunner::default()
        .run(&(method, base, target()), |(method, base, target)| {
            let head = format!("{method} {base}");
            let tail = b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            let request = [head.as_bytes(), &target, tail].concat();
            let (status, answer) = runtime.block_on(send(&server, &request));
            assert_answer(status, &answer)
        })
        .unwrap();
}

/// Any JSON, not too deep.
pub(crate) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[a\\x00]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map("[a-z\\x00]{0,4}", inner, 0..4).prop_map(|fields| json!(fields)),
        ]
    })
}

/// A body of JSON, or of anything.
fn body(object: impl Strategy<Value = Value>) -> impl Strategy<Value = Vec<u8>> {
    let nested = any::<u16>().prop_map(|depth| vec![b'['; usize::from(depth)]);
    let object = object.prop_map(|object| object.to_string().into_bytes());
    prop_oneof![6 => object, 1 => vec(any::<u8>(), 0..64), 1 => nested]
}

async fn send_json(server: &Running, call: &str, body: &[u8]) -> (u16, String) {
    let length = body.len();
    let head = format!(
        "{call} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    );
    send(server, &[head.as_bytes(), body].concat()).await
}

#[test]
fn any_registration_is_answered_and_never_with_500() {
    let (runtime, server) = start();
    let kind = prop_oneof![3 => Just(json!("fake")), 1 => any_json()];
    let name = prop_oneof!["[a-z]{1,9}".prop_map(Value::from), any_json()];
    let object = (kind, name, any_json());
    let object = object
        .prop_map(|(kind, name, config)| json!({"type": kind, "name": name, "config": config}));
    TestRunner::default()
        .run(&body(object), |body| {
            let (status, answer) =
                runtime.block_on(send_json(&server, "POST /api/providers", &body));
            assert_answer(status, &answer)
        })
        .unwrap();
}

#[test]
fn any_pool_is_set_or_its_mistake_is_named() {
    let (runtime, server) = start();
    let number = || prop_oneof![4 => (0_u32..1200).prop_map(Value::from), 1 => any_json()];
    let object = (number(), number(), number()).prop_map(|(minimum, maximum, idle)| {
        json!({"minimum": minimum, "maximum": maximum, "idle_seconds": idle})
    });
    TestRunner::default()
        .run(&body(object), |body| {
            let call = "PUT /api/providers/elsewhere/pool";
            let (status, answer) = runtime.block_on(send_json(&server, call, &body));
            assert_answer(status, &answer)?;
            // There is no such provider, which is told once the body was understood.
            let told = answer.contains("pool") || status == 400;
            prop_assert!(told || status == 404, "{answer}");
            prop_assert!(status != 200);
            Ok(())
        })
        .unwrap();
}

/// Submits, cancels and lists; the codes of the answers, and what they say.
async fn call(server: &Running, wire: WireSpec, texts: [String; 3]) -> [(Code, String); 3] {
    static CHANNEL: OnceLock<tonic::transport::Channel> = OnceLock::new();
    let channel = match CHANNEL.get() {
        Some(channel) => channel.clone(),
        None => {
            let channel = server.channel().await;
            CHANNEL.get_or_init(|| channel).clone()
        }
    };
    let mut jobs = JobServiceClient::new(channel);
    let [key, correlation_id, reason] = texts;
    let page_token = reason.clone();
    let submitted = jobs
        .submit(SubmitJobRequest { spec: Some(wire), idempotency_key: key, correlation_id })
        .await;
    let id = match &submitted {
        Ok(answer) => answer.get_ref().job.as_ref().map(|job| job.id.clone()).unwrap_or_default(),
        Err(_) => reason.clone(),
    };
    let cancelled = jobs.cancel(CancelJobRequest { id, reason }).await;
    let list = ListJobsRequest { page_token, page_size: 1, ..Default::default() };
    let listed = jobs.list(list).await;
    let code = |error: Option<tonic::Status>| match error {
        None => (Code::Ok, String::new()),
        Some(status) => (status.code(), status.message().to_owned()),
    };
    [code(submitted.err()), code(cancelled.err()), code(listed.err())]
}

#[test]
fn any_job_is_stored_or_its_mistake_is_named() {
    let (runtime, server) = start();
    let text = || prop_oneof!["[a\\x00]{0,4}", any::<String>(), Just(String::new())];
    let names = || prop_oneof![2 => Just(Default::default()), 1 => btree_map(text(), text(), 0..3)];
    let spec = (names(), names(), text(), vec(text(), 0..3));
    let inputs = (spec, [text(), text(), text()]);
    TestRunner::default()
        .run(&inputs, |((env, labels, directory, argv), texts)| {
            let run = Some(Run::Command(hodei_proto::v1::Command { argv }));
            let wire = WireSpec {
                run,
                env: env.into_iter().collect(),
                labels: labels.into_iter().collect(),
                working_directory: directory,
                ..Default::default()
            };
            let valid = JobSpec::try_from(wire.clone()).is_ok();
            let answers = runtime.block_on(call(&server, wire, texts));
            for (code, message) in &answers {
                let expected = [Code::Ok, Code::InvalidArgument, Code::AlreadyExists];
                prop_assert!(expected.contains(code), "{code:?}: {message}");
            }
            prop_assert!(valid || answers[0].0 == Code::InvalidArgument, "{answers:?}");
            Ok(())
        })
        .unwrap();
}

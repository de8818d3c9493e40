//! What is made without a collector to send it to.

use std::{
    env,
    process::Command,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use hodei_core::id::{AttemptKey, Epoch, JobId, WorkerId};
use jiff::Timestamp;
use opentelemetry::trace::{SpanId, Status};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};

use super::*;

/// Keeps what it is to export.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(batch);
        Ok(())
    }
}

impl Kept {
    /// Traces whose spans are kept.
    pub(super) fn start() -> (Self, Traces) {
        let kept = Self::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
        let (tracer, propagator) = (provider.tracer(SERVICE_NAME), TraceContextPropagator::new());
        (kept, Traces(Some(Arc::new(Made { provider, tracer, propagator }))))
    }

    fn spans(&self) -> Vec<SpanData> {
        self.0.lock().unwrap().clone()
    }
}

/// What the service is to be called, in a process of its own.
const EXPECT: &str = "HODEI_TEST_SERVICE_NAME";

#[test]
fn the_service_has_the_name_that_the_environment_gives() {
    if let Ok(expect) = env::var(EXPECT) {
        let name = resource().get(&Key::from_static_str("service.name"));
        assert_eq!(name.map(|name| name.to_string()), Some(expect));
        return;
    }
    for (variables, expect) in [
        (&[][..], "hodei-server"),
        (&[("OTEL_SERVICE_NAME", "")], "hodei-server"),
        (&[("OTEL_SERVICE_NAME", "blue")], "blue"),
        (&[("OTEL_RESOURCE_ATTRIBUTES", "service.name=green,a=b")], "green"),
        (
            &[("OTEL_SERVICE_NAME", "blue"), ("OTEL_RESOURCE_ATTRIBUTES", "service.name=green")],
            "blue",
        ),
    ] {
        let mut again = Command::new(env::current_exe().unwrap());
        again
            .args(["--exact", "trace::tests::the_service_has_the_name_that_the_environment_gives"]);
        again.env_remove("OTEL_SERVICE_NAME").env_remove("OTEL_RESOURCE_ATTRIBUTES");
        let ended = again.envs(variables.iter().copied()).env(EXPECT, expect).output().unwrap();
        let told = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(ended.status.success() && told.contains("1 passed"), "{variables:?}: {told}");
    }
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn phases_of_a_lost_attempt_follow_on_each_other_and_the_last_one_failed() {
    let (kept, traces) = Kept::start();
    traces.attempt(&AttemptTimes {
        key: AttemptKey { job: JobId::new(), epoch: Epoch(2) },
        worker: WorkerId::new(),
        provider: "p".to_owned(),
        correlation_id: "c".to_owned(),
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
        // The watch told of the node after the agent had registered.
        phases: vec![
            (Phase::Queue, second(1)),
            (Phase::CreateWorker, second(2)),
            (Phase::Register, second(9)),
            (Phase::Assign, second(5)),
        ],
        ended: second(7),
        exit_code: None,
        failure_cause: Some("NodeLost".to_owned()),
    });
    let at = |seconds| SystemTime::from(second(seconds));
    let error = Status::error("NodeLost");
    let spans = kept.spans();
    let whole = spans.iter().find(|span| span.name == "attempt").unwrap();
    assert_eq!(whole.parent_span_id, SpanId::from_hex("00f067aa0ba902b7").unwrap());
    assert_eq!((whole.start_time, whole.end_time), (at(1), at(7)));
    assert_eq!(whole.status, error);
    for (name, from, until, status) in [
        ("queue", 1, 2, Status::Unset),
        ("create worker", 2, 5, Status::Unset),
        ("register", 5, 5, Status::Unset),
        ("assign", 5, 7, error.clone()),
    ] {
        let part = spans.iter().find(|span| span.name == name).unwrap();
        assert_eq!((part.start_time, part.end_time), (at(from), at(until)), "{name}");
        assert_eq!(part.status, status, "{name}");
        assert_eq!(part.parent_span_id, whole.span_context.span_id(), "{name}");
        assert_eq!(part.span_context.trace_id(), whole.span_context.trace_id(), "{name}");
    }
}

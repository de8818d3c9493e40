//! The spans of an attempt that has ended, made of the times that the database has.

use std::{collections::HashMap, time::SystemTime};

use hodei_core::id::{AttemptKey, WorkerId};
use jiff::Timestamp;
use opentelemetry::{
    Context, KeyValue,
    propagation::TextMapPropagator as _,
    trace::{Span as _, SpanBuilder, Status, TraceContextExt as _, Tracer as _},
};

use super::Traces;

/// What an attempt goes through, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It waits for a place.
    Queue,
    /// A worker is made, until it is on a node.
    CreateWorker,
    /// Image and agent start, until the agent has registered.
    Register,
    /// The agent opens its stream and is told, until the command runs.
    Assign,
    /// The command runs, until its result is taken.
    Run,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::CreateWorker => "create worker",
            Self::Register => "register",
            Self::Assign => "assign",
            Self::Run => "run",
        }
    }
}

/// An attempt that has ended.
#[derive(Debug, Clone)]
pub(crate) struct AttemptTimes {
    pub(crate) key: AttemptKey,
    pub(crate) worker: WorkerId,
    pub(crate) provider: String,
    pub(crate) correlation_id: String,
    /// Place of the submission, where that was traced.
    pub(crate) traceparent: Option<String>,
    /// Beginnings of the phases it came to, in their order.
    pub(crate) phases: Vec<(Phase, Timestamp)>,
    pub(crate) ended: Timestamp,
    pub(crate) exit_code: Option<i32>,
    /// Why it was lost; `None` where it had a result.
    pub(crate) failure_cause: Option<String>,
}

impl AttemptTimes {
    fn attributes(&self) -> Vec<KeyValue> {
        let mut attributes = vec![
            KeyValue::new("job_id", self.key.job.to_string()),
            KeyValue::new("epoch", i64::from(self.key.epoch.0)),
            KeyValue::new("worker_id", self.worker.to_string()),
            KeyValue::new("correlation_id", self.correlation_id.clone()),
            KeyValue::new("provider", self.provider.clone()),
        ];
        let code = self.exit_code.map(|code| KeyValue::new("exit_code", i64::from(code)));
        let cause = self.failure_cause.clone().map(|cause| KeyValue::new("failure_cause", cause));
        attributes.extend(code.into_iter().chain(cause));
        attributes
    }
}

impl Traces {
    /// Sends the spans of an attempt.
    pub(crate) fn attempt(&self, times: &AttemptTimes) {
        let Some(made) = &self.0 else { return };
        let fields: HashMap<_, _> =
            times.traceparent.iter().map(|at| ("traceparent".to_owned(), at.clone())).collect();
        let parent = made.propagator.extract_with_context(&Context::new(), &fields);
        let phases = in_order(times);
        let begun = phases.first().map_or(times.ended, |(_, at)| *at);
        let span = |name: &'static str, at: Timestamp, parent: &Context| {
            let span = SpanBuilder::from_name(name).with_start_time(SystemTime::from(at));
            made.tracer.build_with_context(span.with_attributes(times.attributes()), parent)
        };
        let whole = parent.with_span(span("attempt", begun, &parent));
        for (index, (phase, at)) in phases.iter().enumerate() {
            let next = phases.get(index + 1);
            let until = next.map_or(times.ended, |(_, next)| *next);
            let mut part = span(phase.name(), *at, &whole);
            if let (None, Some(cause)) = (next, &times.failure_cause) {
                part.set_status(Status::error(cause.clone()));
            }
            part.end_with_timestamp(SystemTime::from(until));
        }
        if let Some(cause) = &times.failure_cause {
            whole.span().set_status(Status::error(cause.clone()));
        }
        whole.span().end_with_timestamp(SystemTime::from(times.ended));
    }
}

/// The phases, none beginning after the next: that a worker is on a node may be seen after it registered.
fn in_order(times: &AttemptTimes) -> Vec<(Phase, Timestamp)> {
    let mut phases = times.phases.clone();
    let mut next = times.ended;
    for (_, at) in phases.iter_mut().rev() {
        *at = next.min(*at);
        next = *at;
    }
    phases
}

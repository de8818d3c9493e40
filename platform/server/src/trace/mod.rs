//! Traces, where a collector is configured: requests of clients, and the attempts of jobs.
//!
//! Nothing is kept of a job that goes on: its submission's place in the trace is in its row, and an attempt's
//! spans are made of the times in the database by the server that ends it. So a trace is whole whichever
//! replicas a job went through and however often they were started again, and each attempt is in it once.
//! Spans wait for the collector in a bounded queue; what does not fit is dropped and nobody waits.

mod attempt;
mod export;
mod request;

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use opentelemetry::{Context, Key, KeyValue, trace::TracerProvider as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    resource::{EnvResourceDetector, ResourceDetector},
    trace::{BatchSpanProcessor, SdkTracer, SdkTracerProvider},
};

use self::export::{Quiet, exporter};
pub(crate) use self::{
    attempt::{AttemptTimes, Phase},
    request::{RequestTrace, Traced, trace_request},
};
use crate::config::TraceConfig;

/// `service.name`, where neither `OTEL_SERVICE_NAME` nor `OTEL_RESOURCE_ATTRIBUTES` gives one.
const SERVICE_NAME: &str = "hodei-server";
/// How long a shutdown waits for the collector to take the last spans.
pub(crate) const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// What makes spans, or nothing at all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traces(Option<Arc<Made>>);

#[derive(Debug)]
struct Made {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
}

impl Traces {
    /// Traces by the settings. Nothing is connected yet.
    ///
    /// # Errors
    /// When the collector's address or authorities cannot be used.
    pub(crate) fn start(config: &TraceConfig) -> anyhow::Result<Self> {
        let Some(exporter) = exporter(config)? else { return Ok(Self::default()) };
        let provider = SdkTracerProvider::builder()
            .with_resource(resource())
            .with_span_processor(BatchSpanProcessor::builder(Quiet::new(exporter)).build())
            .build();
        let tracer = provider.tracer(SERVICE_NAME);
        let propagator = TraceContextPropagator::new();
        Ok(Self(Some(Arc::new(Made { provider, tracer, propagator }))))
    }

    /// Whether there is anybody to make spans for.
    pub(crate) fn are_on(&self) -> bool {
        self.0.is_some()
    }

    /// Sends what is left, for [`FLUSH_TIMEOUT`] at most.
    pub(crate) async fn shut_down(&self) {
        let Some(made) = self.0.clone() else { return };
        let flushing =
            tokio::task::spawn_blocking(move || made.provider.shutdown_with_timeout(FLUSH_TIMEOUT));
        let flushed = flushing.await.map_err(|error| anyhow!(error));
        if let Err(error) = flushed.and_then(|flushed| flushed.context("the last traces")) {
            tracing::warn!(error = format!("{error:#}"), "traces are lost");
        }
    }
}

/// Whether settings and files can be used, without sending anything.
///
/// # Errors
/// As for [`Traces::start`].
pub(crate) fn check(config: &TraceConfig) -> anyhow::Result<bool> {
    Ok(exporter(config)?.is_some())
}

fn resource() -> Resource {
    let key = Key::from_static_str("service.name");
    // By OpenTelemetry's rules the variable of its own goes first, and an empty one is not set.
    let named = std::env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty());
    let among = || EnvResourceDetector::new().detect().get(&key).map(|name| name.to_string());
    let name = named.or_else(among).unwrap_or_else(|| SERVICE_NAME.to_owned());
    Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string()))
        .with_service_name(name)
        .build()
}

/// The place of a span, as W3C's `traceparent` has it.
fn traceparent(made: &Made, context: &Context) -> Option<String> {
    use opentelemetry::propagation::TextMapPropagator as _;
    let mut fields = std::collections::HashMap::new();
    made.propagator.inject_context(context, &mut fields);
    fields.remove("traceparent")
}

#[cfg(test)]
mod tests;

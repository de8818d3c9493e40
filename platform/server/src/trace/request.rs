//! Requests of clients: one span each, below the client's own where the request brings a `traceparent`.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as Poller, Poll},
};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use futures::future::Either;
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _},
};
use tonic::{codegen::Service, server::NamedService};

use super::{Made, Traces, traceparent};
use crate::app::App;

/// The span of a request, among its extensions.
#[derive(Debug, Clone)]
pub(crate) struct RequestTrace {
    made: Arc<Made>,
    context: Context,
}

impl RequestTrace {
    /// Says what the request is about.
    pub(crate) fn set(&self, name: &'static str, value: String) {
        self.context.span().set_attribute(KeyValue::new(name, value));
    }

    /// Its place, for what follows from it later.
    pub(crate) fn traceparent(&self) -> Option<String> {
        traceparent(&self.made, &self.context)
    }

    fn fail(&self, description: String) {
        self.context.span().set_status(Status::error(description));
    }
}

struct Headers<'a>(&'a http::HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

impl Traces {
    fn begin(
        &self,
        headers: &http::HeaderMap,
        name: String,
        attributes: impl IntoIterator<Item = KeyValue>,
    ) -> Option<RequestTrace> {
        let made = self.0.clone()?;
        let parent = made.propagator.extract_with_context(&Context::new(), &Headers(headers));
        let span = SpanBuilder::from_name(name).with_kind(SpanKind::Server);
        let span = made.tracer.build_with_context(span.with_attributes(attributes), &parent);
        let context = parent.with_span(span);
        Some(RequestTrace { made, context })
    }
}

/// A gRPC service whose calls have a span each, from the request to the head of its answer: a stream may
/// last for days.
#[derive(Debug, Clone)]
pub(crate) struct Traced<S> {
    traces: Traces,
    inner: S,
}

impl<S> Traced<S> {
    pub(crate) fn new(traces: Traces, inner: S) -> Self {
        Self { traces, inner }
    }
}

impl<S: NamedService> NamedService for Traced<S> {
    const NAME: &'static str = S::NAME;
}

type Boxed<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl<S, B, R> Service<http::Request<B>> for Traced<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Boxed<S::Response, S::Error>>;

    fn poll_ready(&mut self, poller: &mut Poller<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(poller)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        if !self.traces.are_on() {
            return Either::Left(self.inner.call(request));
        }
        let call = request.uri().path().trim_start_matches('/');
        let (service, method) = call.split_once('/').unwrap_or((call, ""));
        let attributes = [("rpc.system", "grpc"), ("rpc.service", service), ("rpc.method", method)]
            .map(|(name, value)| KeyValue::new(name, value.to_owned()));
        let begun = self.traces.begin(request.headers(), call.to_owned(), attributes);
        let Some(trace) = begun else { return Either::Left(self.inner.call(request)) };
        request.extensions_mut().insert(trace.clone());
        let answer = self.inner.call(request);
        Either::Right(Box::pin(async move {
            let answer = answer.await;
            if let Ok(answer) = &answer {
                // A refusal has nothing but trailers, which are its head then.
                let status = answer.headers().get("grpc-status");
                let code = status.and_then(|code| code.to_str().ok()).unwrap_or("0");
                trace.set("rpc.grpc.status_code", code.to_owned());
                if code != "0" {
                    trace.fail(tonic::Code::from_bytes(code.as_bytes()).description().to_owned());
                }
            }
            trace.context.span().end();
            answer
        }))
    }
}

/// The same for REST.
pub(crate) async fn trace_request(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    if !app.traces.are_on() {
        return next.run(request).await;
    }
    let method = request.method().to_string();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let name = route.iter().fold(method.clone(), |name, route| format!("{name} {route}"));
    let attributes = [("http.request.method", Some(method)), ("http.route", route)];
    let attributes =
        attributes.into_iter().filter_map(|(name, value)| Some(KeyValue::new(name, value?)));
    let Some(trace) = app.traces.begin(request.headers(), name, attributes) else {
        return next.run(request).await;
    };
    request.extensions_mut().insert(trace.clone());
    let answer = next.run(request).await;
    let status = answer.status();
    trace.set("http.response.status_code", status.as_u16().to_string());
    if status.is_server_error() {
        trace.fail(status.to_string());
    }
    trace.context.span().end();
    answer
}

#[cfg(test)]
mod outside_input {
    use http::{HeaderMap, HeaderValue};
    use proptest::{collection::vec, option, prelude::*};

    use crate::trace::tests::Kept;

    fn header() -> impl Strategy<Value = Vec<u8>> {
        let text = prop_oneof![
            2 => "00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]",
            2 => "[0-9a-f]{0,2}-?[0-9a-fx]{30,33}-[0-9a-f]{15,17}-[0-9a-f]{0,3}(-[a-z]{0,3})?",
        ];
        prop_oneof![4 => text.prop_map(String::into_bytes), 1 => vec(any::<u8>(), 0..60)]
    }

    proptest! {
        #[test]
        fn any_header_is_a_place_in_a_trace_or_passed_over(
            place in header(), state in option::of(vec(32_u8..127, 0..40)),
        ) {
            let (_kept, traces) = Kept::start();
            let mut headers = HeaderMap::new();
            let value = HeaderValue::from_bytes(&place);
            headers.extend(value.ok().map(|value| (http::HeaderName::from_static("traceparent"), value)));
            if let Some(state) = state.and_then(|state| HeaderValue::from_bytes(&state).ok()) {
                headers.insert("tracestate", state);
            }
            let trace = traces.begin(&headers, "call".to_owned(), []).unwrap();
            let told = trace.traceparent().unwrap();
            prop_assert!(told.len() == 55 && told.is_ascii(), "{told}");
            let said = String::from_utf8_lossy(&place).into_owned();
            let well_formed = said.len() == 55 && said.starts_with("00-")
                && said.split('-').map(str::len).eq([2, 32, 16, 2])
                && said.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
                && !said.contains(&"0".repeat(32)) && !said.contains("-0000000000000000-");
            if well_formed {
                prop_assert_eq!(&told[..36], &said[..36], "the trace goes on");
                prop_assert_ne!(&told[36..52], &said[36..52], "with a span of its own");
            }
        }
    }
}

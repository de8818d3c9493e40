//! The server over gRPC: one channel, calls with a deadline, and what may be tried again.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use hodei_proto::{
    MAX_MESSAGE_BYTES,
    v1::{job_service_client::JobServiceClient, log_stream_service_client::LogStreamServiceClient},
};
use tokio::time::{Instant, timeout};
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tonic_types::StatusExt as _;

use crate::{
    context::Context,
    failure::{Failure, describe},
    patience::Throttled,
};

/// One call, at most.
const CALL: Duration = Duration::from_secs(15);
/// How long a server may be gone before it is given up: a restart with migrations fits.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A server that answered.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    channel: Link,
    address: String,
}

/// Presents the token with each call.
#[derive(Debug, Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    fn new(token: Option<String>) -> Result<Self, Failure> {
        let value = token.map(|token| format!("Bearer {token}").parse::<MetadataValue<Ascii>>());
        let value = value.transpose().map_err(|_| Failure::Local {
            what: "the token cannot be sent".to_owned(),
            help: "A token is one line of printable ASCII characters without a space.".to_owned(),
        })?;
        Ok(Self(value.map(|mut value| {
            value.set_sensitive(true);
            value
        })))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A channel whose calls present the token.
pub(crate) type Link = InterceptedService<Channel, Bearer>;

impl Server {
    /// Connects once; whoever isn't there now is not waited for.
    pub(crate) async fn connect(context: &Context) -> Result<Self, Failure> {
        let address = context.grpc.value.clone();
        let bearer = Bearer::new(context.token()?)?;
        let channel = endpoint(context)?.connect().await.map_err(|error| Failure::Unreachable {
            address: address.clone(),
            cause: describe(&error),
        })?;
        Ok(Self { channel: InterceptedService::new(channel, bearer), address })
    }

    pub(crate) fn jobs(&self) -> JobServiceClient<Link> {
        JobServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn logs(&self) -> LogStreamServiceClient<Link> {
        LogStreamServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// One call that may be repeated without harm, tried again while the server is away.
    pub(crate) async fn call<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let (started, mut delays) = (Instant::now(), backoff());
        let mut throttled = Throttled::new();
        loop {
            let status = match timeout(CALL, attempt()).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::unavailable(format!("no answer within {} s", CALL.as_secs())),
            };
            if status.code() == Code::ResourceExhausted && throttled.wait(asked_wait(&status)).await
            {
                continue;
            }
            let delay = delays.next().unwrap_or_default();
            if !may_pass(&status) || started.elapsed() + delay > CALL {
                return Err(self.failure(&status));
            }
            tokio::time::sleep(delay).await;
        }
    }

    pub(crate) fn failure(&self, status: &Status) -> Failure {
        Failure::from_status(status, &self.address)
    }
}

/// Delays between tries: 50 ms, doubling to 2 s, with jitter.
pub(crate) fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(2))
        .with_jitter()
        .without_max_times()
        .build()
}

/// How long the server asks to wait, where it says so.
fn asked_wait(status: &Status) -> Option<Duration> {
    status.get_details_retry_info().and_then(|info| info.retry_delay)
}

/// Whether a later try may fare better. Transport errors come under several codes.
pub(crate) fn may_pass(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::ResourceExhausted
    )
}

fn endpoint(context: &Context) -> Result<Endpoint, Failure> {
    let address = &context.grpc.value;
    let refuse = |problem: String| Failure::Local {
        what: format!("the server's address {address:?} cannot be used: {problem}"),
        help: format!("It comes from: {}. An example: http://127.0.0.1:50051", context.grpc.source),
    };
    let endpoint = Endpoint::from_shared(address.clone()).map_err(|e| refuse(e.to_string()))?;
    let endpoint = match (endpoint.uri().scheme_str(), context.ca_pem()?) {
        (Some("http"), _) => endpoint,
        (Some("https"), Some(pem)) => {
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
            endpoint.tls_config(tls).map_err(|error| refuse(describe(&error)))?
        }
        (Some("https"), None) => return Err(refuse("https needs --ca-file".to_owned())),
        _ => return Err(refuse("it has to begin with http:// or https://".to_owned())),
    };
    Ok(endpoint
        .connect_timeout(Duration::from_secs(5))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true))
}

#[cfg(test)]
mod outside_input {
    use proptest::{collection::vec, prelude::*};
    use tonic_types::ErrorDetails;

    use super::*;

    fn message() -> impl Strategy<Value = String> {
        prop_oneof![any::<String>(), "[a\\x1b\u{9b}]{0,5}", Just(String::new())]
    }

    proptest! {
        #[test]
        fn any_refusal_is_told_as_plain_text_whatever_its_details_are(
            code in -1_i32..20, message in message(), details in vec(any::<u8>(), 0..60),
        ) {
            let status = Status::with_details(code.into(), message, details.into());
            let _ = (asked_wait(&status), may_pass(&status));
            let failure = Failure::from_status(&status, "http://127.0.0.1:1");
            let told = failure.to_string();
            prop_assert!(!told.is_empty());
            prop_assert!(told.chars().all(|c| c == '\n' || !c.is_control()), "{told:?}");
        }

        #[test]
        fn a_wait_that_is_asked_for_is_read(millis in 0_u64..1 << 40, damage in any::<(prop::sample::Index, u8)>()) {
            let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(millis)));
            let status = Status::with_error_details(Code::ResourceExhausted, "", details);
            prop_assert_eq!(asked_wait(&status), Some(Duration::from_millis(millis)));
            let mut bytes = status.details().to_vec();
            *damage.0.get_mut(&mut bytes) = damage.1;
            let _ = asked_wait(&Status::with_details(Code::ResourceExhausted, "", bytes.into()));
        }
    }
}

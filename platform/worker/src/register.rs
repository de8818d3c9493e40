//! Registration: the one-time password for a session, once.

use std::time::Duration;

use hodei_core::{PROTOCOL_VERSION, secret::Secret, session::MAX_FRAME_BYTES};
use hodei_proto::v1::{RegisterRequest, RegisterResponse};
use tokio::time::{Instant, sleep, timeout};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    config::Config,
    error::AgentError,
    link::{TRY_TIMEOUT, backoff, client, describe},
};

/// Longest period that a server's word is taken for, in all that it says: its own settings go no further.
pub(crate) const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// What registration gives.
#[derive(Debug)]
pub struct Session {
    /// Bearer secret of the session.
    pub token: Secret,
    /// How often to send a heartbeat.
    pub heartbeat: Duration,
    /// After how long without a message the server takes the worker for lost.
    pub lease: Duration,
    /// Largest payload of a frame, in bytes.
    pub frame_bytes: usize,
}

/// One try's failure.
enum Failed {
    /// No request got through.
    NotSent(String),
    /// The server may have seen the request, and its answer is not known.
    Ambiguous(String),
    /// The server decided.
    Answered(Status),
}

/// Registers, trying again while the server can't be reached. The connection is for the session to
/// go on with: another would cost each worker a handshake, and balancers a turn.
///
/// # Errors
/// A refused password or version, at once; no answer within [`Config::register_timeout`].
pub async fn register(
    config: &Config,
    endpoint: &Endpoint,
    otp: &Secret,
) -> Result<(Session, Channel), AgentError> {
    let started = Instant::now();
    let (mut ambiguous, mut delays) = (false, backoff());
    loop {
        let last = match try_once(config, endpoint, otp).await {
            Ok((response, channel)) => return Ok((read(response)?, channel)),
            Err(Failed::Answered(status)) => return Err(refusal(&status, ambiguous)),
            Err(Failed::NotSent(text)) => text,
            Err(Failed::Ambiguous(text)) => {
                ambiguous = true;
                text
            }
        };
        let delay = delays.next().unwrap_or(TRY_TIMEOUT);
        if started.elapsed() + delay >= config.register_timeout {
            return Err(AgentError::Unreachable {
                address: config.server_address.clone(),
                seconds: config.register_timeout.as_secs(),
                last,
            });
        }
        tracing::warn!(server = %config.server_address, error = %last, retry_in = ?delay, "could not register");
        sleep(delay).await;
    }
}

async fn try_once(
    config: &Config,
    endpoint: &Endpoint,
    otp: &Secret,
) -> Result<(RegisterResponse, Channel), Failed> {
    let channel = match timeout(TRY_TIMEOUT, endpoint.connect()).await {
        Ok(connected) => connected.map_err(|error| Failed::NotSent(describe(&error)))?,
        Err(_) => return Err(Failed::NotSent("no connection in time".to_owned())),
    };
    let request = RegisterRequest {
        worker_id: config.worker.to_string(),
        otp: otp.expose().to_owned(),
        protocol_version: PROTOCOL_VERSION,
        pod_uid: config.pod_uid.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    match timeout(TRY_TIMEOUT, client(channel.clone()).register(request)).await {
        Err(_) => Err(Failed::Ambiguous("no answer in time".to_owned())),
        Ok(Ok(response)) => Ok((response.into_inner(), channel)),
        Ok(Err(status)) if is_decision(status.code()) => Err(Failed::Answered(status)),
        Ok(Err(status)) => {
            Err(Failed::Ambiguous(format!("{:?}: {}", status.code(), status.message())))
        }
    }
}

fn is_decision(code: Code) -> bool {
    matches!(
        code,
        Code::Unauthenticated
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::Unimplemented
    )
}

fn refusal(status: &Status, ambiguous: bool) -> AgentError {
    let message = status.message().to_owned();
    match status.code() {
        Code::FailedPrecondition => AgentError::VersionRefused { message },
        Code::Unauthenticated | Code::PermissionDenied => {
            AgentError::OtpRefused { message, ambiguous }
        }
        code => AgentError::Protocol(format!("registration: {code:?}: {message}")),
    }
}

fn read(response: RegisterResponse) -> Result<Session, AgentError> {
    let token = response.session_token.parse();
    let most = usize::try_from(response.max_frame_bytes).unwrap_or(MAX_FRAME_BYTES);
    Ok(Session {
        token: token.map_err(|error| AgentError::Protocol(format!("session token: {error}")))?,
        heartbeat: period("heartbeat_interval", response.heartbeat_interval)?,
        lease: period("lease", response.lease)?,
        frame_bytes: if most == 0 { MAX_FRAME_BYTES } else { most.min(MAX_FRAME_BYTES) },
    })
}

fn period<D: TryInto<Duration>>(name: &str, value: Option<D>) -> Result<Duration, AgentError> {
    let value = value.and_then(|value| value.try_into().ok());
    value.filter(|value| !value.is_zero() && *value <= LONGEST).ok_or_else(|| {
        let range = "is missing, not positive, or longer than a week";
        AgentError::Protocol(format!("registration: {name} {range}"))
    })
}

#[cfg(test)]
mod outside_input {
    use proptest::{option, prelude::*};

    use super::*;

    fn any_period() -> impl Strategy<Value = Option<prost_types::Duration>> {
        let any = (any::<i64>(), any::<i32>());
        let near = (-1_i64..700_000, -2_i32..1_000_000_000);
        option::weighted(0.9, prop_oneof![any, near]).prop_map(|period| {
            period.map(|(seconds, nanos)| prost_types::Duration { seconds, nanos })
        })
    }

    proptest! {
        #[test]
        fn a_registration_is_taken_within_bounds_or_its_field_is_named(
            session_token in prop_oneof![3 => "[0-9a-f]{64}", 1 => "[ -~]{12,70}"],
            heartbeat_interval in any_period(), lease in any_period(), max_frame_bytes in any::<u32>(),
        ) {
            let response = RegisterResponse {
                session_token: session_token.clone(), heartbeat_interval, lease, max_frame_bytes,
            };
            match read(response) {
                Ok(session) => {
                    prop_assert!((1..=MAX_FRAME_BYTES).contains(&session.frame_bytes));
                    for period in [session.heartbeat, session.lease] {
                        prop_assert!(!period.is_zero() && period <= LONGEST, "{period:?}");
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    let fields = ["session token", "heartbeat_interval", "lease"];
                    prop_assert!(fields.iter().any(|field| text.contains(field)), "{text}");
                    prop_assert!(!text.contains(&session_token), "{text}");
                }
            }
        }
    }
}

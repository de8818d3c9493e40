//! The one stream a session lives on: opened with Hello, answered with Welcome, opened again with
//! backoff when it is lost.

use std::{future::Future, pin::Pin, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use hodei_proto::{
    MAX_MESSAGE_BYTES,
    v1::{
        AgentMessage, Hello, ServerMessage, Welcome, agent_message, server_message,
        worker_agent_service_client::WorkerAgentServiceClient,
    },
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use crate::{config::Config, error::AgentError};

/// One try to connect, or to get an answer, at most.
pub(crate) const TRY_TIMEOUT: Duration = Duration::from_secs(10);
/// A dead peer is noticed within twice this.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Messages on their way to the socket; more would only delay a heartbeat behind output.
const QUEUE: usize = 4;

/// Delays between tries: 50 ms, doubling to 2.5 s, each with up to as much again of jitter.
pub(crate) fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_millis(2500))
        .with_jitter()
        .without_max_times()
        .build()
}

/// Where the server is and whom to trust. Nothing is connected yet.
///
/// # Errors
/// When the address is no `http://` or `https://` URL, or the authorities can't be used.
pub fn endpoint(config: &Config) -> Result<Endpoint, AgentError> {
    let address = &config.server_address;
    let refuse = |problem: String| AgentError::Address { address: address.clone(), problem };
    let endpoint =
        Endpoint::from_shared(address.clone()).map_err(|error| refuse(error.to_string()))?;
    let endpoint = match (endpoint.uri().scheme_str(), &config.ca_pem) {
        (Some("http"), _) => endpoint,
        (Some("https"), Some(pem)) => {
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
            endpoint.tls_config(tls).map_err(|error| refuse(describe(&error)))?
        }
        (Some("https"), None) => {
            return Err(refuse("https needs HODEI_CA_PEM or HODEI_CA_FILE".to_owned()));
        }
        _ => return Err(refuse("it has to begin with http:// or https://".to_owned())),
    };
    Ok(endpoint
        .connect_timeout(TRY_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true))
}

pub(crate) fn client(channel: Channel) -> WorkerAgentServiceClient<Channel> {
    WorkerAgentServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// An error with its causes, in one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Why there is no link.
#[derive(Debug)]
pub(crate) enum Broken {
    /// It may work again.
    Lost(String),
    /// The server will not have this session any more.
    Refused(String),
    /// The server does not speak this version.
    Version(String),
}

impl Broken {
    fn from_status(status: &Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => Self::Refused(message),
            Code::FailedPrecondition => Self::Version(message),
            code => Self::Lost(format!("{code:?}: {message}")),
        }
    }
}

/// An open stream.
#[derive(Debug)]
struct Open {
    to_server: mpsc::Sender<AgentMessage>,
    from_server: Streaming<ServerMessage>,
    since: tokio::time::Instant,
}

type Opening = Pin<Box<dyn Future<Output = Result<(Open, Welcome), Broken>> + Send>>;

enum State {
    Down,
    Opening(Opening),
    Up(Box<Open>),
}

/// What happens on the link.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// It is open; the server has all up to `acked_sequence`.
    Welcomed(Welcome),
    /// The server says something.
    Message(Box<server_message::Message>),
    /// The server, a newer one, says what this build does not know.
    Unknown,
    /// One message can be sent now.
    CanSend,
    /// It is closed, or could not be opened.
    Broken(Broken),
}

/// The link of a session, which survives the streams it is made of.
pub(crate) struct Link {
    endpoint: Endpoint,
    /// The connection that the first stream takes.
    registered: Option<Channel>,
    state: State,
    delays: ExponentialBackoff,
}

impl Link {
    pub(crate) fn new(endpoint: Endpoint, registered: Channel) -> Self {
        Self { endpoint, registered: Some(registered), state: State::Down, delays: backoff() }
    }

    /// Begins to open the stream if it is down: at once the first time, else after a delay.
    pub(crate) fn ensure_opening(&mut self, hello: impl FnOnce() -> Hello) {
        if matches!(self.state, State::Down) {
            let hello = hello();
            self.state = State::Opening(match self.registered.take() {
                Some(channel) => Box::pin(in_time(open(channel, hello))),
                None => {
                    let delay = self.delays.next().unwrap_or_default();
                    Box::pin(open_after(delay, self.endpoint.clone(), hello))
                }
            });
        }
    }

    /// The next event. With `wants_to_send`, also tells when a message can be sent. Safe to cancel.
    pub(crate) async fn next(&mut self, wants_to_send: bool) -> LinkEvent {
        let event = match &mut self.state {
            State::Down => std::future::pending().await,
            State::Opening(opening) => match opening.await {
                Ok((open, welcome)) => {
                    self.state = State::Up(Box::new(open));
                    return LinkEvent::Welcomed(welcome);
                }
                Err(broken) => LinkEvent::Broken(broken),
            },
            State::Up(open) => next_message(open, wants_to_send).await,
        };
        if matches!(event, LinkEvent::Broken(_)) {
            // A stream that lasted earns a fast retry; one that never holds does not.
            if let State::Up(open) = &self.state
                && open.since.elapsed() > Duration::from_secs(1)
            {
                self.delays = backoff();
            }
            self.state = State::Down;
        }
        event
    }

    /// Sends a message right after [`LinkEvent::CanSend`]; false if the link broke meanwhile.
    pub(crate) fn send(&mut self, message: agent_message::Message) -> bool {
        let State::Up(open) = &self.state else { return false };
        open.to_server.try_send(AgentMessage { message: Some(message) }).is_ok()
    }

    /// Closes the stream in order: what was sent is flushed, and the server's end is awaited a moment.
    pub(crate) async fn close(self) {
        let State::Up(open) = self.state else { return };
        let Open { to_server, mut from_server, .. } = *open;
        drop(to_server);
        let ended = async { while let Ok(Some(_)) = from_server.message().await {} };
        if timeout(Duration::from_secs(1), ended).await.is_err() {
            tracing::debug!("the server did not close its side of the stream");
        }
    }
}

async fn next_message(open: &mut Open, wants_to_send: bool) -> LinkEvent {
    tokio::select! {
        received = open.from_server.message() => match received {
            Ok(Some(ServerMessage { message: Some(message) })) => LinkEvent::Message(Box::new(message)),
            Ok(Some(ServerMessage { message: None })) => LinkEvent::Unknown,
            Ok(None) => LinkEvent::Broken(Broken::Lost("the server closed the stream".to_owned())),
            Err(status) => LinkEvent::Broken(Broken::from_status(&status)),
        },
        reserved = open.to_server.reserve(), if wants_to_send => match reserved {
            Ok(_) => LinkEvent::CanSend,
            Err(_) => LinkEvent::Broken(Broken::Lost("the stream ended".to_owned())),
        },
    }
}

async fn open_after(
    delay: Duration,
    endpoint: Endpoint,
    hello: Hello,
) -> Result<(Open, Welcome), Broken> {
    tokio::time::sleep(delay).await;
    in_time(async {
        let channel = endpoint.connect().await.map_err(|error| Broken::Lost(describe(&error)))?;
        open(channel, hello).await
    })
    .await
}

async fn in_time(
    opening: impl Future<Output = Result<(Open, Welcome), Broken>>,
) -> Result<(Open, Welcome), Broken> {
    let late = |_| Broken::Lost(format!("no Welcome within {} s", TRY_TIMEOUT.as_secs()));
    timeout(TRY_TIMEOUT, opening).await.map_err(late)?
}

async fn open(channel: Channel, hello: Hello) -> Result<(Open, Welcome), Broken> {
    let (to_server, messages) = mpsc::channel(QUEUE);
    let hello = AgentMessage { message: Some(agent_message::Message::Hello(hello)) };
    to_server.try_send(hello).map_err(|error| Broken::Lost(error.to_string()))?;
    let response = client(channel).open_session(ReceiverStream::new(messages)).await;
    let mut from_server = response.map_err(|status| Broken::from_status(&status))?.into_inner();
    let first = from_server.message().await.map_err(|status| Broken::from_status(&status))?;
    match first.and_then(|first| first.message) {
        Some(server_message::Message::Welcome(welcome)) => {
            let since = tokio::time::Instant::now();
            Ok((Open { to_server, from_server, since }, welcome))
        }
        _ => Err(Broken::Lost("the first message was no Welcome".to_owned())),
    }
}

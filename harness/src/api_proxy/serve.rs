//! The proxy's connections and the way of one request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderName, RETRY_AFTER, TRANSFER_ENCODING};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::ApiCall;
use super::fault::{Fault, Refusal, Rules, WatchFault};
use super::record::Record;
use super::stream::{Cut, ProxyBody, obeying, truncated};

/// The API server takes no larger request (its own limit is 3 MiB).
const MAX_REQUEST: usize = 4 << 20;
/// Connections at a time; the next one waits, as for a server that is full.
const MAX_CONNECTIONS: usize = 512;
/// What one side of a proxy says to the other of their connection alone.
const HOP_BY_HOP: [HeaderName; 3] = [CONNECTION, TRANSFER_ENCODING, HOST];

/// What a connection obeys, from its beginning on.
#[derive(Debug, Clone, Default)]
pub(super) struct Era {
    /// Ends it.
    pub(super) cut: CancellationToken,
    /// Leaves it open and without another byte.
    pub(super) mute: CancellationToken,
}

/// What changes while the proxy serves.
#[derive(Debug, Default)]
pub(super) struct Changing {
    pub(super) rules: Rules,
    pub(super) record: Record,
    pub(super) era: Era,
    /// What lets go of the requests that are held.
    pub(super) hold: CancellationToken,
    /// What ends the connections that were made mute.
    pub(super) mute: Vec<CancellationToken>,
    /// Whether a new connection is mute from its beginning.
    pub(super) silent: bool,
    /// How many requests are being carried out whose fault is that their answer is lost.
    pub(super) carrying_out: usize,
    pub(super) watches: Vec<(ApiCall, watch::Sender<Option<WatchFault>>)>,
}

/// What all connections share.
pub(super) struct Shared {
    pub(super) upstream: Client,
    /// What a client has to show, so that no other process of this host can use the credentials
    /// behind the proxy.
    pub(super) token: String,
    pub(super) closed: CancellationToken,
    changing: Mutex<Changing>,
    room: Arc<Semaphore>,
}

/// One of [`Changing::carrying_out`], until the API server has answered or the client has gone.
struct CarryingOut<'a>(&'a Shared);

impl Drop for CarryingOut<'_> {
    fn drop(&mut self) {
        self.0.changing().carrying_out -= 1;
    }
}

impl Changing {
    /// Leaves the connections of the present era open and without another byte.
    pub(super) fn mute_era(&mut self) {
        let past = std::mem::take(&mut self.era);
        past.mute.cancel();
        self.mute.push(past.cut);
    }

    /// Breaks what was made mute.
    pub(super) fn cut_mute(&mut self) {
        self.mute.drain(..).for_each(|cut| cut.cancel());
    }
}

impl Shared {
    pub(super) fn new(upstream: Client, token: String) -> Self {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let (closed, changing) = (CancellationToken::new(), Mutex::default());
        Self { upstream, token, closed, changing, room }
    }

    pub(super) fn changing(&self) -> MutexGuard<'_, Changing> {
        self.changing.lock().expect("no one panics while changing the proxy's state")
    }
}

/// Listens on `address`.
pub(super) async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Accepts until it is aborted.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok(room) = shared.room.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (era, silent) = {
            let changing = shared.changing();
            (changing.era.clone(), changing.silent)
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            let _room = room;
            let closed = shared.closed.clone();
            tokio::select! {
                () = closed.cancelled() => {}
                () = era.cut.cancelled() => {}
                () = converse(stream, shared, &era, silent) => {}
            }
        });
    }
}

/// Serves one connection until it ends, or holds it open and mute for ever.
async fn converse(stream: TcpStream, shared: Arc<Shared>, era: &Era, silent: bool) {
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { answer(&shared, request).await }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    if !silent {
        tokio::select! {
            biased;
            () = era.mute.cancelled() => {}
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection of the fault proxy ended");
                }
                return;
            }
        }
    }
    std::future::pending().await
}

/// The way of one request. An error ends its connection without an answer.
async fn answer(shared: &Shared, request: Request<Incoming>) -> Result<Response<ProxyBody>, Cut> {
    let call = ApiCall::parse(request.method(), request.uri());
    let expected = format!("Bearer {}", shared.token);
    let known = request.headers().get(AUTHORIZATION).is_some_and(|given| given == &*expected);
    let (number, fault, hold, carrying_out) = {
        let mut changing = shared.changing();
        let fault = if known { changing.rules.take(&call) } else { Some(Fault::status(401)) };
        let said = fault.as_ref().map(Fault::describe);
        let number = changing.record.arrived(request.method().as_str(), call.clone(), said);
        let loses_answer = matches!(fault, Some(Fault::CutAfter | Fault::SilenceAfter));
        changing.carrying_out += usize::from(loses_answer);
        let carrying_out = loses_answer.then(|| CarryingOut(shared));
        (number, fault, changing.hold.clone(), carrying_out)
    };
    let response = match &fault {
        Some(Fault::CutBefore) => return Err(Cut),
        Some(Fault::Silence) => std::future::pending().await,
        Some(Fault::Answer(refusal)) => refuse(refusal),
        Some(Fault::Hold) => {
            hold.cancelled().await;
            forward(shared, &call, request, false).await?
        }
        Some(Fault::Delay(by)) => {
            tokio::time::sleep(*by).await;
            forward(shared, &call, request, false).await?
        }
        Some(Fault::CutAfter) => {
            forward(shared, &call, request, false).await?;
            return Err(Cut);
        }
        Some(Fault::SilenceAfter) => {
            forward(shared, &call, request, false).await?;
            drop(carrying_out);
            std::future::pending().await
        }
        Some(Fault::Truncate) => forward(shared, &call, request, true).await?,
        None => forward(shared, &call, request, false).await?,
    };
    shared.changing().record.answered(number, response.status().as_u16());
    Ok(response)
}

async fn forward(
    shared: &Shared,
    call: &ApiCall,
    request: Request<Incoming>,
    truncate: bool,
) -> Result<Response<ProxyBody>, Cut> {
    let (mut parts, body) = request.into_parts();
    let body = Limited::new(body, MAX_REQUEST).collect().await.map_err(|_| Cut)?.to_bytes();
    strip(&mut parts.headers);
    // The client behind the proxy has credentials of its own.
    parts.headers.remove(AUTHORIZATION);
    let sent = shared.upstream.send(Request::from_parts(parts, Body::from(body))).await;
    // An API server that does not answer is passed on as what it is.
    let (mut parts, body) = sent
        .map_err(|error| {
            tracing::debug!(%error, "the API server did not answer the fault proxy");
            Cut
        })?
        .into_parts();
    strip(&mut parts.headers);
    let body = if truncate {
        truncated(body)
    } else if call.verb == "watch" && parts.status.is_success() {
        let (orders, obeyed) = watch::channel(None);
        let mut changing = shared.changing();
        changing.watches.retain(|(_, orders)| !orders.is_closed());
        changing.watches.push((call.clone(), orders));
        obeying(body, obeyed)
    } else {
        body.map_err(Into::into).boxed_unsync()
    };
    Ok(Response::from_parts(parts, body))
}

fn strip(headers: &mut HeaderMap) {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn refuse(refusal: &Refusal) -> Response<ProxyBody> {
    let body = Full::new(Bytes::from(refusal.body().to_string()));
    let body = body.map_err(|never: Infallible| match never {}).boxed_unsync();
    let mut answer = Response::builder()
        .status(refusal.code)
        .header(http::header::CONTENT_TYPE, "application/json");
    if let Some(seconds) = refusal.retry_after {
        answer = answer.header(RETRY_AFTER, seconds);
    }
    answer.body(body).expect("a status code of three digits makes a response")
}

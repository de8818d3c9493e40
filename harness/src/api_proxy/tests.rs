//! The proxy between a real client and a small server that stands in for the API server.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio_stream::wrappers::ReceiverStream;

use super::*;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is silent for this long is taken for silent.
const QUIET: Duration = Duration::from_millis(300);
const PODS: &str = "/api/v1/namespaces/n/pods";

/// Answers with what it was sent; a watch gives a line each time it is told to, and a pod named
/// `slow` is answered about when it is told to.
struct Upstream {
    address: SocketAddr,
    seen: Arc<AtomicUsize>,
    events: tokio::sync::broadcast::Sender<()>,
}

impl Upstream {
    async fn start() -> Self {
        let listener = serve::listen((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (events, _) = tokio::sync::broadcast::channel(16);
        let seen = Arc::new(AtomicUsize::new(0));
        let (sender, counter) = (events.clone(), seen.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (sender, counter) = (sender.clone(), counter.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    counter.fetch_add(1, Ordering::SeqCst);
                    let events = sender.subscribe();
                    async move { Ok::<_, Infallible>(respond(request, events).await) }
                });
                let serving = hyper::server::conn::http1::Builder::new();
                tokio::spawn(serving.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, seen, events }
    }

    fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

async fn respond(
    request: Request<Incoming>,
    mut events: tokio::sync::broadcast::Receiver<()>,
) -> Response<stream::ProxyBody> {
    let watched = request.uri().query().is_some_and(|query| query.contains("watch"));
    if request.uri().path().ends_with("/slow") {
        events.recv().await.unwrap();
    }
    let auth = request.headers().contains_key("authorization");
    let sent = request.into_body().collect().await.unwrap().to_bytes();
    let (sender, frames) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let mut data = if watched { Bytes::new() } else { Bytes::from(format!("auth={auth} ")) };
        if !watched {
            data = [data, sent].concat().into();
        }
        drop(sender.send(Ok(Frame::data(data))).await);
        while watched && events.recv().await.is_ok() {
            let line = Bytes::from_static(b"{\"type\":\"ADDED\"}\n");
            if sender.send(Ok(Frame::data(line))).await.is_err() {
                return;
            }
        }
    });
    Response::new(BodyExt::boxed_unsync(StreamBody::new(ReceiverStream::new(frames))))
}

struct Set {
    upstream: Upstream,
    proxy: ApiProxy,
    client: Client,
    _directory: tempfile::TempDir,
}

async fn client_of(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

async fn set_up() -> Set {
    let _already = rustls::crypto::ring::default_provider().install_default();
    let upstream = Upstream::start().await;
    let mut config = kube::Config::new(format!("http://{}", upstream.address).parse().unwrap());
    config.default_retry = false;
    let directory = tempfile::tempdir().unwrap();
    let behind = Client::try_from(config).unwrap();
    let proxy = ApiProxy::start(behind, "n", directory.path()).await.unwrap();
    let client = client_of(proxy.kubeconfig()).await;
    Set { upstream, proxy, client, _directory: directory }
}

impl Set {
    /// Status and body, or `None` if the connection broke.
    async fn send(&self, method: &str, uri: &str, body: &'static str) -> Option<(u16, String)> {
        let request =
            Request::builder().method(method).uri(uri).body(Body::from(body.as_bytes().to_vec()));
        let sending = async {
            let answer = self.client.send(request.unwrap()).await.ok()?;
            let status = answer.status().as_u16();
            let bytes = answer.into_body().collect_bytes().await.ok()?;
            Some((status, String::from_utf8_lossy(&bytes).into_owned()))
        };
        tokio::time::timeout(PATIENCE, sending).await.expect("an answer or a broken connection")
    }

    async fn is_silent(&self, method: &str, uri: &str) -> bool {
        tokio::time::timeout(QUIET, self.send(method, uri, "")).await.is_err()
    }

    /// A watch that has given its first event.
    async fn watch(&self) -> impl futures::Stream<Item = Result<Bytes, kube::Error>> + use<> {
        let request = Request::get(format!("{PODS}?watch=true")).body(Body::empty()).unwrap();
        let answer = self.client.send(request).await.unwrap();
        let mut stream = Box::pin(answer.into_body().into_data_stream());
        self.upstream.events.send(()).unwrap();
        assert_eq!(next(&mut stream).await.unwrap().unwrap(), "{\"type\":\"ADDED\"}\n");
        stream
    }
}

async fn next<S: futures::Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    tokio::time::timeout(PATIENCE, stream.next()).await.expect("an event or the end")
}

#[tokio::test]
async fn requests_pass_with_other_credentials_and_are_written_down() {
    let set = set_up().await;
    let answer = set.send("POST", PODS, "hello").await;
    assert_eq!(
        answer,
        Some((200, "auth=false hello".into())),
        "the client's token is not passed on"
    );
    let seen = set.proxy.requests();
    let call = ApiCall {
        verb: "create".into(),
        resource: "pods".into(),
        namespace: "n".into(),
        ..ApiCall::default()
    };
    assert_eq!((seen.len(), &seen[0].call, seen[0].code), (1, &call, Some(200)));
    let line: serde_json::Value = serde_json::from_str(set.proxy.evidence().trim()).unwrap();
    assert_eq!((&line["verb"], &line["code"]), (&json!("create"), &json!(200)));
    let stranger = reqwest::get(format!("http://{}{PODS}", address(&set.proxy.lease))).await;
    assert_eq!(stranger.unwrap().status(), 401);
    assert_eq!(set.upstream.seen(), 1, "a stranger's request is not passed on");
}

#[tokio::test]
async fn an_injected_answer_hits_what_it_names_and_as_often_as_told() {
    let set = set_up().await;
    set.proxy.inject(Match::of("create", "pods"), Fault::too_many_requests(7), 2);
    assert_eq!(set.send("GET", PODS, "").await.unwrap().0, 200);
    let limited = reqwest::Client::new()
        .post(format!("http://{}{PODS}", address(&set.proxy.lease)))
        .bearer_auth(&set.proxy.shared.token)
        .send()
        .await
        .unwrap();
    assert_eq!(
        (limited.status().as_u16(), &limited.headers()["retry-after"]),
        (429, &http::HeaderValue::from(7))
    );
    let (code, body) = set.send("POST", PODS, "x").await.unwrap();
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (code, &status["reason"], &status["code"]),
        (429, &json!("TooManyRequests"), &json!(429))
    );
    assert_eq!(set.proxy.pending_faults(), 0);
    assert_eq!(set.send("POST", PODS, "x").await.unwrap().0, 200);
    assert_eq!(set.upstream.seen(), 2, "an answer of the proxy's is not asked for upstream");
}

#[tokio::test]
async fn a_broken_connection_is_before_or_after_the_deed() {
    let set = set_up().await;
    set.proxy.inject(Match::any(), Fault::CutBefore, 1);
    assert_eq!((set.send("POST", PODS, "x").await, set.upstream.seen()), (None, 0));
    set.proxy.inject(Match::any(), Fault::CutAfter, 1);
    assert_eq!((set.send("POST", PODS, "x").await, set.upstream.seen()), (None, 1));
    set.proxy.inject(Match::any(), Fault::Truncate, 1);
    assert_eq!((set.send("POST", PODS, "x").await, set.upstream.seen()), (None, 2));
    assert_eq!(set.send("POST", PODS, "x").await.unwrap().0, 200);
    let codes: Vec<_> = set.proxy.requests().iter().map(|request| request.code).collect();
    assert_eq!(codes, [None, None, Some(200), Some(200)]);
}

#[tokio::test]
async fn a_delayed_request_comes_late_and_a_silenced_one_never() {
    let set = set_up().await;
    set.proxy.inject(Match::any(), Fault::Delay(QUIET), 1);
    let begun = std::time::Instant::now();
    assert_eq!(set.send("GET", PODS, "").await.unwrap().0, 200);
    assert!(begun.elapsed() >= QUIET);
    set.proxy.inject(Match::of("get", "pods").named("p"), Fault::Silence, 1);
    assert!(set.is_silent("GET", &format!("{PODS}/p")).await);
    assert_eq!(set.send("GET", &format!("{PODS}/p"), "").await.unwrap().0, 200);
    assert_eq!(set.upstream.seen(), 2);
    set.proxy.inject(Match::any(), Fault::SilenceAfter, 1);
    assert!(set.is_silent("POST", PODS).await);
    assert_eq!(set.upstream.seen(), 3, "it was carried out");
}

#[tokio::test]
async fn a_fault_is_pending_until_the_deed_is_done() {
    let set = set_up().await;
    set.proxy.inject(Match::any(), Fault::SilenceAfter, 1);
    let uri = format!("{PODS}/slow");
    let watching = async {
        while set.upstream.seen() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(set.proxy.pending_faults(), 1, "it has come, and is not carried out");
        set.upstream.events.send(()).unwrap();
        while set.proxy.pending_faults() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        answer = set.send("GET", &uri, "") => panic!("answered: {answer:?}"),
        () = watching => {}
    }
    set.proxy.inject(Match::any(), Fault::SilenceAfter, 1);
    assert!(set.is_silent("GET", &uri).await);
    set.proxy.cut_connections();
    let left = async {
        while set.proxy.pending_faults() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, left).await.expect("whoever has gone waits for nothing");
}

#[tokio::test]
async fn a_held_request_goes_on_when_it_is_let_go() {
    let set = set_up().await;
    set.proxy.inject(Match::of("create", "pods"), Fault::Hold, 1);
    let dry = format!("{PODS}?dryRun=All");
    assert_eq!(set.send("POST", &dry, "x").await.unwrap().0, 200, "a dry run makes nothing");
    let release = async {
        while set.proxy.pending_faults() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(set.upstream.seen(), 1);
        set.proxy.let_go();
    };
    let (held, ()) = tokio::join!(set.send("POST", PODS, "x"), release);
    assert_eq!((held.unwrap().0, set.upstream.seen()), (200, 2));
}

#[tokio::test]
async fn half_open_connections_stay_mute_while_new_ones_work() {
    let set = set_up().await;
    let mut watch = set.watch().await;
    set.proxy.half_open_connections();
    set.upstream.events.send(()).unwrap();
    assert!(tokio::time::timeout(QUIET, watch.next()).await.is_err(), "no event and no end");
    let other = client_of(set.proxy.kubeconfig()).await;
    let fresh = Set { client: other, ..set };
    assert_eq!(fresh.send("GET", PODS, "").await.unwrap().0, 200);
    fresh.proxy.silence();
    assert!(fresh.is_silent("GET", PODS).await);
    fresh.proxy.restore().await.unwrap();
    assert!(tokio::time::timeout(QUIET, watch.next()).await.is_err(), "mute for ever");
    fresh.proxy.heal().await.unwrap();
    assert!(next(&mut watch).await.unwrap().is_err(), "healing breaks what is mute");
    let again = client_of(fresh.proxy.kubeconfig()).await;
    assert_eq!(Set { client: again, ..fresh }.send("GET", PODS, "").await.unwrap().0, 200);
}

#[tokio::test]
async fn a_server_that_is_down_refuses_and_comes_back_on_its_port() {
    let set = set_up().await;
    let mut watch = set.watch().await;
    set.proxy.take_down().await;
    assert!(next(&mut watch).await.unwrap().is_err());
    let refused = tokio::net::TcpStream::connect(address(&set.proxy.lease)).await;
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    set.proxy.restore().await.unwrap();
    assert_eq!(set.send("GET", PODS, "").await.unwrap().0, 200);
    set.proxy.cut_connections();
    let mut watch = set.watch().await;
    set.proxy.cut_connections();
    assert!(next(&mut watch).await.unwrap().is_err());
    assert_eq!(set.send("GET", PODS, "").await.unwrap().0, 200);
}

#[tokio::test]
async fn an_open_watch_expires_ends_stalls_or_breaks_in_mid_line() {
    let set = set_up().await;
    let mut watch = set.watch().await;
    assert_eq!((set.proxy.open_watches("pods"), set.proxy.open_watches("secrets")), (1, 0));
    assert_eq!(set.proxy.disturb_watches("pods", WatchFault::Expire), 1);
    let event: serde_json::Value =
        serde_json::from_slice(&next(&mut watch).await.unwrap().unwrap()).unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert!(next(&mut watch).await.is_none());
    let mut watch = set.watch().await;
    assert_eq!(set.proxy.disturb_watches("pods", WatchFault::End), 1, "the ended one is forgotten");
    assert!(next(&mut watch).await.is_none());
    let mut watch = set.watch().await;
    set.proxy.disturb_watches("pods", WatchFault::Truncate);
    set.upstream.events.send(()).unwrap();
    assert_eq!(next(&mut watch).await.unwrap().unwrap(), "{\"type\":");
    assert!(next(&mut watch).await.unwrap().is_err());
    let mut watch = set.watch().await;
    set.proxy.disturb_watches("pods", WatchFault::Stall);
    set.upstream.events.send(()).unwrap();
    assert!(tokio::time::timeout(QUIET, watch.next()).await.is_err());
    assert_eq!(set.send("GET", PODS, "").await.unwrap().0, 200, "only the watch stalls");
}

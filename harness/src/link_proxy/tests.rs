//! Each fault over real sockets, in both directions.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const WAYS: [Way; 2] = [Way::ToServer, Way::ToWorkers];
/// How long something is waited for that must not come.
const NEVER: Duration = Duration::from_millis(100);

/// A proxy before one server that the test plays, as it does the workers.
struct Ends {
    proxy: LinkProxy,
    address: SocketAddr,
    server: TcpListener,
}

impl Ends {
    async fn start() -> Self {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let lease = PortLease::take().unwrap();
        let address = SocketAddr::new(LOOPBACK, lease.port());
        let replicas = vec![server.local_addr().unwrap()];
        let proxy = LinkProxy::start(LOOPBACK, lease, replicas).await.unwrap();
        Self { proxy, address, server }
    }

    async fn worker(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Both ends of a new connection: who sends in this direction, and who receives.
    async fn pair(&self, way: Way) -> (TcpStream, TcpStream) {
        let worker = self.worker().await;
        let (server, _) = self.server.accept().await.unwrap();
        match way {
            Way::ToServer => (worker, server),
            Way::ToWorkers => (server, worker),
        }
    }
}

fn other(way: Way) -> Way {
    if way == Way::ToServer { Way::ToWorkers } else { Way::ToServer }
}

async fn receive(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut buffer = vec![0; bytes];
    stream.read_exact(&mut buffer).await.unwrap();
    buffer
}

async fn assert_silent(stream: &mut TcpStream) {
    let got = timeout(NEVER, stream.read_u8()).await;
    assert!(got.is_err(), "something got through: {got:?}");
}

async fn assert_reset(stream: &mut TcpStream) {
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

async fn named(listener: TcpListener, name: u8) {
    while let Ok((mut stream, _)) = listener.accept().await {
        stream.write_u8(name).await.unwrap();
    }
}

#[tokio::test]
async fn connections_take_turns_and_pass_over_a_replica_that_is_down() {
    let (one, two) = tokio::join!(
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)),
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)),
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    let replicas = vec![one.local_addr().unwrap(), two.local_addr().unwrap()];
    let first = tokio::spawn(named(one, 1));
    tokio::spawn(named(two, 2));
    let lease = PortLease::take().unwrap();
    let address = SocketAddr::new(LOOPBACK, lease.port());
    let _proxy = LinkProxy::start(LOOPBACK, lease, replicas).await.unwrap();
    let who = async || TcpStream::connect(address).await.unwrap().read_u8().await.unwrap();
    assert_eq!([who().await, who().await, who().await], [1, 2, 1]);
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!([who().await, who().await], [2, 2]);
}

#[tokio::test]
async fn a_sound_link_carries_every_byte_and_the_end() {
    let ends = Ends::start().await;
    for way in WAYS {
        let (mut sender, mut receiver) = ends.pair(way).await;
        let sent: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        let send = async {
            sender.write_all(&sent).await.unwrap();
            sender.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (_, read) = tokio::join!(send, receiver.read_to_end(&mut got));
        read.unwrap();
        assert!(got == sent, "{way:?}");
        receiver.write_u8(7).await.unwrap();
        assert_eq!(sender.read_u8().await.unwrap(), 7, "the other half is open");
    }
}

#[tokio::test]
async fn a_delay_is_that_of_its_direction() {
    let delay = Duration::from_millis(400);
    for way in WAYS {
        let ends = Ends::start().await;
        let (mut sender, mut receiver) = ends.pair(way).await;
        ends.proxy.delay(way, delay);
        let begun = Instant::now();
        sender.write_all(b"ab").await.unwrap();
        receive(&mut receiver, 2).await;
        assert!(begun.elapsed() >= delay, "{way:?}");
        let begun = Instant::now();
        receiver.write_all(b"c").await.unwrap();
        receive(&mut sender, 1).await;
        assert!(begun.elapsed() < delay, "{way:?}: the other direction is late, too");
    }
}

#[tokio::test]
async fn a_throttled_direction_has_its_rate_and_loses_nothing() {
    let rate = NonZeroU32::new(100_000).unwrap();
    for way in WAYS {
        let ends = Ends::start().await;
        let (mut sender, mut receiver) = ends.pair(way).await;
        ends.proxy.throttle(way, rate);
        let sent: Vec<u8> = (0..50_000_u32).map(|i| (i % 251) as u8).collect();
        let begun = Instant::now();
        sender.write_all(&sent).await.unwrap();
        assert!(receive(&mut receiver, sent.len()).await == sent, "{way:?}");
        // The last slice has arrived before its time is over.
        assert!(begun.elapsed() >= Duration::from_millis(390), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn what_is_held_in_one_direction_arrives_once_it_is_healed() {
    for way in WAYS {
        let ends = Ends::start().await;
        let (mut sender, mut receiver) = ends.pair(way).await;
        ends.proxy.hold(way);
        sender.write_all(b"held").await.unwrap();
        assert_silent(&mut receiver).await;
        receiver.write_all(b"back").await.unwrap();
        assert_eq!(receive(&mut sender, 4).await, b"back", "the other direction is free");
        sender.shutdown().await.unwrap();
        assert_silent(&mut receiver).await;
        ends.proxy.heal();
        let mut got = Vec::new();
        receiver.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"held", "{way:?}");
    }
}

#[tokio::test]
async fn so_many_bytes_pass_before_it_is_held() {
    for way in WAYS {
        let ends = Ends::start().await;
        let (mut sender, mut receiver) = ends.pair(way).await;
        ends.proxy.hold_after(way, 6);
        sender.write_all(b"123").await.unwrap();
        assert_eq!(receive(&mut receiver, 3).await, b"123");
        assert!(!ends.proxy.is_held());
        sender.write_all(b"456789").await.unwrap();
        assert_eq!(receive(&mut receiver, 3).await, b"456");
        assert_silent(&mut receiver).await;
        assert!(ends.proxy.is_held());
        ends.proxy.heal();
        assert_eq!(receive(&mut receiver, 3).await, b"789", "{way:?}");
        ends.proxy.hold(other(way));
        assert!(ends.proxy.is_held());
    }
}

#[tokio::test]
async fn a_connection_made_in_a_partition_gets_nothing_and_is_reset_by_the_healing() {
    let ends = Ends::start().await;
    let (mut before, mut server) = ends.pair(Way::ToServer).await;
    ends.proxy.partition();
    let mut late = ends.worker().await;
    late.write_all(b"hello").await.unwrap();
    before.write_all(b"b").await.unwrap();
    assert_silent(&mut late).await;
    assert_silent(&mut server).await;
    assert_eq!(ends.proxy.connections(), 2);
    ends.proxy.heal();
    assert_reset(&mut late).await;
    assert_eq!(receive(&mut server, 1).await, b"b", "an earlier connection goes on");
    let (mut worker, mut server) = ends.pair(Way::ToServer).await;
    worker.write_all(b"n").await.unwrap();
    assert_eq!(receive(&mut server, 1).await, b"n", "and so do new ones");
}

#[tokio::test]
async fn a_reset_is_seen_at_both_ends_even_while_held() {
    for held in [false, true] {
        let ends = Ends::start().await;
        let (mut worker, mut server) = ends.pair(Way::ToServer).await;
        if held {
            ends.proxy.partition();
        }
        ends.proxy.reset();
        assert_reset(&mut worker).await;
        assert_reset(&mut server).await;
        ends.proxy.heal();
        let (mut worker, mut server) = ends.pair(Way::ToServer).await;
        worker.write_all(b"n").await.unwrap();
        assert_eq!(receive(&mut server, 1).await, b"n", "new ones are carried");
    }
}

#[tokio::test]
async fn a_reset_of_one_end_reaches_the_other_behind_what_is_held() {
    let ends = Ends::start().await;
    let (sender, mut receiver) = ends.pair(Way::ToServer).await;
    ends.proxy.hold(Way::ToServer);
    sender.set_zero_linger().unwrap();
    drop(sender);
    assert_silent(&mut receiver).await;
    ends.proxy.heal();
    assert_reset(&mut receiver).await;
}

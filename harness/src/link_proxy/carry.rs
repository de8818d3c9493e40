//! One connection on the link.

use std::io;
use std::net::SocketAddr;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::Way;
use super::line::Link;

/// Pieces of one direction that are on their way at once.
const PIECES: usize = 64;
/// The largest of them, in bytes.
const PIECE_BYTES: usize = 16 << 10;

/// A piece and when it was read, or how the connection broke.
type Piece = io::Result<(Instant, Bytes)>;

/// Carries a connection to the first of the replicas that takes it, until it ends or is reset.
pub(super) async fn carry(mut worker: TcpStream, replicas: &[SocketAddr], link: &Link) {
    let reset = link.join();
    if link.is_held() {
        tokio::select! {
            () = link.let_go() => {}
            () = reset.cancelled() => {}
        }
        make_reset(&worker);
        return;
    }
    let Some(mut server) = connect(replicas).await else { return };
    let ended = {
        let ((from_worker, to_worker), (from_server, to_server)) = (worker.split(), server.split());
        let both = async {
            tokio::try_join!(
                pump(from_worker, to_server, Way::ToServer, link),
                pump(from_server, to_worker, Way::ToWorkers, link),
            )
        };
        tokio::select! {
            both = both => both.map(drop),
            () = reset.cancelled() => Err(io::ErrorKind::ConnectionReset.into()),
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of the worker link broke");
        make_reset(&worker);
        make_reset(&server);
    }
}

async fn connect(replicas: &[SocketAddr]) -> Option<TcpStream> {
    for replica in replicas {
        if let Ok(server) = TcpStream::connect(replica).await {
            return Some(server);
        }
    }
    None
}

/// Has the peer see a reset instead of an end when the connection is dropped.
fn make_reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "a connection ends without a reset");
    }
}

/// Carries one direction to its end, and the end.
async fn pump(from: ReadHalf<'_>, to: WriteHalf<'_>, way: Way, link: &Link) -> io::Result<()> {
    let (queue, pieces) = mpsc::channel(PIECES);
    let reading = read_pieces(from, queue);
    let writing = write_pieces(to, pieces, way, link);
    tokio::pin!(writing);
    tokio::select! {
        written = &mut writing => written,
        () = reading => writing.await,
    }
}

async fn read_pieces(mut from: ReadHalf<'_>, queue: mpsc::Sender<Piece>) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE_BYTES);
        let piece = match (&mut from).take(PIECE_BYTES as u64).read_buf(&mut buffer).await {
            Ok(0) => return,
            Ok(_) => Ok((Instant::now(), buffer.split().freeze())),
            Err(error) => Err(error),
        };
        let is_last = piece.is_err();
        if queue.send(piece).await.is_err() || is_last {
            return;
        }
    }
}

/// How the connection ended or broke waits behind what was read before.
async fn write_pieces(
    mut to: WriteHalf<'_>,
    mut pieces: mpsc::Receiver<Piece>,
    way: Way,
    link: &Link,
) -> io::Result<()> {
    while let Some(piece) = pieces.recv().await {
        link.way_free(way).await;
        let (read_at, mut piece) = piece?;
        sleep_until(read_at + link.delay(way)).await;
        while !piece.is_empty() {
            let (count, takes) = link.pass(way, piece.len()).await;
            to.write_all(&piece[..count]).await?;
            piece.advance(count);
            sleep(takes).await;
        }
    }
    link.way_free(way).await;
    to.shutdown().await
}

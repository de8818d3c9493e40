//! What the workers of a case reach its server through, or the replicas of it, as through a Service in
//! production: a connection goes to the next replica in turn that takes it. The case says what becomes
//! of the link.
//!
//! It carries TCP and knows nothing of what is said in it. A link that is held loses nothing: as with
//! packets on a network, what was sent waits until it gets through, and meanwhile nobody is told, not
//! even that a connection ended. A connection that is made meanwhile gets nothing, and is reset when the
//! link is let go.

mod carry;
mod line;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use self::carry::carry;
use self::line::Link;
use crate::failure::{Classify, Result};
use crate::ports::PortLease;

/// Connections at a time; the next one waits.
const MAX_CONNECTIONS: usize = 512;

/// A direction of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From workers to the server.
    ToServer,
    /// From the server to workers.
    ToWorkers,
}

/// A proxy that forwards until it is dropped. What is asked for holds for the connections that there are
/// and for those to come, until [`Self::heal`].
#[derive(Debug)]
pub struct LinkProxy {
    link: Arc<Link>,
    _port: PortLease,
    _accepting: AbortOnDropHandle<()>,
}

impl LinkProxy {
    /// Listens on a leased port, in front of one or more replicas.
    ///
    /// # Errors
    /// The port cannot be listened on.
    pub async fn start(listen: IpAddr, port: PortLease, replicas: Vec<SocketAddr>) -> Result<Self> {
        let address = SocketAddr::new(listen, port.port());
        let listener = TcpListener::bind(address).await;
        let listener = listener.infrastructure("listen on", address.to_string())?;
        let link = Arc::new(Link::default());
        let accepting = tokio::spawn(accept(listener, replicas, link.clone()));
        Ok(Self { link, _port: port, _accepting: AbortOnDropHandle::new(accepting) })
    }

    /// Everything of this direction arrives so much later.
    pub fn delay(&self, way: Way, delay: Duration) {
        self.link.change(way, |line| line.delay = delay);
    }

    /// A connection gets this many bytes a second through in this direction.
    pub fn throttle(&self, way: Way, bytes_per_second: NonZeroU32) {
        self.link.change(way, |line| line.bytes_per_second = Some(bytes_per_second));
    }

    /// Nothing gets through in this direction, and nobody is told: the link is half-open.
    pub fn hold(&self, way: Way) {
        self.hold_after(way, 0);
    }

    /// The same once this many further bytes of all connections got through.
    pub fn hold_after(&self, way: Way, bytes: u64) {
        self.link.change(way, |line| line.allowance = Some(bytes));
    }

    /// Nothing gets through in either direction.
    pub fn partition(&self) {
        self.hold(Way::ToServer);
        self.hold(Way::ToWorkers);
    }

    /// Resets every connection; new ones are carried.
    pub fn reset(&self) {
        self.link.reset();
    }

    /// The link is sound again. What was held arrives.
    pub fn heal(&self) {
        self.link.heal();
    }

    /// Whether nothing gets through in some direction.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.link.is_held()
    }

    /// How many connections were made so far, those included that got nothing.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.link.connections()
    }
}

async fn accept(listener: TcpListener, replicas: Vec<SocketAddr>, link: Arc<Link>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    for turn in 0.. {
        let Ok(room) = room.clone().acquire_owned().await else { return };
        let Ok((worker, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let mut replicas = replicas.clone();
        let first = turn % replicas.len();
        replicas.rotate_left(first);
        let link = link.clone();
        connections.spawn(async move {
            let _room = room;
            carry(worker, &replicas, &link).await;
        });
    }
}

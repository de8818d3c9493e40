//! What jobs of a case wait at, so that they last for as long as the case needs them and no longer,
//! however busy the machine is.

use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::CaseEnv;
use crate::failure::{Classify, Result};
use crate::ports::PortLease;

/// A port of this host. Nobody listens on it until the gate is opened.
#[derive(Debug)]
pub struct Gate {
    port: PortLease,
    listen: IpAddr,
    /// As pods reach it.
    address: IpAddr,
    open: JoinSet<()>,
}

impl CaseEnv {
    /// Makes a gate, which is closed.
    ///
    /// # Errors
    /// No port is to be had.
    pub fn make_gate(&self) -> Result<Gate> {
        let host = &self.environment.host;
        let (listen, address) = (host.listen, host.address);
        Ok(Gate { port: PortLease::take()?, listen, address, open: JoinSet::new() })
    }
}

impl Gate {
    /// The line of a shell's script that waits until the gate is open.
    #[must_use]
    pub fn wait(&self) -> String {
        let (address, port) = (self.address, self.port.port());
        format!("until bash -c 'exec 3<>/dev/tcp/{address}/{port}' 2>/dev/null; do sleep 0.2; done")
    }

    /// Lets all jobs go on, until it is dropped.
    ///
    /// # Errors
    /// Somebody else listens on the port.
    pub async fn open(&mut self) -> Result<()> {
        let address = SocketAddr::new(self.listen, self.port.port());
        let bound = TcpListener::bind(address).await;
        let listener = bound.infrastructure("open the gate at", address.to_string())?;
        self.open.spawn(async move {
            loop {
                drop(listener.accept().await);
            }
        });
        Ok(())
    }
}

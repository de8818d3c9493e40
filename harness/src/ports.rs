//! Ports that parallel processes of the harness do not take from each other.
//!
//! A server that is killed must come back on its own port, so the port cannot be one the kernel
//! gives away meanwhile: these lie below its ephemeral range (32768 on Linux) and each is guarded
//! by a lock file that the kernel releases with its owner.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};

use crate::failure::{Classify, FailureClass, HarnessError, Result};

/// First and last port that is handed out.
const RANGE: std::ops::Range<u16> = 21_000..31_000;

/// One port, ours until this is dropped.
#[derive(Debug)]
pub struct PortLease {
    port: u16,
    _lock: File,
}

impl PortLease {
    /// Takes a port that no other lease holds and nothing listens on.
    ///
    /// # Errors
    /// The lock directory cannot be used, or all ports are taken.
    pub fn take() -> Result<Self> {
        let subject = "a port";
        let size = RANGE.end - RANGE.start;
        let random = uuid::Uuid::new_v4().as_u128() % u128::from(size);
        let first = u16::try_from(random).infrastructure("lease", subject)?;
        for step in 0..size {
            let port = RANGE.start + (first + step) % size;
            let lock = lock_file(port)?;
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
                return Ok(Self { port, _lock: lock });
            }
        }
        let cause = format!("all of {} to {} are taken", RANGE.start, RANGE.end);
        Err(HarnessError::new(FailureClass::Infrastructure, "lease", subject, cause))
    }

    /// Takes this very port.
    ///
    /// # Errors
    /// Something listens on it.
    pub fn exactly(port: u16) -> Result<Self> {
        let subject = || format!("port {port}");
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).infrastructure("use", subject()).map_err(
            |error| {
                error.with_help(format!(
                    "see what listens there with `ss -ltnp sport = {port}` and end it"
                ))
            },
        )?;
        let lock = lock_file(port)?;
        Ok(Self { port, _lock: lock })
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

fn lock_file(port: u16) -> Result<File> {
    let subject = || format!("port {port}");
    let dir = std::env::temp_dir().join(format!("hodei-e2e-ports-{}", nix::unistd::getuid()));
    std::fs::create_dir_all(&dir).infrastructure("lease", subject())?;
    let mut options = OpenOptions::new();
    let file = options.create(true).append(true).open(dir.join(port.to_string()));
    file.infrastructure("lease", subject())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_leases_never_agree_and_a_port_in_use_is_passed_over() {
        let leases: Vec<_> = (0..50).map(|_| PortLease::take().unwrap()).collect();
        let mut ports: Vec<_> = leases.iter().map(PortLease::port).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 50);
    }
}

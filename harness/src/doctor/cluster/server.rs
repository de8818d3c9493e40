//! Where the server is that workers are to reach, as a person writes it.

use std::fmt;
use std::str::FromStr;

use crate::host_route::Hops;

/// Where the server is that workers are to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) hops: Hops,
}

impl FromStr for ServerAddress {
    type Err = String;

    /// `http://host:port`, or `https://host:port`, of which a connection is all that is proved.
    fn from_str(text: &str) -> Result<Self, String> {
        let says = || format!("{text:?} is not http://HOST:PORT or https://HOST:PORT");
        let (hops, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Hops::Grpc, rest),
            Some(("https", rest)) => (Hops::Tcp, rest),
            _ => return Err(says()),
        };
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or_else(says)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        // It becomes a part of a script.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
        let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(says)?;
        if host.is_empty() || host.len() > 120 || !host.chars().all(plain) {
            return Err(says());
        }
        Ok(Self { host: host.to_owned(), port, hops })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port_and_nothing_that_a_shell_acts_on() {
        let parsed =
            |text: &str| text.parse::<ServerAddress>().map(|one| (one.to_string(), one.hops));
        for (text, shown, hops) in [
            ("http://hodei.hodei-system.svc:50051", "hodei.hodei-system.svc:50051", Hops::Grpc),
            ("https://10.0.0.1:443/", "10.0.0.1:443", Hops::Tcp),
            ("http://[fd00::1]:50051", "fd00::1:50051", Hops::Grpc),
        ] {
            assert_eq!(parsed(text).unwrap(), (shown.to_owned(), hops));
        }
        for bad in [
            "",
            "host:1",
            "http://host",
            "http://:1",
            "http://host:0",
            "http://host:x",
            "ftp://h:1",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
        for evil in
            ["http://$(id):1", "http://a;b:1", "http://a'b:1", "http://a b:1", "http://a/b:1"]
        {
            assert!(parsed(evil).is_err(), "{evil}");
        }
    }
}

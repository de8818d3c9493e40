//! Who may use the client's side of the API: jobs, logs, providers, workers, metrics. Agents are not
//! clients: they have their one-time passwords and sessions.

use std::net::SocketAddr;

use anyhow::Context;
use hodei_core::secret::{BearerToken, SecretHash};

use crate::config::Config;

/// Who is admitted.
#[derive(Debug, Clone)]
pub(crate) enum Access {
    /// Whoever presents the token.
    Token(SecretHash),
    /// Whoever connects from this machine.
    ThisMachine,
    /// Everybody.
    Anyone,
}

/// Why a client is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("no token: send it as `authorization: Bearer TOKEN`")]
    Missing,
    #[error("the token is not this server's")]
    Wrong,
    #[error(
        "this server was given no --api-token-file, so it serves clients of its own machine only"
    )]
    Elsewhere,
}

impl Access {
    /// What the settings say; [`Config::validate`] has seen to it that they fit the listeners.
    pub(crate) fn from_config(config: &Config) -> anyhow::Result<Self> {
        let Some(path) = &config.api_token_file else {
            return Ok(if config.insecure_no_auth { Self::Anyone } else { Self::ThisMachine });
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("--api-token-file {} cannot be read", path.display()))?;
        let token: BearerToken = text
            .trim_end()
            .parse()
            .with_context(|| format!("--api-token-file {}", path.display()))?;
        Ok(Self::Token(token.hash()))
    }

    /// Whether a client is admitted, given its header `authorization` and where it connects from.
    pub(crate) fn admit(
        &self,
        authorization: Option<&str>,
        peer: Option<SocketAddr>,
    ) -> Result<(), Denied> {
        match self {
            Self::Anyone => Ok(()),
            Self::ThisMachine => match peer {
                Some(peer) if peer.ip().to_canonical().is_loopback() => Ok(()),
                _ => Err(Denied::Elsewhere),
            },
            Self::Token(hash) => {
                let presented = authorization.and_then(bearer).ok_or(Denied::Missing)?;
                if hash.matches_text(presented) { Ok(()) } else { Err(Denied::Wrong) }
            }
        }
    }
}

/// The token of `Bearer TOKEN`; the scheme's case does not matter (RFC 9110, 11.1).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn the_table_of_admissions() {
        let token: BearerToken = TOKEN.parse().unwrap();
        let access = Access::Token(token.hash());
        let right = format!("Bearer {TOKEN}");
        let lower = format!("bearer {TOKEN}");
        let longer = format!("Bearer {TOKEN}0");
        let other = format!("Basic {TOKEN}");
        for (header, expect) in [
            (Some(right.as_str()), Ok(())),
            (Some(&lower), Ok(())),
            (None, Err(Denied::Missing)),
            (Some(TOKEN), Err(Denied::Missing)),
            (Some(&other), Err(Denied::Missing)),
            (Some("Bearer "), Err(Denied::Wrong)),
            (Some(&longer), Err(Denied::Wrong)),
        ] {
            let here = "127.0.0.1:1".parse().ok();
            assert_eq!(access.admit(header, here), expect, "{header:?}");
        }
    }

    #[test]
    fn without_a_token_only_this_machine_is_served() {
        for (peer, expect) in [
            (Some("127.0.0.1:1"), Ok(())),
            (Some("[::1]:1"), Ok(())),
            (Some("[::ffff:127.0.0.1]:1"), Ok(())),
            (Some("172.18.0.2:1"), Err(Denied::Elsewhere)),
            (None, Err(Denied::Elsewhere)),
        ] {
            let address = peer.map(|peer| peer.parse().unwrap());
            assert_eq!(Access::ThisMachine.admit(None, address), expect, "{peer:?}");
            assert_eq!(Access::Anyone.admit(None, address), Ok(()));
        }
    }
}

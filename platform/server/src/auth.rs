//! Who may use the client's side of the API: jobs, logs, providers, workers, metrics. Agents are not
//! clients: they have their one-time passwords and sessions.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use hodei_core::secret::{BearerToken, SecretHash};

use crate::{
    config::Config,
    limits::{Client, Limits},
};

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

/// Why a request goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The client is not admitted.
    Denied(Denied),
    /// It asks too often: how long to wait.
    TooMany(Duration),
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

    /// Counts a request, and says whether its client is admitted. Whoever presents the token has a
    /// budget that is theirs alone; all others, and who guesses at it, are told apart by their address.
    pub(crate) fn enter(
        &self,
        limits: &Limits,
        authorization: Option<&str>,
        peer: Option<SocketAddr>,
    ) -> Result<(), Refused> {
        let admitted = self.admit(authorization, peer);
        let client = match (self, admitted) {
            (Self::Token(hash), Ok(())) => Client::token(hash),
            _ => Client::peer(peer),
        };
        limits.request(client).map_err(Refused::TooMany)?;
        admitted.map_err(Refused::Denied)
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
    use crate::config::RateLimits;

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
    fn who_guesses_at_the_token_uses_up_no_budget_but_their_own() {
        let token: BearerToken = TOKEN.parse().unwrap();
        let access = Access::Token(token.hash());
        let limits = Limits::new(&RateLimits { requests_per_second: 1, request_burst: 5 });
        let peer = "10.0.0.1:1".parse().ok();
        let guess = |n| access.enter(&limits, Some(&format!("Bearer {n}{TOKEN}")), peer);
        let answers: Vec<_> = (0..20).map(guess).collect();
        assert_eq!(answers[0], Err(Refused::Denied(Denied::Wrong)));
        assert!(matches!(answers[19], Err(Refused::TooMany(_))), "{answers:?}");
        let right = format!("Bearer {TOKEN}");
        assert_eq!(access.enter(&limits, Some(&right), peer), Ok(()));
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

#[cfg(test)]
mod outside_input {
    use clap::Parser as _;
    use proptest::prelude::*;

    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    proptest! {
        #[test]
        fn only_the_token_is_admitted_whatever_the_header_is(
            scheme in "(bearer|BEARER|Basic|[a-z]{0,7})", space in " {0,2}",
            said in prop_oneof![2 => Just(TOKEN.to_owned()), 1 => "[0-9a-f]{0,33}", 1 => any::<String>()],
        ) {
            let token: BearerToken = TOKEN.parse().unwrap();
            let header = format!("{scheme}{space}{said}");
            let admitted = Access::Token(token.hash()).admit(Some(&header), None);
            let right = scheme.eq_ignore_ascii_case("bearer") && !space.is_empty();
            prop_assert_eq!(admitted.is_ok(), right && said.trim() == TOKEN, "{:?}", header);
        }

        #[test]
        fn any_bytes_are_a_token_or_a_failure_that_names_the_file_alone(
            bytes in prop_oneof![any::<Vec<u8>>(), "[ -~]{20,60}\n?".prop_map(String::into_bytes)],
        ) {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &bytes).unwrap();
            let path = file.path().to_str().unwrap();
            let words = ["hodei-server", "--database-url", "x", "--api-token-file", path];
            let config = Config::try_parse_from(words).unwrap();
            match Access::from_config(&config) {
                Ok(access) => {
                    let text = String::from_utf8(bytes).unwrap();
                    let header = format!("Bearer {}", text.trim_end());
                    prop_assert_eq!(access.admit(Some(&header), None), Ok(()));
                }
                Err(error) => {
                    let (told, text) = (format!("{error:#}"), String::from_utf8_lossy(&bytes));
                    prop_assert!(told.contains(path), "{told}");
                    prop_assert!(text.trim().len() < 12 || !told.contains(text.trim()), "{told}");
                }
            }
        }
    }
}

//! Secrets that cannot be printed: the one-time password of a worker, the token of its session, and the
//! token of the API that an operator chose.
//!
//! The first two are 256 random bits. What is stored is the SHA-256 of one, never the secret; with that much
//! entropy a slow hash would add nothing. Neither implements `Display`, and `Debug` hides the value.

use std::{fmt, str::FromStr};

use rand::{TryRng, rngs::SysRng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const BYTES: usize = 32;

/// 256 random bits, written as 64 hexadecimal characters.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

/// The text given is not 64 lower-case hexadecimal characters. It is not repeated here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a secret must be 64 hexadecimal characters; this text has {length} bytes")]
pub struct MalformedSecret {
    length: usize,
}

impl Secret {
    /// A new secret from the operating system's random source.
    ///
    /// # Panics
    /// When the operating system has no randomness to give, as nothing may go on without it.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0_u8; BYTES]);
        SysRng.try_fill_bytes(bytes.as_mut()).expect("the operating system must give random bytes");
        Self(Zeroizing::new(to_hex(bytes.as_ref())))
    }

    /// The secret itself, for the one place that has to hand it on.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What the store keeps.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash(Sha256::digest(self.0.as_bytes()).into())
    }
}

impl FromStr for Secret {
    type Err = MalformedSecret;

    fn from_str(text: &str) -> Result<Self, MalformedSecret> {
        let well_formed = text.len() == BYTES * 2
            && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if well_formed {
            Ok(Self(Zeroizing::new(text.to_owned())))
        } else {
            Err(MalformedSecret { length: text.len() })
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A token that an operator chose: 32 to 512 printable ASCII characters without a space.
#[derive(Clone)]
pub struct BearerToken(Zeroizing<String>);

/// The text given is no token. It is not repeated here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "a token must be 32 to 512 printable ASCII characters without a space; this text has {length} bytes"
)]
pub struct MalformedToken {
    length: usize,
}

impl BearerToken {
    /// What the server keeps in memory.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash(Sha256::digest(self.0.as_bytes()).into())
    }
}

impl FromStr for BearerToken {
    type Err = MalformedToken;

    fn from_str(text: &str) -> Result<Self, MalformedToken> {
        if (32..=512).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(Zeroizing::new(text.to_owned())))
        } else {
            Err(MalformedToken { length: text.len() })
        }
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(…)")
    }
}

/// The SHA-256 of a [`Secret`] or a [`BearerToken`], compared in constant time.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// The hash as bytes, as the store keeps it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A hash read back from the store; `None` unless it is 32 bytes long.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Whether this is the hash of `secret`.
    #[must_use]
    pub fn matches(&self, secret: &Secret) -> bool {
        self.0.ct_eq(&secret.hash().0).into()
    }

    /// Whether this is the hash of a text that somebody presented.
    #[must_use]
    pub fn matches_text(&self, text: &str) -> bool {
        let presented: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        self.0.ct_eq(&presented).into()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_matches_its_own_hash_and_no_other() {
        let (one, two) = (Secret::generate(), Secret::generate());
        assert!(one.hash().matches(&one));
        assert!(!one.hash().matches(&two));
        let read_back = SecretHash::from_bytes(one.hash().as_bytes()).unwrap();
        assert!(read_back.matches(&one.expose().parse().unwrap()));
    }

    #[test]
    fn no_secret_is_ever_printed() {
        let secret = Secret::generate();
        for printed in [format!("{secret:?}"), format!("{:?}", secret.hash())] {
            assert!(!printed.contains(secret.expose()), "{printed}");
        }
        let error = format!("{}0", secret.expose()).parse::<Secret>().unwrap_err();
        assert!(!error.to_string().contains(secret.expose()));
    }

    #[test]
    fn a_token_has_a_least_length_and_is_never_printed() {
        let text = "correct-horse-battery-staple-4711";
        let token: BearerToken = text.parse().unwrap();
        assert!(token.hash().matches_text(text));
        assert!(!token.hash().matches_text(&text[1..]) && !token.hash().matches_text(""));
        assert!(!format!("{token:?}{:?}", token.hash()).contains("horse"));
        for bad in ["", "short", &"ñ".repeat(40), &format!("{text} {text}"), &"x".repeat(513)] {
            let error = bad.parse::<BearerToken>().unwrap_err();
            assert!(bad.is_empty() || !error.to_string().contains(bad), "{error}");
        }
    }

    #[test]
    fn malformed_secrets_are_refused() {
        for bad in ["", "abc", &"g".repeat(64), &"A".repeat(64), &"0".repeat(63), &"0".repeat(65)] {
            assert!(bad.parse::<Secret>().is_err(), "{bad}");
        }
    }
}

//! How an agent ends when it does not end well, and the exit code each end has.

use std::path::PathBuf;

use hodei_core::{id::InvalidId, secret::MalformedSecret};

/// Why the agent gave up. Every text is one line and holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A setting is missing.
    #[error("{name} is not set: {purpose}")]
    Missing {
        /// The environment variable.
        name: &'static str,
        /// What it is for.
        purpose: &'static str,
    },
    /// The worker's id is not one.
    #[error("HODEI_WORKER_ID: {0}")]
    WorkerId(#[from] InvalidId),
    /// The one-time password is not one; it is not repeated.
    #[error("HODEI_OTP_TOKEN: {0}")]
    Otp(#[from] MalformedSecret),
    /// The server's address cannot be used.
    #[error("HODEI_SERVER_ADDRESS {address:?} cannot be used: {problem}")]
    Address {
        /// The address given.
        address: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The file of trusted authorities cannot be read.
    #[error("HODEI_CA_FILE {}: {source}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The server did not take the one-time password.
    #[error("the server refused the one-time password: {message}{}", consumed(*ambiguous))]
    OtpRefused {
        /// The server's words.
        message: String,
        /// An earlier try ended without an answer and may have used the password up.
        ambiguous: bool,
    },
    /// The server does not speak this protocol version.
    #[error("the server refused protocol version {}: {message}", hodei_core::PROTOCOL_VERSION)]
    VersionRefused {
        /// The server's words.
        message: String,
    },
    /// The server could not be reached in time to register.
    #[error("{address} could not be reached for registration within {seconds} s; last: {last}")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// How long.
        seconds: u64,
        /// The last failure seen.
        last: String,
    },
    /// The server answered with something that cannot be used.
    #[error("the server's answer cannot be used: {0}")]
    Protocol(String),
    /// The server no longer knows the session: the worker was replaced or given up.
    #[error("the server refused the session: {message}")]
    SessionRefused {
        /// The server's words.
        message: String,
    },
    /// The link stayed down for too long; the job was killed.
    #[error("no session with the server for {seconds} s, gave up; last: {last}")]
    LinkLost {
        /// How long.
        seconds: u64,
        /// The last failure seen.
        last: String,
    },
    /// What a job left could not be removed, so that no further one was taken.
    #[error("no further job was taken, as what the last one left could not be removed: {problem}")]
    Unclean {
        /// What, and why not.
        problem: String,
    },
    /// Told to leave, and the attempt's result could not be delivered before the grace ended.
    #[error("told to stop before the result of {attempt} was acknowledged")]
    Unreported {
        /// The attempt.
        attempt: String,
    },
}

impl AgentError {
    /// The process's exit code: 2 configuration, 10 password refused, 11 version refused,
    /// 12 never reached the server, 13 lost it for too long, 14 session refused,
    /// 15 unusable answer, 16 what a job left could not be removed, 143 stopped before the result was acknowledged.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Missing { .. }
            | Self::WorkerId(_)
            | Self::Otp(_)
            | Self::Address { .. }
            | Self::CaFile { .. } => 2,
            Self::OtpRefused { .. } => 10,
            Self::VersionRefused { .. } => 11,
            Self::Unreachable { .. } => 12,
            Self::LinkLost { .. } => 13,
            Self::SessionRefused { .. } => 14,
            Self::Protocol(_) => 15,
            Self::Unclean { .. } => 16,
            Self::Unreported { .. } => 143,
        }
    }
}

fn consumed(ambiguous: bool) -> &'static str {
    if ambiguous { " (an earlier try got no answer and may have used it up)" } else { "" }
}

//! What can go wrong, in words that say what to do about it.

use std::{error::Error as _, path::PathBuf};

use miette::Diagnostic;
use tonic::{Code, Status};

use crate::view::plain;

/// What to do where the server does not admit us.
pub(crate) const OTHER_TOKEN: &str = "Give the server's token with --token-file, HODEI_TOKEN_FILE or \
                                      token_file in the context file.";

/// A failure of `hodei` itself, never of a job.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub(crate) enum Failure {
    /// Nobody answers there.
    #[error("no server answers at {address}")]
    #[diagnostic(help(
        "{cause}\nIs the server up? `make up` starts one here; `hodei context show` says where this \
         address comes from."
    ))]
    Unreachable { address: String, cause: String },
    /// The server's answer over gRPC.
    #[error("{message}")]
    #[diagnostic(help("{help}"))]
    Refused { code: Code, message: String, help: String },
    /// The server's answer over REST, as problem+json (RFC 9457).
    #[error("{title} ({status}){}", detail.as_ref().map(|text| format!(": {text}")).unwrap_or_default())]
    #[diagnostic(help("{help}"))]
    Problem { title: String, detail: Option<String>, status: u16, help: String },
    /// Something in the local configuration or on the command line.
    #[error("{what}")]
    #[diagnostic(help("{help}"))]
    Local { what: String, help: String },
    /// A local file.
    #[error("{}: {problem}", path.display())]
    #[diagnostic(help("{help}"))]
    File { path: PathBuf, problem: String, help: &'static str },
    /// The server was lost while a job was followed.
    #[error("the server was lost while following job {job}: {cause}")]
    #[diagnostic(help(
        "The job goes on by itself. Go on with: hodei job logs {job} --follow{from}"
    ))]
    Lost { job: String, cause: String, from: String },
    /// Whoever read our output is gone; nothing is said about it.
    #[error("nobody reads the output any more")]
    OutputClosed,
}

impl Failure {
    /// A gRPC status in words.
    pub(crate) fn from_status(status: &Status, address: &str) -> Self {
        let message = plain(status.message());
        let help = match status.code() {
            // Only a status made on this side has a cause; any other is the server's own word.
            Code::Unavailable if status.source().is_some() => {
                return Self::Unreachable { address: address.to_owned(), cause: message };
            }
            Code::Unavailable => "The server is up and cannot do this now; its log says more.",
            Code::NotFound => "`hodei job list` shows the jobs there are.",
            Code::InvalidArgument => "`hodei job run --help` says what each flag takes.",
            Code::FailedPrecondition => "`hodei job get` shows how the job stands.",
            Code::OutOfRange => {
                "The server keeps output for HODEI_LOG_RETENTION; --from-attempt begins with a later \
                 attempt, where there is one."
            }
            Code::DataLoss => {
                "`hodei job logs --from-attempt N --from-sequence M` reads what is behind it."
            }
            Code::AlreadyExists => "An idempotency key stands for one job; take another key.",
            Code::Unauthenticated | Code::PermissionDenied => OTHER_TOKEN,
            Code::Unimplemented => {
                "Is the server of the same version, and the address that of gRPC?"
            }
            _ => "If it stays like this, the server's log says more.",
        };
        let message = if message.is_empty() { format!("{:?}", status.code()) } else { message };
        Self::Refused { code: status.code(), message, help: help.to_owned() }
    }

    /// The exit code where no job's own code is at stake.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            // 128 + SIGPIPE, as if the signal had ended us.
            Self::OutputClosed => 141,
            Self::Local { .. } | Self::File { .. } => 2,
            _ => 1,
        }
    }
}

/// An error with its causes, in one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        if !text.ends_with(&cause.to_string()) {
            text = format!("{text}: {cause}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_answers_is_not_said_to_be_away() {
        let answered = Status::unavailable("the database does not answer");
        let failure = Failure::from_status(&answered, "http://127.0.0.1:50051");
        assert_eq!(failure.to_string(), "the database does not answer");
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let mut lost = Status::unavailable("tcp connect error");
        lost.set_source(std::sync::Arc::new(refused));
        let failure = Failure::from_status(&lost, "http://127.0.0.1:50051");
        assert_eq!(failure.to_string(), "no server answers at http://127.0.0.1:50051");
    }
}

//! What went wrong with a request, and which kind of failure it is to Hodei.
//!
//! Kubernetes says 403 for a missing permission, a full quota, a Pod Security violation and a
//! webhook's no alike; only the words tell them apart. The words are those of
//! `k8s.io/apiserver` and of the admission plug-ins of Kubernetes 1.28 to 1.34.

use std::{error::Error, fmt, time::Duration};

use hodei_core::{
    failure::{Failure, FailureCause},
    provider::ProviderError,
};
use http::{header::RETRY_AFTER, response::Parts};
use kube::core::Status;

use crate::measure::NoAnswer;

/// How long to wait before a full quota is asked again.
const QUOTA_RETRY: Duration = Duration::from_secs(5);
/// Longest wait that is taken from an answer; a proxy may ask for centuries.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// Longest part of a foreign message that is passed on, in characters.
const LONGEST_MESSAGE: usize = 2000;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// The server answered with an error.
    Refused { code: u16, reason: String },
    /// No connection, or it broke.
    Unreachable,
    /// The connection is not one to be trusted, or not TLS at all.
    Tls,
    /// No answer in time.
    TimedOut,
    /// We could not show who we are.
    Credentials,
    /// The request or the answer makes no sense.
    Malformed,
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiFailure {
    kind: Kind,
    message: String,
    retry_after: Option<Duration>,
    repeated: bool,
}

impl fmt::Display for ApiFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Refused { code, reason } if reason.is_empty() => {
                write!(f, "{code}: {}", self.message)
            }
            Kind::Refused { code, reason } => write!(f, "{code} {reason}: {}", self.message),
            _ => f.write_str(&self.message),
        }
    }
}

impl ApiFailure {
    fn new(kind: Kind, message: String) -> Self {
        Self { kind, message, retry_after: None, repeated: false }
    }

    pub(crate) fn malformed(message: String) -> Self {
        Self::new(Kind::Malformed, message)
    }

    pub(super) fn timed_out(limit: Duration) -> Self {
        let message = format!("the API server did not finish its answer in {} s", limit.as_secs());
        Self::new(Kind::TimedOut, message)
    }

    pub(super) fn from_answer(parts: &Parts, body: &[u8]) -> Self {
        let status: Option<Status> = serde_json::from_slice(body).ok();
        let header = parts.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let by_header = header.and_then(|text| text.trim().parse().ok());
        let by_body = status
            .as_ref()
            .and_then(|status| status.details.as_ref())
            .map(|details| u64::from(details.retry_after_seconds))
            .filter(|seconds| *seconds > 0);
        let retry_after = by_header.or(by_body).map(Duration::from_secs);
        let retry_after = retry_after.map(|asked| asked.min(LONGEST_RETRY_AFTER));
        let (reason, message) = match status {
            Some(status) => (status.reason, status.message),
            // A proxy or a bare path answers in plain text.
            None => (String::new(), String::from_utf8_lossy(body).trim().to_owned()),
        };
        let code = parts.status.as_u16();
        let message = message.chars().take(LONGEST_MESSAGE).collect();
        Self { retry_after, ..Self::new(Kind::Refused { code, reason }, message) }
    }

    pub(crate) fn from_transport(error: &kube::Error) -> Self {
        if let kube::Error::Api(status) = error {
            let kind = Kind::Refused { code: status.code, reason: status.reason.clone() };
            return Self::new(kind, status.message.clone());
        }
        if is_credentials(error) {
            return Self::new(Kind::Credentials, describe(error));
        }
        if holds_tls(error) {
            return Self::new(Kind::Tls, describe(error));
        }
        let timed_out = chain(error).any(|cause| cause.is::<NoAnswer>());
        let kind = if timed_out { Kind::TimedOut } else { Kind::Unreachable };
        Self::new(kind, describe(error))
    }

    /// The same failure with each of these texts taken out of its words.
    pub(super) fn hiding(mut self, texts: &[String]) -> Self {
        for text in texts.iter().filter(|text| !text.is_empty()) {
            self.message = self.message.replace(text, "[hidden]");
            if let Kind::Refused { reason, .. } = &mut self.kind {
                *reason = reason.replace(text, "[hidden]");
            }
        }
        self
    }

    pub(super) fn seen_before(mut self, repeated: bool) -> Self {
        self.repeated = repeated;
        self
    }

    /// Whether an earlier try may have had its effect although its answer was lost.
    pub(crate) fn was_repeated(&self) -> bool {
        self.repeated
    }

    /// Whether the request, or an earlier try of it, may have had its effect all the same.
    pub(crate) fn may_have_happened(&self) -> bool {
        self.repeated || self.is_ambiguous()
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    pub(crate) fn code(&self) -> Option<u16> {
        match self.kind {
            Kind::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    pub(crate) fn reason(&self) -> &str {
        match &self.kind {
            Kind::Refused { reason, .. } => reason,
            _ => "",
        }
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    pub(crate) fn is_already_exists(&self) -> bool {
        self.code() == Some(409) && self.reason() == "AlreadyExists"
    }

    /// The object is another one than the precondition names.
    pub(crate) fn is_conflict(&self) -> bool {
        self.code() == Some(409) && self.reason() != "AlreadyExists"
    }

    pub(crate) fn is_unauthenticated(&self) -> bool {
        self.kind == Kind::Credentials || self.code() == Some(401)
    }

    /// Whether there was no answer that counts.
    pub(crate) fn is_transport(&self) -> bool {
        matches!(self.kind, Kind::Unreachable | Kind::TimedOut | Kind::Tls)
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.kind == Kind::Tls
    }

    fn says(&self, words: &str) -> bool {
        self.message.contains(words)
    }

    /// Whether the same request may be answered otherwise a moment later.
    pub(crate) fn is_retriable(&self) -> bool {
        match self.code() {
            Some(429 | 500 | 502 | 503 | 504) => true,
            // Two creates at once met in the quota's status, or the quota is not counted yet.
            Some(409) => self.says("resourcequotas"),
            Some(403) => self.says("status unknown for quota"),
            Some(_) => false,
            None => self.is_transport(),
        }
    }

    /// Whether the request may have had its effect all the same.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.is_transport() || matches!(self.code(), Some(500 | 502 | 504))
    }

    /// Which kind of failure this is to Hodei.
    pub(crate) fn cause(&self) -> FailureCause {
        const PERMISSION: [&str; 2] = ["cannot ", "resource \""];
        match self.code() {
            Some(_) if self.says("exceeded quota") => FailureCause::Quota,
            Some(403) if self.says("failed quota") => FailureCause::Admission,
            Some(400..=499) if self.says("denied the request") => FailureCause::Admission,
            Some(401) => FailureCause::Forbidden,
            Some(403) if PERMISSION.iter().all(|words| self.says(words)) => FailureCause::Forbidden,
            Some(403) if self.message.is_empty() => FailureCause::Forbidden,
            Some(409) if self.is_already_exists() => FailureCause::Conflict,
            Some(422) if self.says(".image:") => FailureCause::InvalidImage,
            // 404 on a create is the namespace: refused by the plug-in NamespaceLifecycle.
            Some(400 | 403 | 404 | 422) => FailureCause::Admission,
            Some(409 | 429 | 500..=599) => FailureCause::ApiUnavailable,
            Some(_) => FailureCause::Unknown,
            None if self.kind == Kind::Credentials => FailureCause::Forbidden,
            None if self.kind == Kind::Malformed => FailureCause::Unknown,
            None => FailureCause::ApiUnavailable,
        }
    }

    /// The failure as the port has it.
    pub(crate) fn into_error(
        self,
        operation: &'static str,
        subject: impl fmt::Display,
    ) -> ProviderError {
        let cause = self.cause();
        let by_quota = (cause == FailureCause::Quota).then_some(QUOTA_RETRY);
        ProviderError {
            operation,
            subject: subject.to_string(),
            retry_after: self.retry_after.or(by_quota),
            failure: Failure { cause, message: self.to_string() },
            // The message has the whole chain; the sources might quote what must not be told.
            source: None,
        }
    }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    fn below<'a>(error: &&'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
        (*error).source()
    }
    std::iter::successors(Some(error), below).take(16)
}

/// Whether an error of TLS is at the bottom; an `io::Error` hides what it wraps from `source`.
fn holds_tls(error: &(dyn Error + 'static)) -> bool {
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>()
        || wrapped.is_some_and(|inner| holds_tls(inner))
        || error.source().is_some_and(holds_tls)
}

fn is_credentials(error: &kube::Error) -> bool {
    chain(error).any(|cause| cause.is::<kube::client::AuthError>())
        || matches!(error, kube::Error::Auth(_))
}

/// An error and its sources in one line, each part once. What a credential plug-in printed is left
/// out, for it may be a credential.
pub(crate) fn describe(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in chain(error) {
        if let Some(kube::client::AuthError::AuthExecRun { cmd, out }) = cause.downcast_ref() {
            return format!("the credential plug-in {cmd:?} ended with {}", out.status);
        }
        if matches!(cause.downcast_ref(), Some(kube::Error::Auth(_))) {
            continue;
        }
        let words = match cause.downcast_ref() {
            Some(kube::Error::Api(status)) => format!("{}: {}", status.code, status.message),
            _ => cause.to_string(),
        };
        // Many errors repeat their source in their own words.
        if !parts.iter().any(|part| part.contains(&words)) {
            parts.push(words);
        }
    }
    parts.join(": ").chars().take(LONGEST_MESSAGE).collect()
}

#[cfg(test)]
#[path = "failure_tests.rs"]
mod tests;

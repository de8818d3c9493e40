//! What can be made to go wrong with a request, and which requests it happens to.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value, json};

use super::ApiCall;

/// Which requests are meant: all that every given part agrees with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Match {
    verb: Option<String>,
    target: Option<String>,
    name: Option<String>,
}

impl Match {
    /// Every request.
    #[must_use]
    pub fn any() -> Self {
        Self::default()
    }

    /// Those of one verb on one resource, as in `("create", "pods")` or `("get", "pods/log")`,
    /// without those that only ask whether it could be done (a dry run).
    #[must_use]
    pub fn of(verb: &str, target: &str) -> Self {
        Self { verb: Some(verb.to_owned()), target: Some(target.to_owned()), name: None }
    }

    /// Those on the object of this name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    pub(super) fn covers(&self, call: &ApiCall) -> bool {
        let agrees = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|w| w == is);
        (self.target.is_none() || !call.dry_run)
            && agrees(&self.verb, &call.verb)
            && agrees(&self.target, &call.target())
            && agrees(&self.name, &call.name)
    }
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is answered here and never reaches the API server.
    Answer(Refusal),
    /// Its connection is broken before the API server has heard of it.
    CutBefore,
    /// The API server carries it out, and the answer is lost.
    CutAfter,
    /// It is never answered, and its connection stays open.
    Silence,
    /// The API server carries it out, and the answer never comes: its connection stays open.
    SilenceAfter,
    /// It is forwarded when the case lets go of it:
    /// [`ApiProxy::let_go`](super::ApiProxy::let_go).
    Hold,
    /// It is forwarded this much later.
    Delay(Duration),
    /// Its answer breaks off in the middle of its first line.
    Truncate,
}

impl Fault {
    /// An answer of this HTTP status with the `Status` object that goes with it.
    #[must_use]
    pub fn status(code: u16) -> Self {
        let reason = match code {
            400 => "BadRequest",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            409 => "Conflict",
            410 => "Expired",
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "InternalError",
        };
        let message = "injected by the fault proxy".to_owned();
        Self::Answer(Refusal { code, reason: reason.to_owned(), message, retry_after: None })
    }

    /// 429 with `Retry-After` in seconds.
    #[must_use]
    pub fn too_many_requests(retry_after: u32) -> Self {
        match Self::status(429) {
            Self::Answer(refusal) => {
                Self::Answer(Refusal { retry_after: Some(retry_after), ..refusal })
            }
            other => other,
        }
    }

    /// The fault in a word, for evidence.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Answer(refusal) => format!("answered {}", refusal.code),
            Self::CutBefore => "cut before".into(),
            Self::CutAfter => "answer lost".into(),
            Self::Silence => "silence".into(),
            Self::SilenceAfter => "carried out, then silence".into(),
            Self::Hold => "held".into(),
            Self::Delay(by) => format!("delayed by {} ms", by.as_millis()),
            Self::Truncate => "truncated".into(),
        }
    }
}

/// An answer that is not the API server's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub code: u16,
    /// `reason` of the `Status` object, by which clients tell one 409 from another.
    pub reason: String,
    /// Its `message`.
    pub message: String,
    /// Seconds in the header `Retry-After`.
    pub retry_after: Option<u32>,
}

impl Refusal {
    pub(super) fn body(&self) -> Value {
        let mut details = json!({});
        if let Some(seconds) = self.retry_after {
            details["retryAfterSeconds"] = json!(seconds);
        }
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "details": details, "code": self.code,
        })
    }
}

/// What happens to a watch that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchFault {
    /// It says that its resource version is too old (410 in the stream) and ends.
    Expire,
    /// It ends in good order, as it does when its time is up.
    End,
    /// It stays open and never says anything again.
    Stall,
    /// Its next event breaks off in the middle of its line, and the connection with it.
    Truncate,
}

/// What a watch says when its resource version is no longer kept.
pub(super) fn expired_event() -> String {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "too old resource version: injected by the fault proxy",
        "reason": "Expired", "code": 410,
    });
    format!("{}\n", json!({"type": "ERROR", "object": status}))
}

/// Faults that wait for their requests; the first that fits is used, and used up.
#[derive(Debug, Default)]
pub(super) struct Rules(VecDeque<(Match, Fault, usize)>);

impl Rules {
    pub(super) fn add(&mut self, wanted: Match, fault: Fault, times: usize) {
        self.0.push_back((wanted, fault, times));
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// How many requests are still to be hit.
    pub(super) fn left(&self) -> usize {
        self.0.iter().fold(0, |sum, (_, _, times)| sum.saturating_add(*times))
    }

    pub(super) fn take(&mut self, call: &ApiCall) -> Option<Fault> {
        let index =
            self.0.iter().position(|(wanted, _, times)| *times > 0 && wanted.covers(call))?;
        let (_, fault, times) = &mut self.0[index];
        let fault = fault.clone();
        *times -= 1;
        self.0.retain(|(_, _, times)| *times > 0);
        Some(fault)
    }
}

//! Who may register, and what a session goes on with: pure rules, each a table in the tests.

use std::fmt;

use crate::{attempt::AttemptState, id::AttemptKey, worker::WorkerState};

/// Longest `pod_uid` and `agent_version` an agent may send, in bytes.
const MAX_LABEL_BYTES: usize = 128;

/// Why an agent is refused. It is told none of this; the audit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// What it sent is not of the right form; nothing was looked up.
    Malformed,
    /// There is no such worker.
    UnknownWorker,
    /// The secret is not this worker's.
    WrongSecret,
    /// The one-time password was used before.
    Replayed,
    /// The one-time password came too late.
    Expired,
    /// The agent runs in another pod than the one that was made for it.
    ForeignPod,
    /// The worker is to go, or has gone.
    Leaving,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed",
            Self::UnknownWorker => "unknown worker",
            Self::WrongSecret => "wrong secret",
            Self::Replayed => "replayed",
            Self::Expired => "expired",
            Self::ForeignPod => "foreign pod",
            Self::Leaving => "the worker is to go",
        })
    }
}

/// What is known of the worker that a one-time password was presented for.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Whether what was presented has the stored hash.
    pub secret_matches: bool,
    /// Whether it was traded for a session before.
    pub used: bool,
    /// Whether its time is over.
    pub expired: bool,
    /// The worker's state.
    pub state: WorkerState,
    /// UID of the pod that was made for it, once that is known.
    pub known_uid: Option<String>,
}

/// Whether a text can be a pod UID or a version: short and printable.
#[must_use]
pub fn is_label(text: &str) -> bool {
    (1..=MAX_LABEL_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether an agent in the pod `pod_uid` may register as this worker.
///
/// # Errors
/// Why not, the first reason that applies: nothing is told of a worker to who does not know its secret.
pub fn admit(candidate: &Candidate, pod_uid: &str) -> Result<(), Refusal> {
    if !candidate.secret_matches {
        return Err(Refusal::WrongSecret);
    }
    if candidate.used {
        return Err(Refusal::Replayed);
    }
    if candidate.expired {
        return Err(Refusal::Expired);
    }
    if candidate.known_uid.as_deref().is_some_and(|known| known != pod_uid) {
        return Err(Refusal::ForeignPod);
    }
    if candidate.state.can_become(WorkerState::Ready) { Ok(()) } else { Err(Refusal::Leaving) }
}

/// Whether an agent in the pod `pod_uid` that presents a session's token has that session: `known` are
/// the UIDs that its worker is known by, of the pod it registered from and of the one that was made for it.
///
/// # Errors
/// Why not; as for [`admit`], the secret comes first.
pub fn authenticate<'a>(
    secret_matches: bool,
    known: impl IntoIterator<Item = &'a str>,
    pod_uid: &str,
) -> Result<(), Refusal> {
    if !secret_matches {
        return Err(Refusal::WrongSecret);
    }
    let foreign = known.into_iter().any(|known| known != pod_uid);
    if foreign { Err(Refusal::ForeignPod) } else { Ok(()) }
}

/// What a session goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Give the agent its attempt.
    Assign,
    /// The agent holds its attempt: go on.
    Resume,
    /// What the agent holds is not its own any more.
    Revoke,
    /// The attempt was given away and the agent has lost it: it cannot be run a second time.
    Forgotten,
    /// There is nothing to do: the attempt has ended.
    Idle,
}

/// What a session goes on with, given the worker's latest attempt `own`, if it ever had one, and the
/// attempt that the agent says it holds.
#[must_use]
pub fn open(own: Option<(AttemptKey, AttemptState)>, held: Option<AttemptKey>) -> Opening {
    use AttemptState as S;
    match (held, own) {
        (None, None) => Opening::Idle,
        (Some(_), None) => Opening::Revoke,
        (Some(held), Some((own, _))) if held != own => Opening::Revoke,
        (Some(_), Some((_, S::Provisioning | S::Lost))) => Opening::Revoke,
        // After its end too: the agent may still wait for the word that its result was taken.
        (Some(_), Some((_, S::Assigned | S::Running | S::Finished))) => Opening::Resume,
        (None, Some((_, S::Provisioning | S::Assigned))) => Opening::Assign,
        (None, Some((_, S::Running))) => Opening::Forgotten,
        (None, Some((_, S::Finished | S::Lost))) => Opening::Idle,
    }
}

#[cfg(test)]
mod tests {
    use crate::id::{Epoch, JobId};

    use super::*;

    fn good() -> Candidate {
        Candidate {
            secret_matches: true,
            used: false,
            expired: false,
            state: WorkerState::Connecting,
            known_uid: Some("uid-1".into()),
        }
    }

    #[test]
    fn the_table_of_admissions() {
        type Change = fn(&mut Candidate);
        let table: [(Change, &str, Result<(), Refusal>); 9] = [
            (|_| (), "uid-1", Ok(())),
            (|c| c.known_uid = None, "uid-2", Ok(())),
            (|c| c.state = WorkerState::Creating, "uid-1", Ok(())),
            (|c| c.secret_matches = false, "uid-1", Err(Refusal::WrongSecret)),
            (|c| c.used = true, "uid-1", Err(Refusal::Replayed)),
            (|c| c.expired = true, "uid-1", Err(Refusal::Expired)),
            (|_| (), "uid-2", Err(Refusal::ForeignPod)),
            (|c| c.state = WorkerState::Terminating, "uid-1", Err(Refusal::Leaving)),
            // Nothing is given away to who does not know the secret.
            (|c| (c.secret_matches, c.used) = (false, true), "uid-1", Err(Refusal::WrongSecret)),
        ];
        for (change, uid, expect) in table {
            let mut candidate = good();
            change(&mut candidate);
            assert_eq!(admit(&candidate, uid), expect, "{candidate:?} {uid}");
        }
    }

    #[test]
    fn a_session_belongs_to_the_pod_it_was_given_to() {
        for (matches, known, expect) in [
            (true, vec!["uid-1", "uid-1"], Ok(())),
            (true, vec![], Ok(())),
            (true, vec!["uid-1", "uid-2"], Err(Refusal::ForeignPod)),
            (true, vec!["uid-2"], Err(Refusal::ForeignPod)),
            (false, vec!["uid-2"], Err(Refusal::WrongSecret)),
        ] {
            assert_eq!(authenticate(matches, known.iter().copied(), "uid-1"), expect, "{known:?}");
        }
    }

    #[test]
    fn the_table_of_openings() {
        use AttemptState as S;
        let own = AttemptKey { job: JobId::new(), epoch: Epoch(2) };
        let old = AttemptKey { epoch: Epoch(1), ..own };
        for (held, state, expect) in [
            (None, S::Provisioning, Opening::Assign),
            (None, S::Assigned, Opening::Assign),
            (None, S::Running, Opening::Forgotten),
            (None, S::Finished, Opening::Idle),
            (None, S::Lost, Opening::Idle),
            (Some(own), S::Provisioning, Opening::Revoke),
            (Some(own), S::Assigned, Opening::Resume),
            (Some(own), S::Running, Opening::Resume),
            (Some(own), S::Finished, Opening::Resume),
            (Some(own), S::Lost, Opening::Revoke),
            (Some(old), S::Running, Opening::Revoke),
        ] {
            assert_eq!(open(Some((own, state)), held), expect, "{held:?} {state}");
        }
        assert_eq!(open(None, None), Opening::Idle);
        assert_eq!(open(None, Some(old)), Opening::Revoke);
    }

    #[test]
    fn labels_are_short_and_printable() {
        assert!(is_label("0a1b-uid"));
        for bad in ["", "a b", "ñ", "a\n", &"x".repeat(129)] {
            assert!(!is_label(bad), "{bad}");
        }
    }
}

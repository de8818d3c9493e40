//! Decisions, and nothing else: pure functions that say what becomes of a job, so that each rule can
//! be tested as a table. Who carries a decision out is the store's and the scheduler's business.

use std::time::Duration;

use hodei_core::{
    attempt::{AttemptEnd, Outcome},
    failure::{Failure, FailureCause},
    job::FinalState,
    spec::RetryPolicy,
};

/// Why an attempt was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// A client cancelled the job.
    Cancelled,
    /// It ran longer than it may.
    TimedOut,
}

impl Stop {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Cancelled, Self::TimedOut].into_iter().find(|stop| stop.as_str() == text)
    }

    fn final_state(self) -> FinalState {
        match self {
            Self::Cancelled => FinalState::Cancelled,
            Self::TimedOut => FinalState::TimedOut,
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::TimedOut => "it ran longer than its run time-out allows",
        }
    }
}

/// How often a job has failed so far, by what that is charged to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    pub(crate) infrastructure: u32,
    pub(crate) command: u32,
    pub(crate) quota: u32,
}

/// Which budget a further attempt uses up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Charge {
    Infrastructure,
    Command,
    /// A full quota is waited for; it costs no attempt.
    Quota,
}

/// What becomes of a job whose attempt has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// This is its result.
    Final { state: FinalState, reason: String },
    /// It goes back into the queue.
    Retry { charge: Charge, delay: Duration, reason: String },
}

/// What becomes of a job after an attempt: the retry policy.
pub(crate) fn after_attempt(
    end: &AttemptEnd,
    stop: Option<Stop>,
    failures: Failures,
    policy: RetryPolicy,
) -> Verdict {
    match end {
        AttemptEnd::Finished(outcome) => after_outcome(outcome, stop, failures, policy),
        AttemptEnd::Lost(failure) => after_loss(failure, stop, failures, policy),
    }
}

fn after_outcome(
    outcome: &Outcome,
    stop: Option<Stop>,
    failures: Failures,
    policy: RetryPolicy,
) -> Verdict {
    let state = outcome.final_state();
    match (state, stop) {
        // It ended well before it could be stopped: that stands.
        (FinalState::Succeeded, _) => Verdict::Final { state, reason: String::new() },
        (_, Some(stop)) => {
            Verdict::Final { state: stop.final_state(), reason: stop.reason().to_owned() }
        }
        (FinalState::Failed, None) if failures.command < policy.command => Verdict::Retry {
            charge: Charge::Command,
            delay: backoff(failures.command),
            reason: outcome.to_string(),
        },
        (state, None) => Verdict::Final { state, reason: outcome.to_string() },
    }
}

fn after_loss(
    failure: &Failure,
    stop: Option<Stop>,
    failures: Failures,
    policy: RetryPolicy,
) -> Verdict {
    let reason = failure.to_string();
    if let Some(stop) = stop {
        return Verdict::Final { state: stop.final_state(), reason: stop.reason().to_owned() };
    }
    match failure.cause {
        FailureCause::Quota => Verdict::Retry {
            charge: Charge::Quota,
            delay: backoff(failures.quota),
            reason: format!("waiting: {reason}"),
        },
        cause if cause.is_transient() && failures.infrastructure < policy.infrastructure => {
            Verdict::Retry {
                charge: Charge::Infrastructure,
                delay: backoff(failures.infrastructure),
                reason,
            }
        }
        FailureCause::StartupTimeout => Verdict::Final { state: FinalState::TimedOut, reason },
        _ => Verdict::Final { state: FinalState::Failed, reason },
    }
}

/// 0.5 s, 1 s, 2 s … at most 30 s.
pub(crate) fn backoff(failures_before: u32) -> Duration {
    Duration::from_millis(500 * (1_u64 << failures_before.min(6))).min(Duration::from_secs(30))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(cause: FailureCause) -> AttemptEnd {
        AttemptEnd::Lost(Failure { cause, message: "seen".into() })
    }

    fn exited(code: i32) -> AttemptEnd {
        AttemptEnd::Finished(Outcome::Exited { code, out_of_memory: false })
    }

    /// `retry:CHARGE` or the final state.
    fn check(end: &AttemptEnd, stop: Option<Stop>, failed: (u32, u32), expect: &str) {
        let policy = RetryPolicy { infrastructure: 2, command: 1 };
        let failures = Failures { infrastructure: failed.0, command: failed.1, quota: 9 };
        let verdict = match after_attempt(end, stop, failures, policy) {
            Verdict::Final { state, .. } => format!("{state:?}"),
            Verdict::Retry { charge, .. } => format!("retry:{charge:?}"),
        };
        assert_eq!(verdict, expect, "{end:?} {stop:?} {failed:?}");
    }

    #[test]
    fn the_table_of_outcomes() {
        check(&exited(0), None, (0, 0), "Succeeded");
        check(&exited(0), Some(Stop::Cancelled), (0, 0), "Succeeded");
        check(&exited(3), None, (0, 0), "retry:Command");
        check(&exited(3), None, (0, 1), "Failed");
        check(&exited(143), Some(Stop::Cancelled), (0, 0), "Cancelled");
        check(&exited(143), Some(Stop::TimedOut), (0, 0), "TimedOut");
        check(&AttemptEnd::Finished(Outcome::Cancelled), Some(Stop::TimedOut), (0, 0), "TimedOut");
        check(&AttemptEnd::Finished(Outcome::Cancelled), None, (0, 0), "Cancelled");
    }

    #[test]
    fn the_table_of_losses() {
        use FailureCause as C;
        check(&lost(C::NodeLost), None, (0, 0), "retry:Infrastructure");
        check(&lost(C::NodeLost), None, (1, 5), "retry:Infrastructure");
        check(&lost(C::NodeLost), None, (2, 0), "Failed");
        check(&lost(C::ImagePull), None, (0, 0), "Failed");
        check(&lost(C::OutOfMemory), None, (0, 0), "Failed");
        check(&lost(C::Quota), None, (2, 1), "retry:Quota");
        check(&lost(C::StartupTimeout), None, (0, 0), "retry:Infrastructure");
        check(&lost(C::StartupTimeout), None, (2, 0), "TimedOut");
        check(&lost(C::NodeLost), Some(Stop::Cancelled), (0, 0), "Cancelled");
        check(&lost(C::LeaseExpired), Some(Stop::TimedOut), (0, 0), "TimedOut");
    }

    #[test]
    fn backoff_grows_and_is_bounded() {
        let delays: Vec<_> = (0..40).map(backoff).collect();
        assert!(delays.is_sorted());
        assert_eq!(delays[0], Duration::from_millis(500));
        assert_eq!(delays[39], Duration::from_secs(30));
    }
}

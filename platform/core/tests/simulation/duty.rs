//! What the simulated server tells an agent next, from what the store knows and the stream has said.

use hodei_core::{attempt::AttemptState, id::AttemptKey, worker::WorkerState};

/// What is known of a worker that has a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Duty {
    /// Where the worker stands.
    pub(crate) worker: WorkerState,
    /// Its latest attempt.
    pub(crate) attempt: Option<(AttemptKey, AttemptState)>,
    /// Whether that was told to stop.
    pub(crate) stopping: bool,
}

/// What an agent was told on its present stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// The attempt it was given or found to hold, until it was told what became of its result. It takes
    /// no other one before.
    pub(crate) given: Option<AttemptKey>,
    /// The last attempt it was told to stop.
    pub(crate) cancelled: Option<AttemptKey>,
    /// Whether it was told to leave.
    pub(crate) shutdown: bool,
}

/// What an agent is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Push {
    /// Run this.
    Assign(AttemptKey),
    /// Stop this.
    Cancel(AttemptKey),
    /// Leave.
    Shutdown,
}

/// The next thing that follows from the present state and was not told; `None` once all is. A worker
/// that is not there any more has no duty.
#[must_use]
pub(crate) fn next_push(duty: Option<Duty>, told: Told) -> Option<Push> {
    let leaves = |worker| matches!(worker, WorkerState::Terminating | WorkerState::Terminated);
    let Some(duty) = duty.filter(|duty| !leaves(duty.worker)) else {
        return (!told.shutdown).then_some(Push::Shutdown);
    };
    let (key, state) = duty.attempt?;
    let takes_work = matches!(duty.worker, WorkerState::Ready | WorkerState::Busy);
    // One that runs was begun already, on this stream or another.
    let to_begin = matches!(state, AttemptState::Provisioning | AttemptState::Assigned);
    if takes_work && to_begin && told.given.is_none() {
        return Some(Push::Assign(key));
    }
    let stop = duty.stopping && !state.is_final() && told.cancelled != Some(key);
    stop.then_some(Push::Cancel(key))
}

#[test]
fn the_table_of_pushes() {
    use AttemptState as S;
    use WorkerState as W;
    use hodei_core::id::{Epoch, JobId};

    let key = AttemptKey { job: JobId::new(), epoch: Epoch::FIRST };
    let duty =
        |worker, state, stopping| Some(Duty { worker, attempt: Some((key, state)), stopping });
    let (untold, given) = (Told::default(), Told { given: Some(key), ..Told::default() });
    let before = AttemptKey { job: JobId::new(), ..key };
    let holding = Told { given: Some(before), ..untold };
    let cancelled = Told { cancelled: Some(key), ..given };
    let idle = Some(Duty { worker: W::Ready, attempt: None, stopping: false });
    for (duty, told, expect) in [
        (idle, untold, None),
        (duty(W::Ready, S::Provisioning, false), untold, Some(Push::Assign(key))),
        (duty(W::Busy, S::Assigned, false), untold, Some(Push::Assign(key))),
        (duty(W::Busy, S::Assigned, false), given, None),
        (duty(W::Ready, S::Provisioning, false), holding, None),
        (duty(W::Draining, S::Provisioning, false), untold, None),
        (duty(W::Busy, S::Running, false), untold, None),
        (duty(W::Busy, S::Running, true), untold, Some(Push::Cancel(key))),
        (duty(W::Busy, S::Assigned, true), given, Some(Push::Cancel(key))),
        (duty(W::Draining, S::Running, true), given, Some(Push::Cancel(key))),
        (duty(W::Busy, S::Running, true), cancelled, None),
        (duty(W::Ready, S::Finished, true), untold, None),
        (duty(W::Terminating, S::Running, true), given, Some(Push::Shutdown)),
        (None, untold, Some(Push::Shutdown)),
        (None, Told { shutdown: true, ..untold }, None),
    ] {
        assert_eq!(next_push(duty, told), expect, "{duty:?} {told:?}");
    }
}

//! The states of a worker, as the control plane keeps them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::job::UnknownState;

/// Where a worker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// It was written down; the provider was asked or is about to be.
    Creating,
    /// Its container runs; the agent has not registered yet.
    Connecting,
    /// It is registered and holds no attempt.
    Ready,
    /// It holds an attempt.
    Busy,
    /// It takes no new attempt and leaves when the one it has ends.
    Draining,
    /// It is to be destroyed; the provider has not confirmed yet.
    Terminating,
    /// The provider confirmed that nothing of it is left.
    Terminated,
}

impl WorkerState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Creating,
        Self::Connecting,
        Self::Ready,
        Self::Busy,
        Self::Draining,
        Self::Terminating,
        Self::Terminated,
    ];

    /// Whether a worker may go from this state to that one.
    ///
    /// A ready worker gets busy and a busy one ready again (pooled mode); all else is forward only.
    #[must_use]
    pub fn can_become(self, next: Self) -> bool {
        (self == Self::Busy && next == Self::Ready) || (next as u8) > (self as u8)
    }

    /// The stable name used in the store and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Connecting => "connecting",
            Self::Ready => "ready",
            Self::Busy => "busy",
            Self::Draining => "draining",
            Self::Terminating => "terminating",
            Self::Terminated => "terminated",
        }
    }
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for WorkerState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| UnknownState(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_moves_forward_save_for_reuse() {
        assert!(WorkerState::Busy.can_become(WorkerState::Ready));
        assert!(WorkerState::Creating.can_become(WorkerState::Terminating));
        assert!(!WorkerState::Terminating.can_become(WorkerState::Ready));
        assert!(!WorkerState::Terminated.can_become(WorkerState::Terminated));
        assert!(!WorkerState::Draining.can_become(WorkerState::Busy));
    }
}

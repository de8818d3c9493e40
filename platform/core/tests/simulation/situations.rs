//! Situations that the schedules have to lead to: an invariant that is never put to the test holds always.

/// Something rare that a schedule can come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Situation {
    /// An agent goes on with its attempt on a new stream.
    Resumed,
    /// An agent comes back with an attempt that is not its own any more.
    Revoked,
    /// An agent comes without the attempt that it runs.
    Forgotten,
    /// An attempt is given again, because the agent did not hear of it.
    GivenAgain,
    /// A pooled worker takes its next job.
    TakenByIdleWorker,
    /// A server still hears a stream that its agent has left.
    LateMessage,
    /// A second stream of a worker ends the first.
    StreamFenced,
    /// Frames come that were there already.
    FramesRepeated,
    /// A server finds that another one has stored more of a log.
    LogWentOnElsewhere,
    /// A result has to wait for the frames before it.
    ResultWaited,
    /// A session with a result ends, because another server goes on with the attempt.
    ResultMoved,
    /// A result comes again.
    ResultRepeated,
    /// A result comes too late, or of a foreign attempt.
    ResultRefused,
    /// A command waits until its output is acknowledged.
    OutboxFull,
    /// An agent leaves with its attempt unreported.
    Unreported,
    /// An agent lets its attempt go after too long without a link.
    GaveUp,
    /// A one-time password comes a second time.
    PasswordReplayed,
    /// A session's token comes from a foreign pod.
    ForeignPod,
    /// A lease runs out.
    LeaseExpired,
    /// An attempt does not start in time.
    NotStarted,
    /// An attempt runs for too long.
    RanTooLong,
    /// An agent that was told to stop gives no result in time.
    NotStopped,
    /// A job is cancelled before its agent has it.
    CancelledUnassigned,
    /// A job is tried again after a loss.
    TriedAgain,
    /// A client runs a finished job again.
    Retried,
    /// Output goes to the disk.
    Spooled,
    /// Output is dropped, as there is no link and no room for long.
    Dropped,
    /// An attempt that finished has a record of what is lost of it.
    GapStored,
    /// Output that was written to the disk cannot be read.
    Unreadable,
}

impl Situation {
    pub(crate) const ALL: [Self; 29] = [
        Self::Resumed,
        Self::Revoked,
        Self::Forgotten,
        Self::GivenAgain,
        Self::TakenByIdleWorker,
        Self::LateMessage,
        Self::StreamFenced,
        Self::FramesRepeated,
        Self::LogWentOnElsewhere,
        Self::ResultWaited,
        Self::ResultMoved,
        Self::ResultRepeated,
        Self::ResultRefused,
        Self::OutboxFull,
        Self::Unreported,
        Self::GaveUp,
        Self::PasswordReplayed,
        Self::ForeignPod,
        Self::LeaseExpired,
        Self::NotStarted,
        Self::RanTooLong,
        Self::NotStopped,
        Self::CancelledUnassigned,
        Self::TriedAgain,
        Self::Retried,
        Self::Spooled,
        Self::Dropped,
        Self::GapStored,
        Self::Unreadable,
    ];
}

/// The situations that a schedule came to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Situations(u32);

impl Situations {
    pub(crate) fn reach(&mut self, situation: Situation) {
        self.0 |= 1 << situation as u32;
    }

    pub(crate) fn contains(self, situation: Situation) -> bool {
        self.0 & (1 << situation as u32) != 0
    }
}

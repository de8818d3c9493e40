//! One follower of a job's output: from any position, over all attempts, out of the ring where it can
//! and out of the database where it must.

use std::{sync::Arc, time::Duration};

use hodei_core::id::{AttemptKey, Epoch, JobId};
use hodei_proto::v1::{LogFrame, StreamLogsResponse};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::{
    archive::{Archive, SegmentError, decode},
    codec::unpack_chunk,
    live::{Found, LiveLogs},
    objects::ObjectError,
    writer,
};
use crate::store::{
    Store, StoreError,
    logs::{Chunk, LogPosition, StoredLog},
    notify::{Hub, Topic},
};

/// How often a follower looks by itself, beside being woken.
const SLOW_POLL: Duration = Duration::from_secs(2);

/// What a follower wants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Position {
    pub(crate) job: JobId,
    pub(crate) epoch: Epoch,
    pub(crate) sequence: u64,
}

/// Why a follower ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowError {
    #[error("there is no such job")]
    NoSuchJob,
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The output is not kept any more.
    #[error("the output of attempt {epoch} was removed at {at} by retention{}", next(*later))]
    Removed { epoch: Epoch, at: Timestamp, later: Option<Epoch> },
    /// Frames that were stored cannot be read. What lies behind them can.
    #[error(
        "frames {first} to {last} of attempt {epoch} cannot be read: {problem}; to go on behind them, \
         read attempt {epoch} from sequence {}", last + 1
    )]
    Damaged { epoch: Epoch, first: u64, last: u64, problem: String },
    /// The object store does not answer.
    #[error("log store {0}")]
    Away(ObjectError),
    /// Nobody listens any more.
    #[error("the follower has left")]
    Left,
}

fn next(later: Option<Epoch>) -> String {
    later.map(|epoch| format!("; that of attempt {epoch} is there")).unwrap_or_default()
}

/// The logs of this server: live and stored.
#[derive(Debug, Clone)]
pub(crate) struct Logs {
    pub(crate) archive: Arc<Archive>,
    pub(crate) store: Store,
    pub(crate) hub: Arc<Hub>,
    pub(crate) live: Arc<LiveLogs>,
}

enum Next {
    Sent(Vec<LogFrame>),
    Epoch,
    Wait,
    End,
}

impl Logs {
    /// The live log of an attempt whose agent is here, with its writer.
    pub(crate) fn open(
        &self,
        key: AttemptKey,
        worker: hodei_core::id::WorkerId,
        durable: u64,
        tracker: &tokio_util::task::TaskTracker,
    ) -> Arc<super::live::LiveLog> {
        let (log, new) = self.live.open(key, worker, durable);
        if new {
            let (store, hub) = (self.store.clone(), self.hub.clone());
            tracker.spawn(writer::write(store, hub, self.live.clone(), log.clone()));
            self.hub.wake(Topic::Log(key.job));
        }
        log
    }

    /// Sends frames from `position` on. Without `follow` it ends with what there is now; with it, when
    /// the job has ended and all of its output was sent.
    pub(crate) async fn stream(
        &self,
        position: Position,
        follow: bool,
        out: mpsc::Sender<StreamLogsResponse>,
    ) -> Result<(), FollowError> {
        let mut job_changed = self.hub.subscribe(Topic::Job(position.job));
        let mut log_changed = self.hub.subscribe(Topic::Log(position.job));
        let mut key = AttemptKey { job: position.job, epoch: position.epoch.max(Epoch::FIRST) };
        let mut cursor = position.sequence.max(1);
        if self.store.log_horizon(key.job).await?.is_none() {
            return Err(FollowError::NoSuchJob);
        }
        loop {
            // What changes from here on wakes the wait below, so nothing falls between.
            job_changed.mark_unchanged();
            log_changed.mark_unchanged();
            let live = self.live.get(key);
            let mut arrivals = live.as_ref().map(|log| log.arrivals());
            let next = match live.as_ref().map(|log| log.read_from(cursor)) {
                Some(Found::Frames(frames)) => Next::Sent(frames),
                Some(Found::Nothing) if follow => Next::Wait,
                _ => self.look_up(key, cursor, follow).await?,
            };
            match next {
                Next::Sent(frames) => {
                    cursor = frames.last().map_or(cursor, |frame| frame.sequence + 1);
                    let piece = StreamLogsResponse { epoch: key.epoch.0, frames };
                    out.send(piece).await.map_err(|_| FollowError::Left)?;
                }
                Next::Epoch => (key.epoch, cursor) = (key.epoch.next(), 1),
                Next::End => return Ok(()),
                Next::Wait => tokio::select! {
                    () = out.closed() => return Err(FollowError::Left),
                    _ = job_changed.changed() => {}
                    _ = log_changed.changed() => {}
                    () = changed(&mut arrivals) => {}
                    () = tokio::time::sleep(SLOW_POLL) => {}
                },
            }
        }
    }

    async fn look_up(
        &self,
        key: AttemptKey,
        cursor: u64,
        follow: bool,
    ) -> Result<Next, FollowError> {
        // First the state, then the frames: a log whose attempt was over then is complete now.
        let position = self.store.log_position(key).await?;
        self.refuse_removed(key, cursor, position).await?;
        let frames = match self.read(key, cursor).await {
            Ok(frames) => frames,
            Err(error) => {
                // Removed between the two looks, it is not damaged.
                self.refuse_removed(key, cursor, self.store.log_position(key).await?).await?;
                return Err(error);
            }
        };
        if !frames.is_empty() {
            return Ok(Next::Sent(frames));
        }
        let Some((latest, job_final)) = self.store.log_horizon(key.job).await? else {
            return Err(FollowError::NoSuchJob);
        };
        if let Some(LogPosition { sequence, .. }) = position.filter(|end| cursor <= end.sequence) {
            self.refuse_removed(key, cursor, self.store.log_position(key).await?).await?;
            return Err(damaged(key, cursor, sequence, "they are not in the database"));
        }
        let over = position.is_some_and(|position| position.state.is_final());
        Ok(match (over, key.epoch < latest) {
            (true, true) => Next::Epoch,
            // The job may have ended, or gone on, between the two looks: only its end is an end.
            (true, false) if job_final => Next::End,
            (false, _) if job_final && position.is_none() => Next::End,
            _ if !follow => Next::End,
            _ => Next::Wait,
        })
    }

    /// An error when what is wanted is not kept any more.
    async fn refuse_removed(
        &self,
        key: AttemptKey,
        cursor: u64,
        position: Option<LogPosition>,
    ) -> Result<(), FollowError> {
        match position {
            Some(LogPosition { removed: Some(at), sequence, .. }) if cursor <= sequence => {
                let horizon = self.store.log_horizon(key.job).await?;
                let latest = horizon.map_or(key.epoch, |(latest, _)| latest);
                let latest_key = AttemptKey { epoch: latest, ..key };
                let kept = self.store.log_position(latest_key).await?;
                let later = kept.filter(|end| end.removed.is_none()).map(|_| latest);
                Err(FollowError::Removed { epoch: key.epoch, at, later })
            }
            _ => Ok(()),
        }
    }

    /// Stored frames from a sequence number on, in order; empty when there are none yet.
    pub(crate) async fn read(
        &self,
        key: AttemptKey,
        from: u64,
    ) -> Result<Vec<LogFrame>, FollowError> {
        let mut frames = Vec::new();
        match self.store.stored_log(key, from).await? {
            StoredLog::Nothing => {}
            StoredLog::Chunks(chunks) => {
                for chunk in chunks {
                    let (first, last) = (chunk.first, chunk.last);
                    if frames.last().is_some_and(|end: &LogFrame| end.sequence + 1 != first) {
                        break;
                    }
                    match read_chunk(chunk).await {
                        Ok(read) => frames.extend(read),
                        // What lies before it, or before a hole, is sent first.
                        Err(_) if !frames.is_empty() => break,
                        Err(problem) => return Err(damaged(key, first, last, &problem)),
                    }
                }
            }
            StoredLog::Segment(segment) => {
                let (first, last) = (segment.first, segment.last);
                frames = self.archive.read(segment).await.map_err(|error| match error {
                    SegmentError::Objects(away @ ObjectError::Store { .. }) => {
                        FollowError::Away(away)
                    }
                    other => damaged(key, first, last, &other.to_string()),
                })?;
            }
        }
        frames.retain(|frame| frame.sequence >= from);
        match frames.first() {
            Some(first) if first.sequence > from => {
                Err(damaged(key, from, first.sequence - 1, "they are not in the database"))
            }
            _ => Ok(frames),
        }
    }
}

async fn read_chunk(chunk: Chunk) -> Result<Vec<LogFrame>, String> {
    decode(unpack_chunk(chunk.packed).await.map_err(|error| error.to_string())?)
}

fn damaged(key: AttemptKey, first: u64, last: u64, problem: &str) -> FollowError {
    FollowError::Damaged { epoch: key.epoch, first, last, problem: problem.to_owned() }
}

async fn changed(arrivals: &mut Option<watch::Receiver<u64>>) {
    if let Some(receiver) = arrivals
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

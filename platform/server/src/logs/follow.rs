//! One follower of a job's output: from any position, over all attempts, out of the ring where it can
//! and out of the database where it must.

use std::{sync::Arc, time::Duration};

use hodei_core::id::{AttemptKey, Epoch, JobId};
use hodei_proto::v1::{LogFrame, StreamLogsResponse};
use tokio::sync::{mpsc, watch};

use super::{
    live::{Found, LiveLogs},
    writer,
};
use crate::store::{
    Store, StoreError,
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
    /// Nobody listens any more.
    #[error("the follower has left")]
    Left,
}

/// The logs of this server: live and stored.
#[derive(Debug, Clone)]
pub(crate) struct Logs {
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
    ) -> Result<Next, StoreError> {
        // First the state, then the frames: a log whose attempt was over then is complete now.
        let position = self.store.log_position(key).await?;
        let frames: Vec<_> =
            self.store.read_logs(key, cursor).await?.into_iter().flatten().collect();
        if !frames.is_empty() {
            return Ok(Next::Sent(frames));
        }
        let over = position.is_some_and(|(state, _)| state.is_final());
        let Some((latest, job_final)) = self.store.log_horizon(key.job).await? else {
            return Ok(Next::End);
        };
        Ok(match (over, key.epoch < latest) {
            (true, true) => Next::Epoch,
            // The job may have ended, or gone on, between the two looks: only its end is an end.
            (true, false) if job_final => Next::End,
            (false, _) if job_final && position.is_none() => Next::End,
            _ if !follow => Next::End,
            _ => Next::Wait,
        })
    }
}

async fn changed(arrivals: &mut Option<watch::Receiver<u64>>) {
    if let Some(receiver) = arrivals
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

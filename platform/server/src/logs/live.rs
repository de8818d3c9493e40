//! The latest output of the attempts whose agents are connected to this server.
//!
//! A [`LiveLog`] is a ring of frames. Its one rule: **a frame that is not durable is never dropped from
//! the ring.** So whatever lies before the ring is in the database, and a follower changes from one to
//! the other at any point without a gap and without a frame twice. A ring that is full of frames that
//! are not durable stops the session's reader, and through it the agent.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hodei_core::{
    id::{AttemptKey, WorkerId},
    session::{Frame, Gap, Inbox, SequenceGap},
};
use hodei_proto::{frame_to_wire, v1::LogFrame};
use tokio::sync::{Notify, watch};

/// Bytes kept for followers that are a little behind.
const RING_BYTES: usize = 1 << 20;
/// Bytes kept when nobody follows.
const IDLE_RING_BYTES: usize = 16 << 10;
/// Bytes that may wait for the database before the agent is slowed down.
const UNSAVED_BYTES: usize = 4 << 20;
/// Bytes handed over in one piece, to a follower or to the database.
const PIECE_BYTES: usize = 1 << 20;
/// What a frame costs beside its payload, about.
const FRAME_OVERHEAD: usize = 96;

/// Why frames were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotTaken {
    #[error(transparent)]
    Gap(#[from] SequenceGap),
    /// The attempt has ended, or another server has its agent.
    #[error("the log is closed")]
    Closed,
}

/// What a follower finds at its position.
#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    /// The frames from there on.
    Frames(Vec<LogFrame>),
    /// It is before the ring: the database has it.
    Behind,
    /// It has seen all there is.
    Nothing,
    /// Nothing more comes here: the database has all of it.
    Closed,
}

#[derive(Debug)]
struct Ring {
    inbox: Inbox,
    frames: VecDeque<LogFrame>,
    bytes: usize,
    unsaved: usize,
    closed: bool,
}

/// The latest output of one attempt.
#[derive(Debug)]
pub(crate) struct LiveLog {
    pub(crate) key: AttemptKey,
    pub(crate) worker: WorkerId,
    ring: Mutex<Ring>,
    arrived: watch::Sender<u64>,
    durable: watch::Sender<u64>,
    flush: Notify,
}

fn cost(frame: &LogFrame) -> usize {
    frame.data.len() + FRAME_OVERHEAD
}

impl LiveLog {
    pub(crate) fn new(key: AttemptKey, worker: WorkerId, durable: u64) -> Self {
        let ring = Ring {
            inbox: Inbox::resume(durable),
            frames: VecDeque::new(),
            bytes: 0,
            unsaved: 0,
            closed: false,
        };
        Self {
            key,
            worker,
            ring: Mutex::new(ring),
            arrived: watch::Sender::new(durable),
            durable: watch::Sender::new(durable),
            flush: Notify::new(),
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a batch and shows it to followers at once. Then waits while too much is not durable.
    pub(crate) async fn accept(&self, batch: Vec<Frame>) -> Result<(), NotTaken> {
        let mut saved = self.durable.subscribe();
        let received = {
            let mut ring = self.ring();
            if ring.closed {
                return Err(NotTaken::Closed);
            }
            let accepted = ring.inbox.accept(batch)?;
            metrics::counter!("hodei_log_frames_total").increment(accepted.frames.len() as u64);
            self.tell_lost(&accepted.frames);
            for frame in accepted.frames.into_iter().map(frame_to_wire) {
                metrics::counter!("hodei_log_bytes_total").increment(frame.data.len() as u64);
                ring.bytes += cost(&frame);
                ring.unsaved += cost(&frame);
                ring.frames.push_back(frame);
            }
            ring.inbox.received()
        };
        self.arrived.send_replace(received);
        loop {
            {
                let ring = self.ring();
                if ring.closed {
                    return Err(NotTaken::Closed);
                }
                if ring.unsaved <= UNSAVED_BYTES {
                    return Ok(());
                }
            }
            if saved.changed().await.is_err() {
                return Err(NotTaken::Closed);
            }
        }
    }

    fn tell_lost(&self, frames: &[Frame]) {
        let gaps = frames.iter().filter_map(|frame| Some((frame.sequence, frame.gap?)));
        let count = |(bytes, frames): (u64, u64), (_, gap): (u64, Gap)| {
            (bytes.saturating_add(gap.bytes), frames.saturating_add(gap.frames))
        };
        if let Some((sequence, gap)) = gaps.clone().next() {
            let (bytes, frames) = gaps.fold((0, 0), count);
            let (job_id, epoch, cause) = (self.key.job, self.key.epoch.0, gap.cause);
            tracing::warn!(%job_id, epoch, sequence, bytes, frames, ?cause, "output is lost");
            metrics::counter!("hodei_log_lost_bytes_total").increment(bytes);
        }
    }

    /// What there is from a sequence number on.
    pub(crate) fn read_from(&self, from: u64) -> Found {
        let ring = self.ring();
        if ring.closed {
            return Found::Closed;
        }
        if from > ring.inbox.received() {
            return Found::Nothing;
        }
        match ring.frames.front() {
            Some(first) if first.sequence <= from => {
                let skip = usize::try_from(from - first.sequence).unwrap_or(usize::MAX);
                Found::Frames(piece(ring.frames.iter().skip(skip)))
            }
            _ => Found::Behind,
        }
    }

    /// The frames that are to be stored next; empty when all are.
    pub(crate) fn unsaved(&self) -> Vec<LogFrame> {
        let ring = self.ring();
        let durable = ring.inbox.durable();
        let saved = ring.frames.iter().take_while(|frame| frame.sequence <= durable).count();
        piece(ring.frames.iter().skip(saved))
    }

    /// Whether there is so little to store that waiting for more is worth it.
    pub(crate) fn little_unsaved(&self) -> bool {
        self.ring().unsaved < PIECE_BYTES / 16
    }

    /// Everything up to `sequence` is stored.
    pub(crate) fn saved(&self, sequence: u64) {
        let mut ring = self.ring();
        let before = ring.inbox.durable();
        ring.inbox.committed(sequence);
        let now = ring.inbox.durable();
        let newly = ring.frames.iter().filter(|f| f.sequence > before && f.sequence <= now);
        let bytes: usize = newly.map(cost).sum();
        ring.unsaved = ring.unsaved.saturating_sub(bytes);
        let keep = if self.arrived.receiver_count() > 1 { RING_BYTES } else { IDLE_RING_BYTES };
        while ring.bytes > keep && ring.frames.front().is_some_and(|first| first.sequence <= now) {
            if let Some(frame) = ring.frames.pop_front() {
                ring.bytes -= cost(&frame);
            }
        }
        drop(ring);
        self.durable.send_replace(now);
    }

    /// Nothing more is taken; followers go on with the database.
    pub(crate) fn close(&self) {
        let mut ring = self.ring();
        ring.closed = true;
        ring.frames.clear();
        (ring.bytes, ring.unsaved) = (0, 0);
        drop(ring);
        self.arrived.send_modify(|_| ());
        self.durable.send_modify(|_| ());
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.ring().closed
    }

    /// Changes with each frame that arrives, and at the end.
    pub(crate) fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrived.subscribe()
    }

    /// Changes with each frame that gets durable, and at the end.
    pub(crate) fn durable(&self) -> watch::Receiver<u64> {
        self.durable.subscribe()
    }

    /// Do not wait for more before storing what there is.
    pub(crate) fn flush(&self) {
        self.flush.notify_one();
    }

    pub(crate) async fn flush_requested(&self) {
        self.flush.notified().await;
    }
}

fn piece<'a>(frames: impl Iterator<Item = &'a LogFrame>) -> Vec<LogFrame> {
    let mut bytes = 0;
    frames
        .take_while(|frame| {
            let fits = bytes < PIECE_BYTES;
            bytes += cost(frame);
            fits
        })
        .cloned()
        .collect()
}

/// The live logs of this server.
#[derive(Debug, Default)]
pub(crate) struct LiveLogs {
    logs: Mutex<HashMap<AttemptKey, Arc<LiveLog>>>,
}

impl LiveLogs {
    /// The live log of an attempt, if its agent is here.
    pub(crate) fn get(&self, key: AttemptKey) -> Option<Arc<LiveLog>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    /// The live log of an attempt; `true` when it is new and needs a writer. One that is there already
    /// goes on: what it received before the link was lost is not received again.
    pub(crate) fn open(
        &self,
        key: AttemptKey,
        worker: WorkerId,
        durable: u64,
    ) -> (Arc<LiveLog>, bool) {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let present = logs.get(&key).filter(|log| !log.is_closed() && log.worker == worker);
        // Behind the database: another server had the agent meanwhile.
        if let Some(log) = present.filter(|log| *log.durable.borrow() >= durable) {
            return (log.clone(), false);
        }
        let log = Arc::new(LiveLog::new(key, worker, durable));
        if let Some(old) = logs.insert(key, log.clone()) {
            old.close();
        }
        (log, true)
    }

    /// Forgets a log that was closed.
    pub(crate) fn forget(&self, log: &Arc<LiveLog>) {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        if logs.get(&log.key).is_some_and(|present| Arc::ptr_eq(present, log)) {
            logs.remove(&log.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hodei_core::{
        id::{Epoch, JobId},
        session::OutputStream,
    };
    use jiff::Timestamp;

    use super::*;

    fn log() -> LiveLog {
        let key = AttemptKey { job: JobId::new(), epoch: Epoch::FIRST };
        LiveLog::new(key, WorkerId::new(), 0)
    }

    fn frames(sequences: std::ops::RangeInclusive<u64>, bytes: usize) -> Vec<Frame> {
        let make = |sequence| Frame {
            sequence,
            stream: OutputStream::Stdout,
            time: Timestamp::UNIX_EPOCH,
            data: Bytes::from(vec![b'x'; bytes]),
            gap: None,
        };
        sequences.map(make).collect()
    }

    fn sequences(found: Found) -> Vec<u64> {
        match found {
            Found::Frames(frames) => frames.iter().map(|frame| frame.sequence).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_is_not_durable_is_never_dropped() {
        let log = log();
        log.accept(frames(1..=10, 10 << 10)).await.unwrap();
        assert_eq!(sequences(log.read_from(1)).len(), 10);
        log.saved(9);
        assert_eq!(log.read_from(1), Found::Behind);
        assert_eq!(sequences(log.read_from(10)), [10]);
        assert_eq!(log.read_from(11), Found::Nothing);
        assert_eq!(log.unsaved().len(), 1);
    }

    #[tokio::test]
    async fn a_follower_keeps_the_ring_large() {
        let log = log();
        let _followers = [log.arrivals(), log.arrivals()];
        log.accept(frames(1..=10, 10 << 10)).await.unwrap();
        log.saved(10);
        assert_eq!(sequences(log.read_from(1)).len(), 10);
    }

    #[tokio::test]
    async fn too_much_that_is_not_durable_stops_the_reader() {
        let log = Arc::new(log());
        let accepting = {
            let log = log.clone();
            tokio::spawn(async move { log.accept(frames(1..=80, 60 << 10)).await })
        };
        let mut arrivals = log.arrivals();
        arrivals.wait_for(|&received| received == 80).await.unwrap();
        assert!(!accepting.is_finished());
        log.saved(80);
        accepting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_closed_log_takes_nothing() {
        let log = log();
        log.close();
        assert_eq!(log.accept(frames(1..=1, 1)).await, Err(NotTaken::Closed));
        assert_eq!(log.read_from(1), Found::Closed);
    }
}

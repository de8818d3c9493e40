//! Where the output of ended attempts is kept, and how it gets there.
//!
//! A [`step`](Archive::step) packs the next chunks of an attempt into one segment. Where segments are
//! objects, the object is written first; then one transaction records it and deletes the chunks. A step
//! that is cut short between the two leaves an object that the next one, with the same range and so the
//! same name, writes over.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use hodei_core::id::AttemptKey;
use hodei_proto::v1::{LogFrame, StreamLogsResponse};
use prost::Message;
use tokio::time::Instant;
use url::Url;

use super::{
    codec::{pack_segment, unpack_chunk, unpack_segment},
    follow::Logs,
    objects::{ObjectError, Objects, object_name},
    retention,
};
use crate::{
    config::LogStore,
    policy::backoff,
    store::{
        Store, StoreError,
        archive::{LOG_CLAIM, LogClaim, LogWork},
        logs::{Chunk, Place, Segment},
    },
};

/// Attempts that a server works on at once.
const AT_ONCE: i64 = 2;
/// How long the output of an attempt stays as it is: who followed it reads its end.
const SETTLED: Duration = Duration::from_secs(10);
/// How often is looked for ended attempts.
const POLL: Duration = Duration::from_secs(5);
/// How long chunks that cannot be read are left alone: nothing mends them.
const DAMAGED_PAUSE: Duration = Duration::from_secs(3600);
/// Longest time of one step: shorter than the claim on its attempt.
const STEP_TIMEOUT: Duration = Duration::from_secs(LOG_CLAIM.as_secs().saturating_sub(30));

/// Why a log was not archived or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("log store {0}")]
    Objects(#[from] ObjectError),
    /// Chunks that cannot be read are left alone.
    #[error("chunks {first} to {last} are damaged: {problem}")]
    Damaged { first: u64, last: u64, problem: String },
    #[error("not done within {STEP_TIMEOUT:?}")]
    TooLong,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A segment took the place of so many chunks.
    Packed(usize),
    /// Somebody else did it first.
    Overtaken,
    /// Nothing is left to do.
    Done,
}

/// Where segments are kept.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    /// Where new ones go; `None`: into the database.
    target: Option<Arc<Objects>>,
    /// Stores of former settings whose segments were asked for, by URL.
    former: Mutex<HashMap<String, Arc<Objects>>>,
}

impl Archive {
    /// The archive that the settings name, proved to work.
    pub(crate) async fn open(settings: &LogStore) -> anyhow::Result<Self> {
        let LogStore::Objects(url) = settings else { return Ok(Self::default()) };
        let objects = Objects::open(url).context("HODEI_LOG_STORE")?;
        let probed = objects.probe().await;
        probed.context("HODEI_LOG_STORE: a test object could not be written, read and deleted")?;
        Ok(Self { target: Some(Arc::new(objects)), former: Mutex::default() })
    }

    /// The object store that new segments go to.
    pub(super) fn target(&self) -> Option<&Arc<Objects>> {
        self.target.as_ref()
    }

    /// The object store of a segment: today's, or one of former settings.
    pub(super) fn store_at(&self, url: &str) -> Result<Arc<Objects>, ObjectError> {
        if let Some(target) = self.target.as_ref().filter(|target| target.url() == url) {
            return Ok(target.clone());
        }
        let mut former = self.former.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = former.get(url) {
            return Ok(known.clone());
        }
        let parsed = Url::parse(url).map_err(|error| ObjectError::Store {
            store: url.to_owned(),
            problem: error.to_string(),
        })?;
        let opened = Arc::new(Objects::open(&parsed)?);
        former.insert(url.to_owned(), opened.clone());
        Ok(opened)
    }

    /// Packs the next chunks of an attempt that has ended.
    pub(crate) async fn step(&self, store: &Store, key: AttemptKey) -> Result<Step, ArchiveError> {
        let chunks = store.chunks_to_pack(key).await?;
        let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else {
            store.log_archived(key).await?;
            return Ok(Step::Done);
        };
        // One row for one row gains nothing.
        let whole = store.log_position(key).await?.is_some_and(|end| end.sequence == last.last);
        if self.target.is_none() && chunks.len() == 1 && whole {
            store.log_archived(key).await?;
            return Ok(Step::Done);
        }
        let (first, last, packed) = (first.first, last.last, chunks.len());
        let segment = self.write(key, first..=last, chunks).await?;
        if store.record_segment(key, &segment, packed).await? {
            metrics::counter!("hodei_log_segments_total").increment(1);
            metrics::counter!("hodei_log_stored_bytes_total", "form" => "segment")
                .increment(segment.stored_bytes as u64);
            return Ok(Step::Packed(packed));
        }
        self.discard(store, key, &segment).await?;
        Ok(Step::Overtaken)
    }

    /// Makes a segment of chunks; where it is an object, writes it.
    pub(crate) async fn write(
        &self,
        key: AttemptKey,
        range: std::ops::RangeInclusive<u64>,
        chunks: Vec<Chunk>,
    ) -> Result<Segment, ArchiveError> {
        let (first, last) = (*range.start(), *range.end());
        let damaged = |problem: String| ArchiveError::Damaged { first, last, problem };
        let mut plain = BytesMut::new();
        for chunk in chunks {
            let unpacked = unpack_chunk(chunk.packed).await;
            plain.extend_from_slice(&unpacked.map_err(|error| damaged(error.to_string()))?);
        }
        let plain = plain.freeze();
        // What cannot be read is not put in the place of anything.
        let frames = decode(plain.clone()).map_err(&damaged)?;
        if !frames.iter().map(|frame| frame.sequence).eq(range) {
            return Err(damaged("frames are missing".to_owned()));
        }
        drop(frames);
        let plain_bytes = plain.len();
        let (stored, checksum) =
            pack_segment(plain).await.map_err(|error| damaged(error.to_string()))?;
        let stored_bytes = stored.len();
        let place = match &self.target {
            None => Place::Row(stored),
            Some(objects) => {
                let name = object_name(key, first, last);
                objects.put(&name, stored).await?;
                Place::Object { store: objects.url().to_owned(), name }
            }
        };
        Ok(Segment { first, last, plain_bytes, stored_bytes, checksum, place })
    }

    /// Deletes the object of a segment that could not be recorded, unless somebody else recorded it.
    async fn discard(
        &self,
        store: &Store,
        key: AttemptKey,
        segment: &Segment,
    ) -> Result<(), ArchiveError> {
        let Place::Object { store: url, name } = &segment.place else { return Ok(()) };
        if !store.has_object(key, name).await? {
            self.store_at(url)?.delete(name).await?;
        }
        Ok(())
    }

    /// The frames of a segment.
    pub(super) async fn read(&self, segment: Segment) -> Result<Vec<LogFrame>, SegmentError> {
        let (stored, place) = match segment.place {
            Place::Row(stored) => (stored, "their segment in the database".to_owned()),
            Place::Object { store, name } => {
                let stored = self.store_at(&store)?.get(&name).await?;
                (stored, format!("object {name} of {store}"))
            }
        };
        let damaged = |problem: String| SegmentError::Damaged { place: place.clone(), problem };
        let plain = unpack_segment(stored, segment.plain_bytes, segment.checksum).await;
        decode(plain.map_err(|error| damaged(error.to_string()))?).map_err(damaged)
    }
}

/// Why a segment cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum SegmentError {
    #[error(transparent)]
    Objects(#[from] ObjectError),
    #[error("{place} is damaged: {problem}")]
    Damaged { place: String, problem: String },
}

/// The frames of a chunk or a segment.
pub(super) fn decode(plain: Bytes) -> Result<Vec<LogFrame>, String> {
    let decoded = StreamLogsResponse::decode(plain).map_err(|error| error.to_string())?;
    Ok(decoded.frames)
}

/// How a pass over what there is to do went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// There was nothing to do.
    Idle,
    Worked,
    /// Something does not answer; it is no use to go on at once.
    Failed,
}

/// Claims some attempts whose log has work to do and does the next step of it.
pub(crate) async fn pass(logs: &Logs, work: LogWork, settled: Duration) -> Pass {
    let claims = match logs.store.claim_logs(work, settled, AT_ONCE).await {
        Ok(claims) if claims.is_empty() => return Pass::Idle,
        Ok(claims) => claims,
        Err(error) => {
            tracing::warn!(%error, ?work, "logs with work to do could not be looked up");
            return Pass::Failed;
        }
    };
    let steps = claims.into_iter().map(|claim| carry_out(logs, work, claim));
    match join_all(steps).await.into_iter().all(|done| done) {
        true => Pass::Worked,
        false => Pass::Failed,
    }
}

/// One step on a claimed attempt; `false` when what it needs does not answer.
async fn carry_out(logs: &Logs, work: LogWork, claim: LogClaim) -> bool {
    let key = claim.key;
    let step = async {
        match work {
            LogWork::Archive => logs.archive.step(&logs.store, key).await.map(drop),
            LogWork::Remove => retention::step(logs, key).await,
        }
    };
    let done = tokio::time::timeout(STEP_TIMEOUT, step).await;
    let Err(error) = done.unwrap_or(Err(ArchiveError::TooLong)) else { return true };
    tracing::warn!(attempt = %key, %error, ?work, "work on a log failed; it is tried again");
    metrics::counter!("hodei_log_archive_failures_total", "work" => work.as_str()).increment(1);
    let damaged = matches!(error, ArchiveError::Damaged { .. });
    let pause = if damaged { DAMAGED_PAUSE } else { backoff(claim.failures) };
    if let Err(error) = logs.store.log_work_failed(key, pause).await {
        tracing::debug!(attempt = %key, %error, "the failure was not written down");
    }
    damaged
}

/// Archives the output of ended attempts, as long as the server runs.
pub(crate) async fn run(logs: Logs) {
    let (mut failures, mut counted) = (0, None::<Instant>);
    loop {
        let passed = pass(&logs, LogWork::Archive, SETTLED).await;
        if counted.is_none_or(|at| at.elapsed() >= POLL) {
            count_backlog(&logs.store).await;
            counted = Some(Instant::now());
        }
        let pause = pause_after(passed, &mut failures, POLL);
        tokio::time::sleep(pause).await;
    }
}

async fn count_backlog(store: &Store) {
    for work in [LogWork::Archive, LogWork::Remove] {
        if let Ok(waiting) = store.log_backlog(work).await {
            let gauge = metrics::gauge!("hodei_log_archive_backlog", "work" => work.as_str());
            gauge.set(waiting as f64);
        }
    }
}

/// How long to wait after a pass; counts those that failed in a row.
pub(super) fn pause_after(passed: Pass, failures: &mut u32, idle: Duration) -> Duration {
    let before = std::mem::take(failures);
    match passed {
        Pass::Idle => idle,
        Pass::Worked => Duration::ZERO,
        Pass::Failed => {
            *failures = before + 1;
            backoff(before)
        }
    }
}

#[cfg(test)]
mod outside_input {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_refused(
            bytes in vec(any::<u8>(), 0..200), sequences in vec(any::<u64>(), 0..9),
            damage in proptest::option::of(any::<(prop::sample::Index, u8)>()),
        ) {
            let _ = decode(bytes.into());
            let frames = sequences.iter().map(|&sequence| LogFrame { sequence, ..Default::default() });
            let piece = StreamLogsResponse { epoch: 1, frames: frames.collect() };
            let mut encoded = piece.encode_to_vec();
            if let Some((place, byte)) = damage {
                *place.get_mut(&mut encoded) = byte;
                let _ = decode(encoded.into());
            } else {
                prop_assert_eq!(decode(encoded.into()), Ok(piece.frames));
            }
        }
    }
}

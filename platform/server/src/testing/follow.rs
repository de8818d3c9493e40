//! A follower sees each frame once and in order, whenever it joins and however slow it is.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hodei_core::{
    attempt::{AttemptEnd, Outcome},
    id::{AttemptKey, Epoch, ProviderId, WorkerId},
    secret::Secret,
    session::{Frame, OutputStream},
    spec::JobSpec,
};
use jiff::Timestamp;
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{postgres::create_database, running::PATIENCE};
use crate::{
    logs::{
        archive::{Archive, Pass, pass},
        follow::{Logs, Position},
        live::LiveLog,
    },
    store::{Store, archive::LogWork, notify::Hub},
};

pub(super) struct Bench {
    pub(super) logs: Logs,
    tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// How an attempt prints and how its followers behave.
#[derive(Debug, Clone)]
struct Schedule {
    batches: Vec<u64>,
    /// For each follower: after how many batches it joins, and whether it dawdles.
    followers: Vec<(usize, bool)>,
    frame_bytes: usize,
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let batches = prop::collection::vec(1_u64..40, 1..12);
    let followers = prop::collection::vec((0_usize..12, any::<bool>()), 1..4);
    (batches, followers, prop_oneof![Just(8_usize), Just(20_000)])
        .prop_map(|(batches, followers, frame_bytes)| Schedule { batches, followers, frame_bytes })
}

impl Bench {
    pub(super) async fn start(store: Store) -> Self {
        Self::start_with(store, Archive::default()).await
    }

    /// One whose segments go to this archive.
    pub(super) async fn start_with(store: Store, archive: Archive) -> Self {
        let logs = Logs {
            archive: Arc::new(archive),
            store,
            hub: Arc::new(Hub::default()),
            live: Arc::default(),
        };
        let bench = Self { logs, tasks: TaskTracker::new(), stop: CancellationToken::new() };
        let (hub, store, stop) =
            (bench.logs.hub.clone(), bench.logs.store.clone(), bench.stop.clone());
        bench.tasks.spawn(async move { hub.listen(&store, stop).await });
        bench
    }

    pub(super) async fn make_attempt(&self) -> (AttemptKey, WorkerId) {
        let store = &self.logs.store;
        let provider: ProviderId = "p".parse().unwrap();
        store.add_provider(&provider, "fake", false, &json!({}), None).await.unwrap();
        store.submit(&JobSpec::command(["true"]), None, "c").await.unwrap();
        let job = store.due_jobs(1).await.unwrap().remove(0);
        let claim = store.claim(job.id, &provider, &Secret::generate().hash(), None).await.unwrap();
        let claim = claim.unwrap();
        (claim.key, claim.worker)
    }

    /// The live log of an attempt, as if its agent had a session here.
    pub(super) fn open(&self, key: AttemptKey, worker: WorkerId) -> Arc<LiveLog> {
        self.logs.open(key, worker, 0, &self.tasks)
    }

    pub(super) fn follow(
        &self,
        key: AttemptKey,
        dawdle: bool,
    ) -> tokio::task::JoinHandle<Vec<u64>> {
        let logs = self.logs.clone();
        let (out, mut pieces) = mpsc::channel(1);
        let position = Position { job: key.job, epoch: Epoch(0), sequence: 0 };
        tokio::spawn(async move { logs.stream(position, true, out).await });
        tokio::spawn(async move {
            let mut seen = Vec::new();
            while let Some(piece) = pieces.recv().await {
                seen.extend(piece.frames.iter().map(|frame| frame.sequence));
                if dawdle {
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            }
            seen
        })
    }

    async fn run(&self, schedule: &Schedule) -> Result<(), TestCaseError> {
        let (key, worker) = self.make_attempt().await;
        let live = self.open(key, worker);
        let (mut following, mut last) = (Vec::new(), 0);
        for (index, size) in schedule.batches.iter().enumerate() {
            for (_, dawdle) in schedule.followers.iter().filter(|(after, _)| *after == index) {
                following.push(self.follow(key, *dawdle));
            }
            let frames = (last + 1..=last + size).map(|n| frame(n, schedule.frame_bytes)).collect();
            last += size;
            live.accept(frames).await.unwrap();
        }
        let late = schedule.followers.iter().filter(|(after, _)| *after >= schedule.batches.len());
        following.extend(late.map(|(_, dawdle)| self.follow(key, *dawdle)));
        live.flush();
        live.durable().wait_for(|durable| *durable == last).await.unwrap();
        let end = AttemptEnd::Finished(Outcome::Exited { code: 0, out_of_memory: false });
        self.logs.store.end_attempt(key, worker, &end).await.unwrap();
        let wanted: Vec<u64> = (1..=last).collect();
        for follower in following {
            let seen = tokio::time::timeout(PATIENCE, follower).await;
            prop_assert_eq!(&seen.expect("a follower must end").unwrap(), &wanted);
        }
        Ok(())
    }
}

pub(super) fn frame(sequence: u64, bytes: usize) -> Frame {
    Frame {
        sequence,
        stream: OutputStream::Stdout,
        time: Timestamp::UNIX_EPOCH,
        data: Bytes::from(vec![b'x'; bytes]),
        gap: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_follower_sees_every_frame_once_and_in_order() {
    let database = create_database().await;
    let bench = Arc::new(Bench::start(database.store().await).await);
    // What has ended is archived at once, under the eyes of who reads it.
    let logs = bench.logs.clone();
    let archiving = tokio::spawn(async move {
        loop {
            let passed = pass(&logs, LogWork::Archive, Duration::ZERO).await;
            assert_ne!(passed, Pass::Failed);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let (runtime, inner) = (tokio::runtime::Handle::current(), bench.clone());
    let checking = tokio::task::spawn_blocking(move || {
        let config = ProptestConfig { cases: 40, failure_persistence: None, ..Default::default() };
        let check = |schedule: Schedule| runtime.block_on(inner.run(&schedule));
        TestRunner::new(config).run(&schedules(), check)
    });
    checking.await.unwrap().unwrap();
    assert!(!archiving.is_finished());
    archiving.abort();
    bench.stop.cancel();
    bench.tasks.close();
    tokio::time::timeout(PATIENCE, bench.tasks.wait()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_servers_that_store_the_same_frames_one_is_refused() {
    let database = create_database().await;
    let bench = Bench::start(database.store().await).await;
    let (key, worker) = bench.make_attempt().await;
    let frames = |range: std::ops::RangeInclusive<u64>| range.map(super::agent::line).collect();
    let store = &bench.logs.store;
    assert!(store.append_logs(key, worker, frames(1..=3)).await.unwrap());
    assert!(!store.append_logs(key, worker, frames(1..=3)).await.unwrap(), "doubled");
    assert!(!store.append_logs(key, worker, frames(5..=6)).await.unwrap(), "a gap");
    assert!(!store.append_logs(key, WorkerId::new(), frames(4..=4)).await.unwrap(), "foreign");
    assert!(store.append_logs(key, worker, frames(4..=6)).await.unwrap());
    let read = bench.logs.read(key, 3).await.unwrap();
    let sequences: Vec<_> = read.into_iter().map(|frame| frame.sequence).collect();
    assert_eq!(sequences, [3, 4, 5, 6]);
    bench.stop.cancel();
}

//! Output of attempts that have ended: packed, wherever it is kept, it reads as before.

use std::{path::PathBuf, time::Duration};

use hodei_core::{
    attempt::{AttemptEnd, Outcome},
    id::AttemptKey,
};
use hodei_proto::{frame_to_wire, v1::LogFrame};
use proptest::{prelude::*, test_runner::TestRunner};
use sqlx::{AssertSqlSafe, Executor, Row};
use tempfile::TempDir;
use url::Url;

use super::{
    follow::{Bench, frame},
    postgres::{TestDatabase, create_database},
};
use crate::{
    config::LogStore,
    logs::{
        archive::{Archive, Pass, Step, pass},
        follow::FollowError,
    },
    store::archive::LogWork,
};

/// A log store, and where its objects are, if they are objects.
pub(super) struct Kept {
    pub(super) database: TestDatabase,
    pub(super) directory: TempDir,
    pub(super) bench: Bench,
    objects: bool,
}

impl Kept {
    pub(super) async fn start(objects: bool) -> Self {
        let database = create_database().await;
        let directory = tempfile::tempdir().unwrap();
        let archive = open(&directory, objects).await;
        let bench = Bench::start_with(database.store().await, archive).await;
        Self { database, directory, bench, objects }
    }

    /// A second server on the same database and objects.
    pub(super) async fn replica(&self) -> Bench {
        let archive = open(&self.directory, self.objects).await;
        Bench::start_with(self.database.store().await, archive).await
    }

    /// An attempt that printed these batches of frames, each a chunk, and ended.
    pub(super) async fn make_ended(&self, batches: &[u64], bytes: usize) -> AttemptKey {
        let (key, worker) = self.bench.make_attempt().await;
        let (store, mut last) = (&self.bench.logs.store, 0);
        for size in batches {
            let frames: Vec<LogFrame> =
                (last + 1..=last + size).map(|n| frame_to_wire(frame(n, bytes))).collect();
            assert!(store.append_logs(key, worker, frames).await.unwrap());
            last += size;
        }
        let end = AttemptEnd::Finished(Outcome::Exited { code: 0, out_of_memory: false });
        store.end_attempt(key, worker, &end).await.unwrap();
        key
    }

    pub(super) async fn step(&self, key: AttemptKey) -> Step {
        self.bench.logs.archive.step(&self.bench.logs.store, key).await.unwrap()
    }

    pub(super) async fn archive(&self, key: AttemptKey) {
        while self.step(key).await != Step::Done {}
    }

    /// Sequence numbers from a position to the end.
    pub(super) async fn walk(&self, key: AttemptKey, from: u64) -> Result<Vec<u64>, FollowError> {
        let mut seen: Vec<u64> = Vec::new();
        loop {
            let next = seen.last().map_or(from, |last| last + 1);
            let frames = self.bench.logs.read(key, next).await?;
            if frames.is_empty() {
                return Ok(seen);
            }
            seen.extend(frames.iter().map(|frame| frame.sequence));
        }
    }

    pub(super) async fn count(&self, what: &str) -> i64 {
        let query = AssertSqlSafe(format!("SELECT count(*) AS n FROM {what}"));
        sqlx::query(query).fetch_one(&self.bench.logs.store.pool).await.unwrap().get("n")
    }

    pub(super) async fn execute(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        self.bench.logs.store.pool.execute(sql).await.unwrap();
    }

    /// The files of all objects, in the order of their names.
    pub(super) fn objects(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.directory.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found.sort();
        found
    }
}

pub(super) async fn open(directory: &TempDir, objects: bool) -> Archive {
    let url = Url::from_directory_path(directory.path()).unwrap();
    let settings =
        if objects { LogStore::parse(url.as_str()).unwrap() } else { LogStore::Postgres };
    Archive::open(&settings).await.unwrap()
}

/// Where a reader may start: every number, or around the edges of each batch when frames are large.
fn positions(batches: &[u64], bytes: usize) -> Vec<u64> {
    let last = batches.iter().sum();
    let edges = batches.iter().scan(0, |end, size| {
        *end += size;
        Some(*end)
    });
    match bytes {
        ..1000 => (1..=last).collect(),
        _ => edges.flat_map(|edge| [edge, edge + 1]).chain([1]).filter(|n| *n <= last).collect(),
    }
}

async fn reads_the_same(kept: &Kept, batches: &[u64], bytes: usize) -> Result<(), TestCaseError> {
    let key = kept.make_ended(batches, bytes).await;
    let last = batches.iter().sum::<u64>();
    // As it was received, after each step, and when nothing is left to do.
    loop {
        for from in positions(batches, bytes) {
            let read = kept.bench.logs.read(key, from).await.unwrap();
            let sequences: Vec<_> = read.iter().map(|frame| frame.sequence).collect();
            let wanted: Vec<_> = (from..from + read.len() as u64).collect();
            prop_assert!(!sequences.is_empty(), "nothing at {}", from);
            prop_assert_eq!(sequences, wanted);
        }
        prop_assert_eq!(kept.walk(key, 1).await.unwrap(), (1..=last).collect::<Vec<_>>());
        prop_assert!(kept.walk(key, last + 1).await.unwrap().is_empty());
        if kept.step(key).await == Step::Done {
            return Ok(());
        }
    }
}

async fn reads_the_same_everywhere(objects: bool) {
    let kept = Kept::start(objects).await;
    let (runtime, handle) = (tokio::runtime::Handle::current(), std::sync::Arc::new(kept));
    let checked = handle.clone();
    let checking = tokio::task::spawn_blocking(move || {
        let config = ProptestConfig { cases: 6, failure_persistence: None, ..Default::default() };
        let sizes = prop::collection::vec(1_u64..16, 1..9);
        let bytes = prop_oneof![Just(8_usize), Just(60_000)];
        let check = |(sizes, bytes): (Vec<u64>, usize)| {
            runtime.block_on(reads_the_same(&checked, &sizes, bytes))
        };
        TestRunner::new(config).run(&(sizes, bytes), check)
    });
    checking.await.unwrap().unwrap();
    assert_eq!(handle.count("log_segments WHERE object IS NOT NULL").await > 0, objects);
    assert_eq!(handle.objects().is_empty(), !objects);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_in_the_database_reads_the_same_from_every_position() {
    reads_the_same_everywhere(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_in_objects_reads_the_same_from_every_position() {
    reads_the_same_everywhere(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_at_a_time_is_read_many_at_once_and_packed_into_one_row() {
    let kept = Kept::start(false).await;
    let key = kept.make_ended(&[1; 700], 40).await;
    assert_eq!(kept.bench.logs.read(key, 1).await.unwrap().len(), 700);
    assert_eq!(kept.step(key).await, Step::Packed(700));
    assert_eq!((kept.count("log_chunks").await, kept.count("log_segments").await), (0, 1));
    assert_eq!(kept.bench.logs.read(key, 1).await.unwrap().len(), 700);
    // What is one row already stays as it is.
    let key = kept.make_ended(&[5], 40).await;
    assert_eq!(kept.step(key).await, Step::Done);
    assert_eq!((kept.count("log_chunks").await, kept.count("log_segments").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_from_before_compression_and_rows_that_do_not_get_smaller_are_plain() {
    let kept = Kept::start(false).await;
    let key = kept.make_ended(&[3, 3], 4).await;
    assert_eq!(kept.count("log_chunks WHERE encoding = 'plain'").await, 2);
    kept.execute("UPDATE log_chunks SET plain_bytes = NULL").await;
    assert_eq!(kept.walk(key, 2).await.unwrap(), [2, 3, 4, 5, 6]);
    kept.archive(key).await;
    assert_eq!(kept.walk(key, 2).await.unwrap(), [2, 3, 4, 5, 6]);
    kept.make_ended(&[3], 4000).await;
    let smaller = "log_chunks WHERE encoding = 'zstd' AND octet_length(payload) < plain_bytes / 10";
    assert_eq!(kept.count(smaller).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_archive_side_by_side() {
    let kept = Kept::start(true).await;
    let replica = kept.replica().await;
    let mut keys = Vec::new();
    for _ in 0..8 {
        keys.push(kept.make_ended(&[2, 3, 4], 100).await);
    }
    let all = async |bench: &Bench| {
        while pass(&bench.logs, LogWork::Archive, Duration::ZERO).await != Pass::Idle {}
    };
    tokio::join!(all(&kept.bench), all(&replica));
    assert_eq!(kept.count("attempts WHERE log_state = 'archived'").await, 8);
    // Even where a claim has run out and both work on the same attempt.
    for round in 0..10 {
        let key = kept.make_ended(&[2, 3, 4], 100).await;
        let (one, other) = (kept.step(key), replica.logs.archive.step(&replica.logs.store, key));
        let steps = tokio::join!(one, other);
        let packed = [steps.0, steps.1.unwrap()];
        let by = packed.iter().filter(|step| **step == Step::Packed(3)).count();
        assert_eq!(by, 1, "round {round}: {packed:?}");
        keys.push(key);
    }
    for key in keys {
        assert_eq!(kept.walk(key, 1).await.unwrap(), (1..=9).collect::<Vec<_>>());
    }
    assert_eq!((kept.count("log_chunks").await, kept.count("log_segments").await), (0, 18));
    assert_eq!(kept.objects().len(), 18);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_goes_from_chunks_to_segments_without_a_gap() {
    let kept = Kept::start(true).await;
    // Three segments, of which the follower has read a part when they come to be.
    let key = kept.make_ended(&[10; 20], 60_000).await;
    let logs = kept.bench.logs.clone();
    let first = logs.read(key, 1).await.unwrap();
    let chunks = logs.store.chunks_to_pack(key).await.unwrap();
    let again = logs.archive.write(key, 1..=70, chunks).await.unwrap();
    assert_eq!(kept.step(key).await, Step::Packed(7));
    // While more is to be packed, only the missing chunks tell who comes second.
    assert!(!logs.store.record_segment(key, &again, 7).await.unwrap());
    let middle = first.len() as u64 / 2;
    assert_eq!(kept.walk(key, middle).await.unwrap(), (middle..=200).collect::<Vec<_>>());
    let following = kept.bench.follow(key, true);
    kept.archive(key).await;
    assert_eq!(following.await.unwrap(), (1..=200).collect::<Vec<_>>());
    assert_eq!(kept.count("log_segments").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_one_server_s_and_comes_some_time_after_the_end() {
    let kept = Kept::start(false).await;
    let key = kept.make_ended(&[2, 2], 100).await;
    kept.bench.make_attempt().await;
    let claim = async |settled| {
        let claims = kept.bench.logs.store.claim_logs(LogWork::Archive, settled, 10).await.unwrap();
        claims.iter().map(|claim| claim.key).collect::<Vec<_>>()
    };
    assert_eq!(claim(Duration::from_secs(60)).await, []);
    let both = tokio::join!(claim(Duration::ZERO), claim(Duration::ZERO));
    assert_eq!([both.0, both.1].concat(), [key]);
    assert_eq!(claim(Duration::ZERO).await, []);
    assert_eq!(kept.bench.logs.store.log_backlog(LogWork::Archive).await.unwrap(), 1);
}

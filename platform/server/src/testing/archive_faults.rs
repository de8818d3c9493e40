//! What goes wrong with stored output: objects that are bad, stores that are away, servers that end.

use std::{path::Path, time::Duration};

use url::Url;

use super::archive::{Kept, open};
use crate::{
    config::LogStore,
    logs::{
        archive::{Archive, Pass, Step, pass},
        follow::{FollowError, Position},
    },
    store::archive::LogWork,
};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_leaves_between_object_and_record_is_written_over() {
    let kept = Kept::start(true).await;
    let key = kept.make_ended(&[2, 2], 100).await;
    let (logs, replica) = (&kept.bench.logs, kept.replica().await);
    let chunks = logs.store.chunks_to_pack(key).await.unwrap();
    logs.archive.write(key, 1..=4, chunks).await.unwrap();
    // The server ends here. All output is still there, beside an object that nobody knows of.
    assert_eq!(kept.walk(key, 1).await.unwrap(), [1, 2, 3, 4]);
    let left = kept.objects();
    std::fs::write(&left[0], "half of it").unwrap();
    let step = replica.logs.archive.step(&replica.logs.store, key).await.unwrap();
    assert_eq!(step, Step::Packed(2));
    assert_eq!(kept.objects(), left);
    assert_eq!(kept.walk(key, 1).await.unwrap(), [1, 2, 3, 4]);
}

fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// Another object in the place of one: as long, and without a fault of its own.
fn replace(path: &Path) {
    let mut plain = zstd::bulk::decompress(&std::fs::read(path).unwrap(), 8 << 20).unwrap();
    *plain.last_mut().unwrap() ^= 1;
    std::fs::write(path, zstd::bulk::compress(&plain, 1).unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_object_is_named_and_the_rest_is_readable() {
    let kept = Kept::start(true).await;
    let key = kept.make_ended(&[10; 20], 60_000).await;
    kept.archive(key).await;
    let objects = kept.objects();
    let second = std::fs::read(&objects[1]).unwrap();
    let damages: [(&str, &dyn Fn()); 4] = [
        ("zstd", &|| damage(&objects[1])),
        ("holds 0 bytes", &|| std::fs::write(&objects[1], "").unwrap()),
        ("SHA-256", &|| replace(&objects[1])),
        ("is not there", &|| std::fs::remove_file(&objects[1]).unwrap()),
    ];
    for (told, cause) in damages {
        cause();
        let Err(FollowError::Damaged { first, last, problem, .. }) = kept.walk(key, 1).await else {
            panic!("{told}")
        };
        assert!(problem.contains(told), "{problem}");
        assert_eq!((first, last), (71, 140), "{told}");
        let name = objects[1].file_name().unwrap().to_str().unwrap();
        assert!(problem.contains(name), "{problem}");
        assert_eq!(kept.walk(key, last + 1).await.unwrap(), (141..=200).collect::<Vec<_>>());
        assert_eq!(kept.bench.logs.read(key, 1).await.unwrap().len(), 70);
        std::fs::write(&objects[1], &second).unwrap();
    }
    assert_eq!(kept.walk(key, 1).await.unwrap().len(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_output_stays_where_it_is() {
    let kept = Kept::start(true).await;
    let archived = kept.make_ended(&[2, 2], 100).await;
    kept.archive(archived).await;
    let key = kept.make_ended(&[2, 2], 100).await;
    let away = kept.directory.path().with_extension("away");
    std::fs::rename(kept.directory.path(), &away).unwrap();
    std::fs::write(kept.directory.path(), "no directory").unwrap();
    let passed = pass(&kept.bench.logs, LogWork::Archive, Duration::ZERO).await;
    assert_eq!(passed, Pass::Failed);
    assert_eq!(kept.walk(key, 1).await.unwrap(), [1, 2, 3, 4]);
    let error = kept.walk(archived, 1).await.unwrap_err();
    assert!(matches!(error, FollowError::Away(_)), "{error}");
    assert_eq!(
        kept.count("attempts WHERE log_work_failures = 1 AND log_work_after > now()").await,
        1
    );
    assert_eq!((kept.count("log_chunks").await, kept.count("log_segments").await), (2, 1));
    std::fs::remove_file(kept.directory.path()).unwrap();
    std::fs::rename(&away, kept.directory.path()).unwrap();
    kept.archive(key).await;
    assert_eq!(kept.walk(key, 1).await.unwrap(), [1, 2, 3, 4]);
    assert_eq!(kept.count("attempts WHERE log_work_failures = 0").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_cannot_be_read_are_left_alone() {
    let kept = Kept::start(false).await;
    let key = kept.make_ended(&[2, 2, 2], 1000).await;
    kept.execute("UPDATE log_chunks SET payload = '\\x00' WHERE first_sequence = 3").await;
    let passed = pass(&kept.bench.logs, LogWork::Archive, Duration::ZERO).await;
    // Nothing else waits for it.
    assert_eq!(passed, Pass::Worked);
    assert_eq!((kept.count("log_chunks").await, kept.count("log_segments").await), (3, 0));
    let error = kept.walk(key, 1).await.unwrap_err();
    assert!(matches!(error, FollowError::Damaged { first: 3, last: 4, .. }), "{error}");
    assert_eq!(kept.walk(key, 5).await.unwrap(), [5, 6]);
    // Nor do two that one is missing between become one segment.
    kept.execute("DELETE FROM log_chunks WHERE first_sequence = 3").await;
    let error = kept.bench.logs.archive.step(&kept.bench.logs.store, key).await.unwrap_err();
    assert!(error.to_string().contains("frames are missing"), "{error}");
    assert_eq!((kept.count("log_chunks").await, kept.count("log_segments").await), (2, 0));
    let error = kept.walk(key, 1).await.unwrap_err().to_string();
    assert!(error.contains("frames 3 to 4 of attempt 1 cannot be read"), "{error}");
    kept.execute("DELETE FROM log_chunks WHERE first_sequence = 5").await;
    let (out, _pieces) = tokio::sync::mpsc::channel(1);
    let position = Position { job: key.job, epoch: key.epoch, sequence: 4 };
    let error = kept.bench.logs.stream(position, true, out).await.unwrap_err();
    assert!(matches!(error, FollowError::Damaged { first: 4, last: 6, .. }), "{error}");
}

#[tokio::test]
async fn a_store_that_cannot_be_used_is_said_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [directory.path().join("absent"), file] {
        let settings = LogStore::Objects(Url::from_file_path(&path).unwrap());
        let error = format!("{:#}", Archive::open(&settings).await.unwrap_err());
        assert!(error.contains("HODEI_LOG_STORE"), "{error}");
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
    // What was written to try it is not left behind.
    open(&directory, true).await;
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

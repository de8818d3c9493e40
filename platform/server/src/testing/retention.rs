//! What is kept for long enough goes, all of it and nothing else, and whoever asks for it is told.

use std::time::Duration;

use hodei_core::id::{AttemptKey, Epoch, JobId};
use hodei_core::spec::JobSpec;
use hodei_proto::v1::{
    JobState, StreamLogsRequest, StreamLogsResponse, attempt_outcome::How,
    log_stream_service_client::LogStreamServiceClient,
};
use tokio::sync::mpsc;
use tonic::Code;

use super::{
    agent::Agent,
    archive::{Kept, open},
    await_some,
    running::Running,
};
use crate::{
    logs::{
        archive::{Pass, pass},
        follow::{FollowError, Position},
        retention::{Periods, expire},
    },
    store::archive::LogWork,
};

const DAY: Duration = Duration::from_secs(86_400);
const LOGS: Periods = Periods { logs: Some(DAY), jobs: None };
const ALL: Periods = Periods { logs: Some(DAY), jobs: Some(DAY) };

impl Kept {
    /// Makes everything older.
    async fn age(&self, job: JobId, by: &str) {
        for table in ["attempts WHERE job_id", "jobs WHERE id"] {
            let (table, condition) = table.split_once(" WHERE ").unwrap();
            self.execute(&format!(
                "UPDATE {table} SET finished_at = now() - interval '{by}' WHERE {condition} = '{job}'"
            ))
            .await;
        }
    }

    async fn expire(&self, periods: Periods) {
        while expire(&self.bench.logs, periods).await.unwrap() != Pass::Idle {}
    }

    async fn remove(&self) -> Pass {
        loop {
            match pass(&self.bench.logs, LogWork::Remove, Duration::ZERO).await {
                Pass::Worked => {}
                end => return end,
            }
        }
    }

    async fn follow_from_start(&self, key: AttemptKey) -> Result<usize, FollowError> {
        let (out, mut pieces) = mpsc::channel::<StreamLogsResponse>(1);
        let position = Position { job: key.job, epoch: Epoch(0), sequence: 0 };
        let count = async {
            let mut frames = 0;
            while let Some(piece) = pieces.recv().await {
                frames += piece.frames.len();
            }
            frames
        };
        let (streamed, frames) = tokio::join!(self.bench.logs.stream(position, true, out), count);
        streamed.map(|()| frames)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_removed_when_its_time_is_over_and_not_before() {
    for objects in [false, true] {
        let kept = Kept::start(objects).await;
        let young = kept.make_ended(&[2, 2], 500).await;
        let old = kept.make_ended(&[2, 2], 500).await;
        let old_chunks = kept.make_ended(&[2, 2], 500).await;
        for key in [young, old] {
            kept.archive(key).await;
        }
        kept.age(young.job, "23 hours 59 minutes 55 seconds").await;
        kept.age(old.job, "24 hours 1 second").await;
        kept.age(old_chunks.job, "30 days").await;
        kept.expire(LOGS).await;
        // From here on nobody reads half of it.
        for key in [old, old_chunks] {
            let told = kept.follow_from_start(key).await.unwrap_err();
            assert!(matches!(told, FollowError::Removed { .. }), "{told}");
        }
        assert_eq!(kept.remove().await, Pass::Idle);
        assert_eq!(kept.follow_from_start(young).await.unwrap(), 4);
        assert_eq!((kept.count("log_segments").await, kept.count("log_chunks").await), (1, 0));
        assert_eq!(kept.objects().len(), usize::from(objects));
        assert_eq!(kept.count("attempts WHERE log_state = 'removed'").await, 2);
        let told = kept.follow_from_start(old).await.unwrap_err().to_string();
        assert!(told.contains("attempt 1 was removed at 2"), "{told}");
        kept.expire(Periods::default()).await;
        assert_eq!(kept.count("jobs").await, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_while_it_is_removed_is_told_so() {
    let kept = Kept::start(true).await;
    for rows_too in [false, true] {
        let key = kept.make_ended(&[2, 2], 500).await;
        kept.archive(key).await;
        // The reader has seen that the log is there, and waits for its frames.
        let mut tx = kept.bench.logs.store.pool.begin().await.unwrap();
        sqlx::query("LOCK TABLE log_chunks").execute(&mut *tx).await.unwrap();
        let blocked = "pg_stat_activity WHERE datname = current_database()
                       AND wait_event_type = 'Lock' AND query LIKE '%log_chunks%'";
        let removing = async {
            await_some("the reader to wait", async || match kept.count(blocked).await {
                0 => Err("nobody waits".to_owned()),
                _ => Ok(()),
            })
            .await;
            let mark = "UPDATE attempts SET log_state = 'removing', log_removed_at = now()
                        WHERE log_state = 'archived'";
            sqlx::query(mark).execute(&mut *tx).await.unwrap();
            if rows_too {
                sqlx::query("DELETE FROM log_segments").execute(&mut *tx).await.unwrap();
            }
            std::fs::remove_file(&kept.objects()[0]).unwrap();
            tx.commit().await.unwrap();
        };
        let (told, ()) = tokio::join!(kept.follow_from_start(key), removing);
        assert!(matches!(told, Err(FollowError::Removed { .. })), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_stays_while_its_job_goes_on() {
    let kept = Kept::start(false).await;
    let key = kept.make_ended(&[2, 2], 500).await;
    kept.age(key.job, "30 days").await;
    kept.execute("UPDATE jobs SET state = 'queued', finished_at = NULL").await;
    kept.expire(ALL).await;
    assert_eq!(kept.count("attempts WHERE log_state = 'chunked'").await, 1);
    assert_eq!(kept.walk(key, 1).await.unwrap(), [1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_object_is_forgotten_by_a_removal_that_is_cut_short() {
    let kept = Kept::start(true).await;
    let key = kept.make_ended(&[2, 2], 500).await;
    kept.archive(key).await;
    let orphan = kept.objects()[0].with_file_name("left-by-a-crash.zst");
    std::fs::write(&orphan, "x").unwrap();
    kept.age(key.job, "2 days").await;
    kept.expire(LOGS).await;
    // The store is away: what names the objects stays.
    let away = kept.directory.path().with_extension("away");
    std::fs::rename(kept.directory.path(), &away).unwrap();
    std::fs::write(kept.directory.path(), "no directory").unwrap();
    assert_eq!(kept.remove().await, Pass::Failed);
    assert_eq!(kept.count("log_segments").await, 1);
    let told = kept.follow_from_start(key).await.unwrap_err();
    assert!(matches!(told, FollowError::Removed { .. }), "{told}");
    std::fs::remove_file(kept.directory.path()).unwrap();
    std::fs::rename(&away, kept.directory.path()).unwrap();
    // Cut short between the object and its row: done again.
    std::fs::remove_file(kept.objects().iter().find(|path| **path != orphan).unwrap()).unwrap();
    kept.execute("UPDATE attempts SET log_work_after = now()").await;
    assert_eq!(kept.remove().await, Pass::Idle);
    assert_eq!(kept.count("log_segments").await, 0);
    assert!(kept.objects().is_empty(), "{:?}", kept.objects());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archiver_that_is_late_leaves_no_object_of_a_removed_log() {
    let kept = Kept::start(true).await;
    let key = kept.make_ended(&[2, 2], 500).await;
    let logs = &kept.bench.logs;
    let chunks = logs.store.chunks_to_pack(key).await.unwrap();
    kept.age(key.job, "2 days").await;
    kept.expire(LOGS).await;
    let segment = logs.archive.write(key, 1..=4, chunks).await.unwrap();
    assert!(!logs.store.record_segment(key, &segment, 2).await.unwrap());
    assert_eq!(kept.count("log_segments").await, 0);
    logs.archive.step(&logs.store, key).await.unwrap();
    assert!(kept.objects().is_empty());
    assert_eq!(kept.remove().await, Pass::Idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_with_all_of_it_once_its_output_and_workers_are_gone() {
    let kept = Kept::start(true).await;
    let old = kept.make_ended(&[2, 2], 500).await;
    let young = kept.make_ended(&[2, 2], 500).await;
    kept.archive(old).await;
    kept.age(old.job, "2 days").await;
    let some =
        "INSERT INTO audit_events (at, kind, reason) VALUES (now() - interval '2 days', 'x', ''),
                (now(), 'x', '')";
    kept.execute(some).await;
    kept.expire(ALL).await;
    assert_eq!((kept.count("jobs").await, kept.count("log_segments").await), (2, 1));
    assert_eq!(kept.remove().await, Pass::Idle);
    kept.expire(ALL).await;
    assert_eq!(kept.count("jobs").await, 2, "its worker is there");
    kept.execute("UPDATE workers SET state = 'terminated'").await;
    kept.expire(ALL).await;
    assert_eq!((kept.count("jobs").await, kept.count("attempts").await), (1, 1));
    assert_eq!((kept.count("workers").await, kept.count("audit_events").await), (1, 1));
    let other = format!("job_events WHERE job_id <> '{}'", young.job);
    assert_eq!(kept.count(&other).await, 0);
    let told = kept.follow_from_start(old).await.unwrap_err();
    assert!(matches!(told, FollowError::NoSuchJob), "{told}");
    assert_eq!(kept.follow_from_start(young).await.unwrap(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_never_had_a_job_goes_by_itself() {
    let kept = Kept::start(false).await;
    let made =
        "INSERT INTO workers (id, provider, state, otp_hash, otp_expires_at, pooled, terminated_at)
        VALUES (gen_random_uuid(), 'p', 'terminated', '', now(), true, now() - interval '2 days'),
               (gen_random_uuid(), 'p', 'terminated', '', now(), true, now()),
               (gen_random_uuid(), 'p', 'ready', '', now(), true, NULL)";
    kept.execute(made).await;
    kept.expire(LOGS).await;
    assert_eq!(kept.count("workers").await, 3);
    kept.expire(ALL).await;
    assert_eq!(kept.count("workers").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_of_a_former_log_store_is_read_and_removed_there() {
    let mut kept = Kept::start(true).await;
    let key = kept.make_ended(&[2, 2], 500).await;
    kept.archive(key).await;
    kept.bench.logs.archive = std::sync::Arc::new(open(&kept.directory, false).await);
    assert_eq!(kept.walk(key, 1).await.unwrap(), [1, 2, 3, 4]);
    kept.age(key.job, "2 days").await;
    kept.expire(LOGS).await;
    assert_eq!(kept.remove().await, Pass::Idle);
    assert!(kept.objects().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_that_the_output_was_removed() {
    let mut server = Running::start(&["--log-retention", "1d"]).await;
    let id = server.submit(&JobSpec::command(["true"])).await;
    let worker = server.next_worker().await;
    let (_agent, mut link, attempt) = Agent::begin(&server, &worker).await;
    link.print(&attempt, 1..=3).await;
    link.end(&attempt, How::ExitCode(0), 3).await;
    assert!(link.await_result_ack().await);
    server.await_job(id, JobState::Succeeded).await;
    let store = &server.server.app.store;
    assert_eq!(store.expire_logs(Duration::ZERO, 10).await.unwrap(), 1);
    let mut client = LogStreamServiceClient::new(server.channel().await);
    let request = StreamLogsRequest { job_id: id.to_string(), follow: true, ..Default::default() };
    let mut stream = client.stream(request).await.unwrap().into_inner();
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    assert!(status.message().contains("the output of attempt 1 was removed at"), "{status:?}");
}

//! What an agent does with output while it has no link: it goes to the disk; when that is full the job
//! waits, and in the end what is lost is said.

use std::{path::Path, time::Duration};

use hodei_core::{id::AttemptKey, spec::JobSpec};
use hodei_proto::v1::{LogFrame, LogGapCause, agent_message::Message};
use hodei_worker::Config;

use crate::peer::{Agent, Peer, Session, await_file};

/// Bytes that each job here writes before it says that it has, and far more than a pipe and a window hold.
const WRITTEN: usize = 3 << 20;

/// An agent whose link is lost while its job has not begun to write, and the job's key. The job writes
/// numbered lines, and makes the file `done` when all of them are taken from it.
async fn cut_off(peer: &mut Peer, config: Config) -> (Agent, AttemptKey) {
    let home = config.environment.workspace.clone();
    let agent = Agent::start(config);
    let mut session = peer.welcomed().await;
    let script = format!(
        "until [ -e go ]; do sleep 0.02; done; seq 1000000 | head -c {WRITTEN}; touch done; echo end"
    );
    let key = session.assign(&JobSpec::command(["sh", "-c", &script])).await;
    let Message::Started(_) = session.next_of_work().await else { panic!("no start") };
    drop(session);
    // The agent is at its next try: nobody answers it until the test does.
    std::fs::write(home.join("go"), "").unwrap();
    (agent, key)
}

fn config(peer: &Peer, home: &Path, spool: usize) -> Config {
    let give_up = Duration::from_secs(30);
    Config { window_bytes: 256 << 10, spool_bytes: spool, give_up, ..peer.config(home) }
}

/// All frames of the attempt, each once and in order, once there is a link again.
async fn all_frames(session: &mut Session, key: AttemptKey) -> Vec<LogFrame> {
    session.welcome(0).await;
    let mut frames: Vec<LogFrame> = Vec::new();
    loop {
        match session.next_of_work().await {
            Message::Logs(batch) => {
                frames.extend(batch.frames);
                let numbers = frames.iter().map(|frame| frame.sequence);
                assert!(numbers.eq(1..=frames.len() as u64), "contiguous");
                session.ack(key, frames.len() as u64).await;
            }
            Message::Result(result) => {
                assert_eq!(result.last_sequence, frames.len() as u64);
                session.ack_result(key).await;
                return frames;
            }
            _ => {}
        }
    }
}

fn output(frames: &[LogFrame]) -> Vec<u8> {
    frames.iter().flat_map(|frame| frame.data.to_vec()).collect()
}

fn written() -> Vec<u8> {
    let lines = (1..).map(|number: u32| format!("{number}\n").into_bytes());
    let mut all: Vec<u8> = lines.flatten().take(WRITTEN).collect();
    all.extend(b"end\n");
    all
}

#[tokio::test]
async fn a_job_goes_on_through_an_outage_and_nothing_is_lost() {
    let (mut peer, home) = (Peer::start([]).await, tempfile::tempdir().unwrap());
    let config = config(&peer, home.path(), 8 << 20);
    let (agent, key) = cut_off(&mut peer, config).await;
    // With a stall of a minute it would not get there without the disk.
    await_file(&home.path().join("done")).await;
    let mut session = peer.awaited_session().await;
    let frames = all_frames(&mut session, key).await;
    assert!(output(&frames) == written() && frames.iter().all(|frame| frame.gap.is_none()));
    session.shut_down().await;
    agent.end().await.unwrap();
}

#[tokio::test]
async fn when_the_disk_is_full_the_job_waits_then_goes_on_and_its_log_has_one_gap() {
    for spool in [1 << 20, 0] {
        let (mut peer, home) = (Peer::start([]).await, tempfile::tempdir().unwrap());
        let stall = Duration::from_millis(500);
        let config = Config { stall, ..config(&peer, home.path(), spool) };
        let (agent, key) = cut_off(&mut peer, config).await;
        await_file(&home.path().join("done")).await;
        let mut session = peer.awaited_session().await;
        let frames = all_frames(&mut session, key).await;
        let at = frames.iter().position(|frame| frame.gap.is_some()).unwrap();
        let (gap, lost) = (frames[at].gap.clone().unwrap(), frames[at].dropped_bytes as usize);
        assert_eq!(gap.cause(), LogGapCause::SpoolFull);
        assert!(gap.frames > 0 && gap.since.is_some() && frames[at].data.is_empty());
        assert!(frames[at + 1..].iter().all(|frame| frame.gap.is_none()), "one gap");
        let (before, after) = (output(&frames[..at]), output(&frames[at + 1..]));
        let all = written();
        assert!(before.len() >= spool / 2 && all.starts_with(&before) && all.ends_with(&after));
        assert_eq!(before.len() + lost + after.len(), all.len());
        session.shut_down().await;
        agent.end().await.unwrap();
    }
}

#[tokio::test]
async fn a_disk_that_cannot_be_used_is_a_full_one() {
    let (mut peer, home) = (Peer::start([]).await, tempfile::tempdir().unwrap());
    let mut config = Config { stall: Duration::ZERO, ..config(&peer, home.path(), 8 << 20) };
    config.environment.scratch = home.path().join("absent");
    let (agent, key) = cut_off(&mut peer, config).await;
    await_file(&home.path().join("done")).await;
    let mut session = peer.awaited_session().await;
    let frames = all_frames(&mut session, key).await;
    assert_eq!(frames.iter().filter(|frame| frame.gap.is_some()).count(), 1);
    session.shut_down().await;
    agent.end().await.unwrap();
}

//! Output that an agent lost: each reader is told, wherever the record is kept.

use hodei_core::{
    attempt::{AttemptEnd, Outcome},
    id::{AttemptKey, Epoch},
    session::{Frame, Gap, GapCause},
};
use hodei_proto::{
    frame_from_wire, frame_to_wire,
    v1::{LogFrame, LogGap},
};
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{agent::line, archive::Kept, follow::frame};
use crate::logs::follow::Position;

const LOST: Gap = Gap {
    bytes: 12_900_000,
    frames: 999,
    since: Timestamp::UNIX_EPOCH,
    cause: GapCause::SpoolFull,
};

impl Kept {
    /// What a client is sent, as far as there is anything now.
    async fn sent(&self, key: AttemptKey) -> Vec<LogFrame> {
        let (out, mut pieces) = mpsc::channel(64);
        let position = Position { job: key.job, epoch: Epoch(0), sequence: 0 };
        self.bench.logs.stream(position, false, out).await.unwrap();
        let mut frames = Vec::new();
        while let Some(piece) = pieces.recv().await {
            frames.extend(piece.frames);
        }
        frames
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_a_frame_of_the_log_for_as_long_as_that_is_kept() {
    for objects in [false, true] {
        let kept = Kept::start(objects).await;
        let (key, worker) = kept.bench.make_attempt().await;
        let live = kept.bench.open(key, worker);
        let gap = Frame { gap: Some(LOST), ..frame(2, 0) };
        live.accept(vec![frame(1, 40), gap, frame(3, 40)]).await.unwrap();
        let wire = kept.sent(key).await;
        let numbers: Vec<_> = wire.iter().map(|frame| frame.sequence).collect();
        assert_eq!(numbers, [1, 2, 3], "live");
        assert_eq!((wire[1].dropped_bytes, wire[1].data.len()), (12_900_000, 0));
        assert_eq!(frame_from_wire(wire[1].clone()).unwrap().gap, Some(LOST));
        live.flush();
        live.durable().wait_for(|durable| *durable == 3).await.unwrap();
        live.accept(vec![frame(4, 40)]).await.unwrap();
        live.flush();
        live.durable().wait_for(|durable| *durable == 4).await.unwrap();
        let end = AttemptEnd::Finished(Outcome::Exited { code: 0, out_of_memory: false });
        kept.bench.logs.store.end_attempt(key, worker, &end).await.unwrap();
        live.close();
        let stored = kept.sent(key).await;
        assert_eq!((&stored[..3], stored.len()), (&wire[..], 4), "stored");
        kept.archive(key).await;
        assert_eq!(kept.count("log_segments").await, 1);
        assert_eq!(kept.sent(key).await, stored, "archived");
    }
}

#[tokio::test]
async fn what_an_older_agent_dropped_is_a_gap_whose_cause_it_does_not_say() {
    let older = LogFrame { dropped_bytes: 7, data: "".into(), ..line(1) };
    let wire = frame_to_wire(frame_from_wire(older).unwrap());
    let since = wire.time;
    assert_eq!(wire.dropped_bytes, 7);
    assert_eq!(wire.gap, Some(Box::new(LogGap { frames: 0, since, cause: 0 })));
}

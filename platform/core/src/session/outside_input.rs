//! Whatever a server says to an agent, and whatever an agent sends to a server.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use proptest::{collection::vec, prelude::*};

use super::{outbox::tests::ListSpool, *};
use crate::{
    attempt::Outcome,
    id::{AttemptKey, Epoch, JobId},
};

const BOUNDS: AgentBounds = AgentBounds {
    window_bytes: 4 * (FRAME_COST + 4),
    frame_bytes: 4,
    stall: Duration::from_secs(30),
    give_up: Duration::from_secs(60),
    idle: Some(Duration::from_secs(90)),
    drain_grace: Duration::from_secs(10),
};

/// What happens to an agent.
#[derive(Debug, Clone)]
enum Step {
    Said(ToAgent),
    Wrote,
    Ended,
    Lost,
    Left,
    /// It may send so many messages.
    Sends(usize),
}

/// One of a few attempts, so that some of them meet.
fn attempt() -> impl Strategy<Value = AttemptKey> {
    (0_u128..2, 1_u32..3).prop_map(|(job, epoch)| AttemptKey {
        job: JobId::from(uuid::Uuid::from_u128(job)),
        epoch: Epoch(epoch),
    })
}

fn sequence() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0_u64..12, 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

fn said() -> impl Strategy<Value = ToAgent> {
    prop_oneof![
        3 => (sequence(), prop::bool::weighted(0.1))
            .prop_map(|(acked_sequence, revoked)| ToAgent::Welcome { acked_sequence, revoked }),
        3 => attempt().prop_map(ToAgent::Assignment),
        3 => (attempt(), sequence())
            .prop_map(|(attempt, sequence)| ToAgent::LogAck { attempt, sequence }),
        1 => (attempt(), any::<bool>())
            .prop_map(|(attempt, accepted)| ToAgent::ResultAck { attempt, accepted }),
        1 => (attempt(), any::<Duration>())
            .prop_map(|(attempt, grace)| ToAgent::Cancel { attempt, grace }),
        1 => Just(ToAgent::Shutdown),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => said().prop_map(Step::Said),
        6 => Just(Step::Wrote),
        1 => Just(Step::Ended),
        2 => Just(Step::Lost),
        1 => Just(Step::Left),
        4 => (1_usize..6).prop_map(Step::Sends),
    ]
}

/// What is held changes by the orders that say so, and by nothing else.
fn assert_said(
    agent: &mut AgentSession<ListSpool>,
    message: &ToAgent,
    now: Duration,
) -> Result<(), TestCaseError> {
    let before = agent.held();
    let order = agent.on_message(message, now);
    let expect = match order {
        Ok(Some(Order::Begin(begun))) => {
            prop_assert_eq!(before, None);
            Some(begun)
        }
        Ok(Some(Order::Drop(gone) | Order::Reported { attempt: gone, .. })) => {
            prop_assert_eq!(before, Some(gone));
            None
        }
        Ok(Some(Order::Stop { attempt, .. })) => {
            prop_assert_eq!(before, Some(attempt));
            before
        }
        Ok(Some(Order::Leave) | None) | Err(_) => before,
    };
    prop_assert_eq!(agent.held(), expect, "after {:?}", message);
    Ok(())
}

fn assert_sent(agent: &mut AgentSession<ListSpool>) -> Result<(), TestCaseError> {
    let acknowledged = agent.acknowledged();
    if let Some(FromAgent::Logs { attempt, frames }) = agent.next_message() {
        prop_assert_eq!(agent.held(), Some(attempt));
        let first = frames.first().map_or(0, |frame| frame.sequence);
        prop_assert!(first > acknowledged, "what is acknowledged is not sent again");
        prop_assert!(frames.iter().map(|frame| frame.sequence).eq((first..).take(frames.len())));
    }
    Ok(())
}

fn frame(sequence: u64) -> Frame {
    let (time, data) = (Timestamp::UNIX_EPOCH, Bytes::new());
    Frame { sequence, stream: OutputStream::Stdout, time, data, gap: None }
}

proptest! {
    #[test]
    fn whatever_a_server_says_an_agent_goes_on(
        steps in vec((step(), 0_u64..20), 0..60), spool in 0_usize..6,
    ) {
        let mut now = Duration::ZERO;
        let spool = ListSpool::new(spool * (FRAME_COST + 4));
        let mut agent = AgentSession::new(BOUNDS, spool, now);
        let mut taken = 0;
        for (step, passed) in steps {
            now += Duration::from_secs(passed);
            match step {
                Step::Said(message) => {
                    let held = agent.held();
                    assert_said(&mut agent, &message, now)?;
                    taken = if agent.held() == held { taken } else { 0 };
                }
                Step::Wrote => {
                    let data = Bytes::from_static(b"line");
                    let written =
                        agent.output(OutputStream::Stdout, Timestamp::UNIX_EPOCH, data, now);
                    // A gap's record may come before it.
                    taken += if written.is_ok() { 2 } else { 0 };
                }
                Step::Ended => agent.ended(Some(Outcome::Cancelled), Timestamp::UNIX_EPOCH),
                Step::Lost => _ = agent.link_lost(now),
                Step::Left => agent.leave(now),
                Step::Sends(count) => (0..count).try_for_each(|_| assert_sent(&mut agent))?,
            }
            prop_assert!(agent.acknowledged() <= taken, "what was never made is not acknowledged");
            let _ = (agent.deadline(now), agent.departure(now), agent.has_room(now));
        }
    }

    #[test]
    fn whatever_an_agent_sends_is_taken_once_and_in_order(
        durable in prop_oneof![0_u64..9, Just(i64::MAX as u64)],
        batches in vec((vec((0_u64..9, any::<bool>()), 0..9), sequence()), 0..9),
    ) {
        let mut inbox = Inbox::resume(durable);
        for (batch, committed) in batches {
            let before = inbox.received();
            let numbers = batch.iter().map(|(ahead, near)| {
                if *near { before.saturating_sub(4) + ahead } else { ahead * (u64::MAX / 8) }
            });
            let batch: Vec<_> = numbers.map(frame).collect();
            let offered = batch.len();
            match inbox.accept(batch) {
                Ok(accepted) => {
                    let new = accepted.frames.iter().map(|frame| frame.sequence);
                    prop_assert!(new.eq(before + 1..=inbox.received()));
                    prop_assert_eq!(accepted.frames.len() + accepted.duplicates, offered);
                }
                Err(gap) => {
                    prop_assert!(gap.got > gap.expected);
                    prop_assert_eq!(inbox.received(), before);
                }
            }
            inbox.committed(committed);
            prop_assert!(inbox.durable() <= inbox.received() && inbox.durable() >= durable);
        }
    }
}

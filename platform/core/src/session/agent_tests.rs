use super::*;
use crate::{
    id::{Epoch, JobId},
    session::{FRAME_COST, outbox::tests::ListSpool},
};

type AgentSession = super::AgentSession<ListSpool>;

const BOUNDS: AgentBounds = AgentBounds {
    window_bytes: 8 * (FRAME_COST + 4),
    frame_bytes: 4,
    stall: Duration::from_secs(30),
    give_up: Duration::from_secs(60),
    idle: Some(Duration::from_secs(90)),
    drain_grace: Duration::from_secs(10),
};
const WELCOME: ToAgent = ToAgent::Welcome { acked_sequence: 0, revoked: false };

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A session whose spool has room for that many frames.
fn session(spool: usize) -> AgentSession {
    AgentSession::new(BOUNDS, ListSpool::new(spool * (FRAME_COST + 4)), seconds(0))
}

fn key() -> AttemptKey {
    AttemptKey { job: JobId::new(), epoch: Epoch::FIRST }
}

/// A session whose link is up, with a command that started and wrote `frames` frames.
fn running(key: AttemptKey, frames: u64) -> AgentSession {
    begun(session(0), key, frames)
}

fn begun(mut session: AgentSession, key: AttemptKey, frames: u64) -> AgentSession {
    assert_eq!(session.on_message(&WELCOME, seconds(0)), Ok(None));
    let begun = session.on_message(&ToAgent::Assignment(key), seconds(0));
    assert_eq!(begun, Ok(Some(Order::Begin(key))));
    session.started(Timestamp::UNIX_EPOCH);
    write(&mut session, frames);
    session
}

fn write(session: &mut AgentSession, frames: u64) {
    for _ in 0..frames {
        write_at(session, seconds(0)).unwrap();
    }
}

fn write_at(session: &mut AgentSession, now: Duration) -> Result<(), OutboxFull> {
    let data = Bytes::from_static(b"line");
    session.output(OutputStream::Stdout, Timestamp::UNIX_EPOCH, data, now)
}

fn exited(session: &mut AgentSession) {
    let outcome = Outcome::Exited { code: 0, out_of_memory: false };
    session.ended(Some(outcome), Timestamp::UNIX_EPOCH);
}

/// What is said until there is nothing more to say, each message as one word.
fn said(session: &mut AgentSession) -> Vec<String> {
    std::iter::from_fn(|| session.next_message())
        .map(|message| match message {
            FromAgent::Heartbeat => "heartbeat".to_owned(),
            FromAgent::Started { .. } => "started".to_owned(),
            FromAgent::Logs { frames, .. } => {
                format!("{}..{}", frames[0].sequence, frames[frames.len() - 1].sequence)
            }
            FromAgent::Result(report) => format!("result@{}", report.last_sequence),
            FromAgent::Draining => "draining".to_owned(),
        })
        .collect()
}

#[test]
fn all_that_is_not_acknowledged_is_said_again_on_a_new_link_and_in_order() {
    let key = key();
    let mut session = running(key, 3);
    exited(&mut session);
    session.beat();
    assert_eq!(said(&mut session), ["heartbeat", "started", "1..3", "result@3"]);
    assert!(!session.has_message());
    assert!(session.link_lost(seconds(1)));
    session.beat();
    let welcome = ToAgent::Welcome { acked_sequence: 2, revoked: false };
    assert_eq!(session.on_message(&welcome, seconds(2)), Ok(None));
    assert_eq!(said(&mut session), ["started", "3..3", "result@3"]);
    let ack = ToAgent::ResultAck { attempt: key, accepted: true };
    let reported = Order::Reported { attempt: key, accepted: true };
    assert_eq!(session.on_message(&ack, seconds(3)), Ok(Some(reported)));
    assert_eq!(session.on_message(&ack, seconds(3)), Ok(None), "it is not held any more");
    assert!(session.is_done());
}

#[test]
fn an_assignment_is_begun_once_and_only_with_free_hands() {
    let (first, second) = (key(), key());
    let mut session = running(first, 0);
    assert_eq!(session.on_message(&ToAgent::Assignment(first), seconds(1)), Ok(None));
    let busy = Oddity::Busy { offered: second, held: first };
    assert_eq!(session.on_message(&ToAgent::Assignment(second), seconds(1)), Err(busy));
    session.leave(seconds(1));
    let ack = ToAgent::ResultAck { attempt: first, accepted: false };
    assert!(session.on_message(&ack, seconds(1)).is_ok());
    let leaving = Err(Oddity::Leaving(second));
    assert_eq!(session.on_message(&ToAgent::Assignment(second), seconds(1)), leaving);
}

#[test]
fn what_names_another_attempt_changes_nothing() {
    let (held, other) = (key(), key());
    let mut session = running(held, 2);
    for message in [
        ToAgent::LogAck { attempt: other, sequence: 2 },
        ToAgent::ResultAck { attempt: other, accepted: true },
        ToAgent::Cancel { attempt: other, grace: seconds(1) },
    ] {
        assert_eq!(session.on_message(&message, seconds(1)), Ok(None));
    }
    assert_eq!((session.held(), session.acknowledged()), (Some(held), 0));
    let cancel = ToAgent::Cancel { attempt: held, grace: seconds(1) };
    let stop = Order::Stop { attempt: held, grace: seconds(1) };
    assert_eq!(session.on_message(&cancel, seconds(1)), Ok(Some(stop)));
}

#[test]
fn words_of_a_server_that_errs_are_told_and_survived() {
    let key = key();
    let mut session = running(key, 1);
    assert_eq!(session.on_message(&WELCOME, seconds(1)), Err(Oddity::SecondWelcome));
    let ahead = ToAgent::LogAck { attempt: key, sequence: 9 };
    let never = Err(Oddity::NeverMade { attempt: key, sequence: 9 });
    assert_eq!(session.on_message(&ahead, seconds(1)), never);
    assert_eq!(session.acknowledged(), 1);
    write(&mut session, 1);
    assert_eq!(said(&mut session), ["started", "2..2"]);
}

#[test]
fn a_revoked_attempt_is_dropped_with_all_that_was_to_be_said_of_it() {
    let key = key();
    let mut session = running(key, 3);
    session.link_lost(seconds(1));
    let revoked = ToAgent::Welcome { acked_sequence: 0, revoked: true };
    assert_eq!(session.on_message(&revoked, seconds(2)), Ok(Some(Order::Drop(key))));
    assert_eq!((session.held(), session.has_message()), (None, false));
}

#[test]
fn with_a_link_a_full_window_makes_the_command_wait_for_as_long_as_it_takes() {
    let key = key();
    let mut session = begun(session(9), key, 8);
    assert!(!session.has_room(seconds(10_000)));
    assert_eq!((session.spooled(), session.deadline(seconds(10_000))), (0, None));
    let ack = ToAgent::LogAck { attempt: key, sequence: 1 };
    assert_eq!(session.on_message(&ack, seconds(1)), Ok(None));
    assert!(session.has_room(seconds(1)));
}

#[test]
fn without_a_link_output_goes_to_the_spool_then_waits_then_is_dropped_and_said() {
    let key = key();
    let mut session = begun(session(2), key, 8);
    session.link_lost(seconds(1));
    (0..2).for_each(|_| write_at(&mut session, seconds(5)).unwrap());
    assert_eq!(session.spooled(), 2);
    assert!(!session.has_room(seconds(34)) && write_at(&mut session, seconds(34)).is_err());
    assert_eq!(session.deadline(seconds(34)), Some(seconds(35)));
    assert!(session.has_room(seconds(35)));
    (0..3).for_each(|_| write_at(&mut session, seconds(35)).unwrap());
    assert_eq!(session.dropped().map(|loss| loss.frames), Some(3));
    // Nothing is to be waited for any more but the link.
    assert_eq!(session.deadline(seconds(35)), Some(seconds(61)));
    exited(&mut session);
    assert_eq!(session.on_message(&WELCOME, seconds(36)), Ok(None));
    assert_eq!(said(&mut session), ["started", "1..2", "3..11", "result@11"]);
}

#[test]
fn a_link_that_comes_and_goes_ends_no_stall_and_makes_no_second_gap() {
    let key = key();
    let mut session = begun(session(0), key, 8);
    session.link_lost(seconds(1));
    for down in [31, 33] {
        write_at(&mut session, seconds(down)).unwrap();
        assert_eq!(session.on_message(&WELCOME, seconds(down)), Ok(None));
        assert!(!session.has_room(seconds(down)), "with a link nothing is dropped");
        session.link_lost(seconds(down + 1));
        assert!(session.has_room(seconds(down + 1)));
    }
    assert_eq!(session.dropped().map(|loss| loss.frames), Some(2));
    let welcome = ToAgent::Welcome { acked_sequence: 1, revoked: false };
    assert_eq!(session.on_message(&welcome, seconds(40)), Ok(None));
    assert_eq!(session.dropped(), None, "there is room: what is lost has its record");
    assert_eq!(said(&mut session), ["started", "2..9"]);
}

#[test]
fn each_attempt_has_a_spool_of_its_own() {
    let (first, second) = (key(), key());
    let mut session = begun(session(2), first, 8);
    session.link_lost(seconds(1));
    (0..2).for_each(|_| write_at(&mut session, seconds(1)).unwrap());
    let revoked = ToAgent::Welcome { acked_sequence: 0, revoked: true };
    assert_eq!(session.on_message(&revoked, seconds(2)), Ok(Some(Order::Drop(first))));
    session.link_lost(seconds(3));
    let mut session = begun(session, second, 8);
    session.link_lost(seconds(4));
    (0..2).for_each(|_| write_at(&mut session, seconds(4)).unwrap());
    assert_eq!(session.spooled(), 2);
}

#[test]
fn the_table_of_departures() {
    type Change = fn(&mut AgentSession);
    let key = key();
    let abandon: Change = |s| (s.leave(seconds(0)), s.ended(None, Timestamp::UNIX_EPOCH)).0;
    let lose: Change = |s| assert!(s.link_lost(seconds(0)));
    let table: [(Change, u64, Option<Departure>); 7] = [
        (|_| (), 10_000, None),
        (lose, 59, None),
        (lose, 60, Some(Departure::LinkLost { down: seconds(60) })),
        (abandon, 0, Some(Departure::Unreported(key))),
        (|s| s.leave(seconds(0)), 14, None),
        (|s| s.leave(seconds(0)), 15, Some(Departure::Unreported(key))),
        // Output that the server does not have yet is waited for.
        (|s| (write(s, 1), s.leave(seconds(0)), s.ended(None, Timestamp::UNIX_EPOCH)).0, 14, None),
    ];
    for (row, (change, at, expect)) in table.into_iter().enumerate() {
        let mut session = running(key, 0);
        change(&mut session);
        assert_eq!(session.departure(seconds(at)), expect, "row {row}");
    }
}

#[test]
fn an_agent_without_work_leaves_when_told_to_or_tired_of_waiting() {
    let mut session = self::session(0);
    let lost = Departure::LinkLost { down: seconds(60) };
    assert_eq!(session.departure(seconds(60)), Some(lost));
    assert_eq!(session.on_message(&WELCOME, seconds(1)), Ok(None));
    assert_eq!(session.departure(seconds(89)), None);
    assert_eq!(session.departure(seconds(90)), Some(Departure::Idle));
    session.leave(seconds(2));
    assert_eq!(session.departure(seconds(2)), None, "it says so first");
    assert_eq!(said(&mut session), ["draining"]);
    assert_eq!(session.departure(seconds(2)), Some(Departure::Drained));
}

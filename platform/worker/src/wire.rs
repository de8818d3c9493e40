//! What the session's machine says and hears, in the form it has on the wire.

use std::time::Duration;

use hodei_core::{
    id::AttemptKey,
    session::{FromAgent, Report, ToAgent},
};
use hodei_proto::{
    InvalidMessage, frame_to_wire, timestamp,
    v1::{
        AttemptRef, AttemptResult, AttemptStarted, Draining, Heartbeat, LogBatch, Welcome,
        agent_message, server_message,
    },
};
use jiff::Timestamp;

use crate::register::LONGEST;

/// What the agent says.
pub(crate) fn to_wire(message: FromAgent) -> agent_message::Message {
    use agent_message::Message;
    match message {
        FromAgent::Heartbeat => {
            Message::Heartbeat(Heartbeat { time: Some(timestamp(Timestamp::now())) })
        }
        FromAgent::Started { attempt, time } => Message::Started(AttemptStarted {
            attempt: Some(attempt.into()),
            time: Some(timestamp(time)),
        }),
        FromAgent::Logs { attempt, frames } => {
            let frames = frames.into_iter().map(frame_to_wire).collect();
            Message::Logs(LogBatch { attempt: Some(attempt.into()), frames })
        }
        FromAgent::Result(report) => Message::Result(result_to_wire(&report)),
        FromAgent::Draining => Message::Draining(Draining { reason: "SIGTERM".to_owned() }),
    }
}

fn result_to_wire(report: &Report) -> AttemptResult {
    AttemptResult {
        attempt: Some(report.attempt.into()),
        outcome: Some((&report.outcome).into()),
        last_sequence: report.last_sequence,
        started_at: report.started_at.map(timestamp),
        finished_at: Some(timestamp(report.finished_at)),
    }
}

/// What the server says on an open stream.
///
/// # Errors
/// When it names no attempt that can be read.
pub(crate) fn from_wire(message: &server_message::Message) -> Result<ToAgent, InvalidMessage> {
    use server_message::Message;
    Ok(match message {
        Message::Welcome(welcome) => welcome_from_wire(welcome),
        Message::Assignment(assignment) => ToAgent::Assignment(key(assignment.attempt.as_ref())?),
        Message::LogAck(ack) => {
            ToAgent::LogAck { attempt: key(ack.attempt.as_ref())?, sequence: ack.sequence }
        }
        Message::ResultAck(ack) => {
            ToAgent::ResultAck { attempt: key(ack.attempt.as_ref())?, accepted: ack.accepted }
        }
        Message::Cancel(cancel) => {
            let grace = cancel.grace.and_then(|grace| Duration::try_from(grace).ok());
            let attempt = key(cancel.attempt.as_ref())?;
            ToAgent::Cancel { attempt, grace: grace.unwrap_or_default().min(LONGEST) }
        }
        Message::Shutdown(_) => ToAgent::Shutdown,
    })
}

/// The answer to Hello.
pub(crate) fn welcome_from_wire(welcome: &Welcome) -> ToAgent {
    ToAgent::Welcome { acked_sequence: welcome.acked_sequence, revoked: welcome.attempt_revoked }
}

fn key(wire: Option<&AttemptRef>) -> Result<AttemptKey, InvalidMessage> {
    AttemptKey::try_from(wire.ok_or(InvalidMessage::Missing("attempt"))?)
}

#[cfg(test)]
mod tests {
    use hodei_core::{attempt::Outcome, id::Epoch};
    use hodei_proto::v1::{
        Assignment, CancelAttempt, LogAck, ResultAck, Shutdown, attempt_outcome::How,
    };

    use super::*;

    fn attempt() -> AttemptKey {
        AttemptKey { job: hodei_core::id::JobId::new(), epoch: Epoch(2) }
    }

    #[test]
    fn what_the_server_says_is_read() {
        use server_message::Message;
        let own = attempt();
        let named = Some(own.into());
        let grace = Duration::from_secs(3).try_into().unwrap();
        for (wire, expect) in [
            (
                Message::Assignment(Assignment { attempt: named.clone(), spec: None }),
                ToAgent::Assignment(own),
            ),
            (
                Message::LogAck(LogAck { attempt: named.clone(), sequence: 7 }),
                ToAgent::LogAck { attempt: own, sequence: 7 },
            ),
            (
                Message::ResultAck(ResultAck { attempt: named.clone(), accepted: true }),
                ToAgent::ResultAck { attempt: own, accepted: true },
            ),
            (
                Message::Cancel(CancelAttempt { attempt: named.clone(), grace: Some(grace) }),
                ToAgent::Cancel { attempt: own, grace: Duration::from_secs(3) },
            ),
            (
                Message::Welcome(Welcome { acked_sequence: 4, attempt_revoked: true }),
                ToAgent::Welcome { acked_sequence: 4, revoked: true },
            ),
            (Message::Shutdown(Shutdown { reason: "over".into() }), ToAgent::Shutdown),
        ] {
            assert_eq!(from_wire(&wire).unwrap(), expect);
        }
        assert!(from_wire(&Message::LogAck(LogAck::default())).is_err(), "it names no attempt");
    }

    #[test]
    fn a_result_keeps_all_that_is_known_of_the_end() {
        let report = Report {
            attempt: attempt(),
            outcome: Outcome::Signalled { signal: 9, out_of_memory: true },
            last_sequence: 5,
            started_at: Some(Timestamp::UNIX_EPOCH),
            finished_at: Timestamp::UNIX_EPOCH,
        };
        let agent_message::Message::Result(wire) = to_wire(FromAgent::Result(report.clone()))
        else {
            panic!("no result")
        };
        let outcome = wire.outcome.unwrap();
        assert_eq!((outcome.how, outcome.out_of_memory), (Some(How::Signal(9)), true));
        assert_eq!((wire.attempt, wire.last_sequence), (Some(report.attempt.into()), 5));
        assert!(wire.started_at.is_some() && wire.finished_at.is_some());
    }
}

#[cfg(test)]
mod outside_input {
    use hodei_proto::v1::{Assignment, CancelAttempt, LogAck, ResultAck, ServerMessage, Shutdown};
    use proptest::{collection::vec, option, prelude::*};
    use prost::Message as _;
    use server_message::Message;

    use super::*;

    fn attempt() -> impl Strategy<Value = Option<AttemptRef>> {
        let id = prop_oneof![Just(uuid::Uuid::nil().to_string()), any::<String>()];
        option::weighted(0.9, (id, any::<u32>()))
            .prop_map(|named| named.map(|(job_id, epoch)| AttemptRef { job_id, epoch }))
    }

    fn message() -> impl Strategy<Value = Message> {
        let period = option::of((any::<i64>(), any::<i32>()));
        let period =
            period.prop_map(|p| p.map(|(seconds, nanos)| prost_types::Duration { seconds, nanos }));
        prop_oneof![
            attempt().prop_map(|attempt| Message::Assignment(Assignment { attempt, spec: None })),
            (attempt(), any::<u64>())
                .prop_map(|(attempt, sequence)| Message::LogAck(LogAck { attempt, sequence })),
            (attempt(), any::<bool>()).prop_map(|(attempt, accepted)| Message::ResultAck(
                ResultAck { attempt, accepted }
            )),
            (attempt(), period)
                .prop_map(|(attempt, grace)| Message::Cancel(CancelAttempt { attempt, grace })),
            any::<String>().prop_map(|reason| Message::Shutdown(Shutdown { reason })),
        ]
    }

    fn assert_read(message: &Message) -> Result<(), TestCaseError> {
        match from_wire(message) {
            Ok(ToAgent::Cancel { grace, .. }) => prop_assert!(grace <= LONGEST, "{grace:?}"),
            Ok(_) => {}
            Err(error) => {
                let text = error.to_string();
                prop_assert!(text.starts_with("attempt") || text.starts_with("job id"), "{text}");
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn any_word_of_a_server_is_read_or_its_field_is_named(message in message()) {
            assert_read(&message)?;
        }

        #[test]
        fn a_word_that_was_damaged_is_read_or_refused(
            message in message(), damages in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        ) {
            let mut bytes = ServerMessage { message: Some(message) }.encode_to_vec();
            for (place, byte) in damages.iter().filter(|_| !bytes.is_empty()).collect::<Vec<_>>() {
                let at = place.index(bytes.len());
                bytes[at] = *byte;
            }
            if let Ok(ServerMessage { message: Some(message) }) = ServerMessage::decode(&*bytes) {
                assert_read(&message)?;
            }
        }
    }
}

//! Messages of the wire with contents that nobody thought of. PROPTEST_CASES says how many of them each
//! property gets; 256 if nothing is said.

#![expect(clippy::unwrap_used, reason = "clippy does not take what a test calls for a test")]

use hodei_core::{
    attempt::Outcome,
    id::AttemptKey,
    session::{Frame, MAX_FRAME_BYTES},
    spec::JobSpec,
};
use hodei_proto::{frame_from_wire, frame_to_wire, v1};
use proptest::{collection::vec, option, prelude::*};
use prost::Message;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![3 => Just(String::new()), 1 => any::<String>(), 2 => "[a-z0-9-]{1,12}"]
}

fn quantity() -> impl Strategy<Value = String> {
    prop_oneof![3 => Just(String::new()), 3 => "[1-9]{1,3}(m|Mi|Gi)?", 1 => any::<String>()]
}

fn period() -> impl Strategy<Value = Option<prost_types::Duration>> {
    let any = (any::<i64>(), any::<i32>()).prop_map(|(seconds, nanos)| (seconds, nanos));
    let good = (1_i64..1000, 0_i32..1_000_000_000);
    option::of(prop_oneof![3 => good, 1 => any])
        .prop_map(|period| period.map(|(seconds, nanos)| prost_types::Duration { seconds, nanos }))
}

/// A command's words, or a script: what is sent prints neither.
fn run() -> impl Strategy<Value = Option<Result<Vec<String>, String>>> {
    let run = prop_oneof![vec(text(), 0..4).prop_map(Ok), any::<String>().prop_map(Err)];
    option::weighted(0.9, run)
}

fn spec() -> impl Strategy<Value = v1::JobSpec> {
    let resources = option::of([quantity(), quantity(), quantity(), quantity()]);
    let retry = option::of((option::of(0_u32..12), option::of(any::<u32>())));
    let names = prop_oneof![Just(Vec::new()), vec((text(), any::<String>()), 0..3)];
    let fields = (
        (text(), run(), names.clone(), text()),
        (resources, option::of([period(), period(), period()])),
        (retry, names, text(), -1100_i32..1100),
    );
    fields.prop_map(|((name, run, env, directory), (resources, timeouts), rest)| {
        let (retry, labels, image, priority) = rest;
        v1::JobSpec {
            name,
            run: run.map(|run| match run {
                Ok(argv) => v1::job_spec::Run::Command(v1::Command { argv }),
                Err(text) => v1::job_spec::Run::Script(text),
            }),
            env: env.into_iter().collect(),
            working_directory: directory,
            resources: resources.map(|[cpu_request, cpu_limit, memory_request, memory_limit]| {
                v1::Resources { cpu_request, cpu_limit, memory_request, memory_limit }
            }),
            timeouts: timeouts.map(|[queue, startup, run]| v1::Timeouts { queue, startup, run }),
            retry: retry
                .map(|(infrastructure, command)| v1::RetryPolicy { infrastructure, command }),
            labels: labels.into_iter().collect(),
            image,
            priority,
        }
    })
}

/// What holds of any specification from the wire.
fn assert_spec(wire: v1::JobSpec) -> Result<(), TestCaseError> {
    match JobSpec::try_from(wire) {
        Ok(spec) => {
            prop_assert_eq!(JobSpec::try_from(v1::JobSpec::from(&spec)).unwrap(), spec);
        }
        Err(invalid) => {
            prop_assert!(!invalid.0.is_empty());
            prop_assert!(invalid.0.iter().all(|violation| violation.field.starts_with("spec")));
        }
    }
    Ok(())
}

fn assert_frame(wire: v1::LogFrame) -> Result<(), TestCaseError> {
    match frame_from_wire(wire) {
        Ok(frame) => {
            prop_assert!(frame.sequence > 0 && frame.data.len() <= MAX_FRAME_BYTES);
            let again: Frame = frame_from_wire(frame_to_wire(frame.clone())).unwrap();
            prop_assert_eq!(again, frame);
        }
        Err(error) => prop_assert!(error.to_string().starts_with("frame."), "{error}"),
    }
    Ok(())
}

fn assert_outcome(wire: v1::AttemptOutcome) -> Result<(), TestCaseError> {
    match Outcome::try_from(wire) {
        Ok(outcome) => {
            // PostgreSQL keeps no NUL: what is taken can be stored.
            prop_assert!(!serde_text(&outcome).contains('\0'));
            let again = Outcome::try_from(v1::AttemptOutcome::from(&outcome)).unwrap();
            prop_assert_eq!(again, outcome);
        }
        Err(error) => prop_assert!(error.to_string().starts_with("outcome."), "{error}"),
    }
    Ok(())
}

fn serde_text(outcome: &Outcome) -> String {
    match outcome {
        Outcome::NotRun { reason } => reason.clone(),
        _ => String::new(),
    }
}

/// What holds of any bytes that are taken for a message.
fn assert_bytes(bytes: &[u8]) -> Result<(), TestCaseError> {
    use v1::agent_message::Message;
    if let Ok(message) = v1::AgentMessage::decode(bytes) {
        match message.message {
            Some(Message::Logs(batch)) => {
                batch.frames.into_iter().try_for_each(assert_frame)?;
            }
            Some(Message::Result(result)) => result.outcome.map_or(Ok(()), assert_outcome)?,
            _ => {}
        }
    }
    if let Ok(wire) = v1::JobSpec::decode(bytes) {
        assert_spec(wire)?;
    }
    if let Ok(wire) = v1::AttemptOutcome::decode(bytes) {
        assert_outcome(wire)?;
    }
    let _ = v1::ServerMessage::decode(bytes);
    Ok(())
}

/// A message of an agent, as a correct one would send it.
fn agent_message() -> impl Strategy<Value = v1::AgentMessage> {
    use v1::agent_message::Message;
    let attempt = Some(v1::AttemptRef { job_id: uuid::Uuid::nil().to_string(), epoch: 1 });
    let time = Some(prost_types::Timestamp { seconds: 1, nanos: 2 });
    let frames = vec((1_u64..5, vec(any::<u8>(), 0..9), any::<bool>()), 1..4);
    let (of_logs, of_result, of_hello) = (attempt.clone(), attempt.clone(), attempt);
    let logs = frames.prop_map(move |frames| {
        let frame = |(sequence, data, lost): (u64, Vec<u8>, bool)| v1::LogFrame {
            sequence,
            stream: v1::OutputStream::Stdout.into(),
            time,
            data: data.into(),
            dropped_bytes: u64::from(lost),
            gap: lost.then(|| Box::new(v1::LogGap { frames: 3, since: time, cause: 1 })),
        };
        let frames = frames.into_iter().map(frame).collect();
        Message::Logs(v1::LogBatch { attempt: of_logs.clone(), frames })
    });
    let result = (0_i32..256).prop_map(move |code| {
        let how = Some(v1::attempt_outcome::How::ExitCode(code));
        Message::Result(v1::AttemptResult {
            attempt: of_result.clone(),
            outcome: Some(v1::AttemptOutcome { how, out_of_memory: true }),
            last_sequence: 7,
            started_at: time,
            finished_at: time,
        })
    });
    let hello = "[0-9a-f]{64}".prop_map(move |session_token| {
        Message::Hello(v1::Hello {
            worker_id: uuid::Uuid::nil().to_string(),
            session_token,
            pod_uid: "pod".to_owned(),
            protocol_version: 1,
            attempt: of_hello.clone(),
        })
    });
    let message = prop_oneof![3 => logs, 2 => result, 1 => hello];
    message.prop_map(|message| v1::AgentMessage { message: Some(message) })
}

proptest! {
    #[test]
    fn a_specification_is_refused_by_field_or_survives_the_wire(wire in spec()) {
        assert_spec(wire)?;
    }

    #[test]
    fn what_is_accepted_can_be_stored(wire in spec()) {
        if let Ok(spec) = JobSpec::try_from(wire) {
            let labels = spec.labels.iter().any(|(key, value)| key.contains('\0') || value.contains('\0'));
            prop_assert!(!labels, "PostgreSQL keeps no NUL: {:?}", spec.labels);
        }
    }

    #[test]
    fn a_frame_is_refused_by_field_or_survives_the_wire(
        sequence in prop_oneof![0_u64..3, any::<u64>()], stream in -1_i32..4,
        time in option::weighted(0.9, prop_oneof![
            (any::<i64>(), any::<i32>()), (-9_000_000_000_i64..9_000_000_000, -2..1_000_000_002),
        ]),
        data in prop_oneof![9 => vec(any::<u8>(), 0..64), 1 => Just(vec![0; MAX_FRAME_BYTES + 1])],
        dropped_bytes in prop_oneof![Just(0), any::<u64>()],
        gap in option::of((any::<u64>(), option::of((any::<i64>(), any::<i32>())), -1_i32..5)),
    ) {
        let gap = gap.map(|(frames, since, cause)| {
            let since = since.map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos });
            Box::new(v1::LogGap { frames, since, cause })
        });
        let time = time.map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos });
        assert_frame(v1::LogFrame { sequence, stream, time, data: data.into(), dropped_bytes, gap })?;
    }

    #[test]
    fn an_outcome_is_refused_by_field_or_survives_the_wire(
        how in option::weighted(0.9, prop_oneof![
            (-2_i32..300).prop_map(v1::attempt_outcome::How::ExitCode),
            any::<i32>().prop_map(v1::attempt_outcome::How::Signal),
            any::<String>().prop_map(v1::attempt_outcome::How::Failure),
            "[a\\x00]{0,9}".prop_map(v1::attempt_outcome::How::Failure),
        ]),
        out_of_memory in any::<bool>(),
    ) {
        assert_outcome(v1::AttemptOutcome { how, out_of_memory })?;
    }

    #[test]
    fn any_bytes_are_taken_or_refused(bytes in vec(any::<u8>(), 0..256)) {
        assert_bytes(&bytes)?;
    }

    #[test]
    fn a_message_that_was_damaged_is_taken_or_refused(
        message in agent_message(),
        damages in vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..4), 1..6),
    ) {
        let mut bytes = message.encode_to_vec();
        for (place, byte, kind) in damages {
            let at = place.index(bytes.len() + 1);
            match kind {
                0 => bytes.insert(at, byte),
                1 => bytes.truncate(at),
                _ if at == bytes.len() => {}
                2 => _ = bytes.remove(at),
                _ => bytes[at] = byte,
            }
        }
        assert_bytes(&bytes)?;
    }

    #[test]
    fn a_moment_survives_the_wire(seconds in -377_705_023_201_i64..=253_402_207_200, nanos in 0_i32..1_000_000_000) {
        if let Ok(time) = jiff::Timestamp::new(seconds, nanos) {
            let wire = hodei_proto::timestamp(time);
            prop_assert!((0..1_000_000_000).contains(&wire.nanos));
            prop_assert_eq!(jiff::Timestamp::new(wire.seconds, wire.nanos).unwrap(), time);
        }
    }

    #[test]
    fn an_attempt_is_refused_or_survives_the_wire(job_id in prop_oneof![any::<String>(), Just(uuid::Uuid::nil().to_string())], epoch in any::<u32>()) {
        let wire = v1::AttemptRef { job_id, epoch };
        match AttemptKey::try_from(&wire) {
            Ok(key) => prop_assert_eq!(AttemptKey::try_from(&v1::AttemptRef::from(key)).unwrap(), key),
            Err(error) => prop_assert!(error.to_string().starts_with("job id"), "{error}"),
        }
    }
}

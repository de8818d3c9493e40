//! Agents and readers of logs that say anything at all.

use hodei_core::{PROTOCOL_VERSION, id::JobId, spec::JobSpec};
use hodei_proto::v1::{
    AgentMessage, AttemptOutcome, AttemptRef, AttemptResult, AttemptStarted, Heartbeat, Hello,
    JobState, LogBatch, LogFrame, LogGap, RegisterRequest, StreamLogsRequest,
    agent_message::Message as Say, attempt_outcome::How,
    log_stream_service_client::LogStreamServiceClient,
    worker_agent_service_client::WorkerAgentServiceClient,
};
use proptest::{collection::vec, option, prelude::*, test_runner::TestRunner};
use tonic::Code;

use super::start;
use crate::testing::{agent::Agent, running::PATIENCE};

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[a\\x00]{0,4}",
        "[0-9a-f]{64}",
        Just(uuid::Uuid::nil().to_string())
    ]
}

/// An attempt: `None` stands for the agent's own.
fn attempt() -> impl Strategy<Value = Option<AttemptRef>> {
    let other = (text(), any::<u32>()).prop_map(|(job_id, epoch)| AttemptRef { job_id, epoch });
    option::of(other)
}

fn time() -> impl Strategy<Value = Option<prost_types::Timestamp>> {
    let any = prop_oneof![(any::<i64>(), any::<i32>()), Just((1, 2))];
    option::weighted(0.8, any)
        .prop_map(|at| at.map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos }))
}

fn frame() -> impl Strategy<Value = LogFrame> {
    let gap = option::of((any::<u64>(), time(), -1_i32..5));
    let sequence = prop_oneof![2 => 1_u64..9, 1 => any::<u64>()];
    (sequence, -1_i32..4, time(), vec(any::<u8>(), 0..40), any::<u64>(), gap).prop_map(
        |(sequence, stream, time, data, dropped_bytes, gap)| LogFrame {
            sequence,
            stream,
            time,
            data: data.into(),
            dropped_bytes,
            gap: gap.map(|(frames, since, cause)| Box::new(LogGap { frames, since, cause })),
        },
    )
}

/// What an agent says after its Hello. No result of its own attempt that could be taken.
fn said() -> impl Strategy<Value = (Option<AttemptRef>, Say)> {
    let how = prop_oneof![
        any::<i32>().prop_map(How::ExitCode),
        any::<i32>().prop_map(How::Signal),
        text().prop_map(How::Failure),
    ];
    let result = (text(), any::<u32>(), option::of(how), any::<u64>()).prop_map(
        |(job, epoch, how, last)| {
            let attempt = AttemptRef { job_id: job, epoch };
            let result = AttemptResult {
                attempt: Some(attempt.clone()),
                outcome: how.map(|how| AttemptOutcome { how: Some(how), out_of_memory: false }),
                last_sequence: last,
                ..Default::default()
            };
            (Some(attempt), Say::Result(result))
        },
    );
    let logs = (attempt(), vec(frame(), 0..4))
        .prop_map(|(attempt, frames)| (attempt.clone(), Say::Logs(LogBatch { attempt, frames })));
    let started = (attempt(), time()).prop_map(|(attempt, time)| {
        (attempt.clone(), Say::Started(AttemptStarted { attempt, time }))
    });
    let heartbeat = time().prop_map(|time| (None, Say::Heartbeat(Heartbeat { time })));
    let hello =
        text().prop_map(|worker_id| (None, Say::Hello(Hello { worker_id, ..Default::default() })));
    prop_oneof![3 => logs, 2 => result, 2 => started, 1 => heartbeat, 1 => hello]
}

/// The message with the agent's own attempt where none was chosen.
fn about(own: &AttemptRef, (chosen, mut say): (Option<AttemptRef>, Say)) -> Say {
    match &mut say {
        Say::Logs(batch) => batch.attempt = chosen.or_else(|| Some(own.clone())),
        Say::Started(started) => started.attempt = chosen.or_else(|| Some(own.clone())),
        _ => {}
    }
    say
}

const REFUSALS: [Code; 4] =
    [Code::InvalidArgument, Code::FailedPrecondition, Code::Aborted, Code::Unavailable];

#[test]
fn an_agent_that_says_anything_is_refused_and_its_job_ends_all_the_same() {
    let (runtime, mut server) = start();
    let (id, mut agent, mut link, own) = runtime.block_on(async {
        let id = server.submit(&JobSpec::command(["true"])).await;
        let worker = server.next_worker().await;
        let (agent, link, own) = Agent::begin(&server, &worker).await;
        (id, agent, link, own)
    });
    let agent_of_all = std::cell::RefCell::new(&mut agent);
    TestRunner::default()
        .run(&vec(said(), 1..6), |all| {
            let mut agent = agent_of_all.borrow_mut();
            let ended = runtime.block_on(async {
                let (mut link, _) = agent.try_open(Some(own.clone())).await.unwrap();
                for say in all {
                    if !link.try_say(about(&own, say)).await {
                        break;
                    }
                }
                link.hang_up();
                loop {
                    match link.try_next().await {
                        Ok(Some(_)) => {}
                        Ok(None) => return Ok(()),
                        Err(status) => return Err(status),
                    }
                }
            });
            if let Err(status) = ended {
                prop_assert!(REFUSALS.contains(&status.code()), "{status:?}");
            }
            Ok(())
        })
        .unwrap();
    runtime.block_on(async {
        let held = Some(own.clone());
        let welcome;
        (link, welcome) = agent.try_open(held).await.unwrap();
        link.end(&own, How::ExitCode(0), welcome.acked_sequence).await;
        assert!(link.await_result_ack().await);
        server.await_job(id, JobState::Succeeded).await;
    });
}

#[test]
fn any_stranger_is_refused_without_a_word_about_why() {
    let (runtime, server) = start();
    let channel = runtime.block_on(server.channel());
    let version = prop_oneof![4 => Just(PROTOCOL_VERSION), 1 => any::<u32>()];
    TestRunner::default()
        .run(&(version, [text(), text(), text(), text()], attempt()), |(version, texts, held)| {
            let [worker_id, secret, pod_uid, agent_version] = texts;
            let mut client = WorkerAgentServiceClient::new(channel.clone());
            let request = RegisterRequest {
                worker_id: worker_id.clone(),
                otp: secret.clone(),
                protocol_version: version,
                pod_uid: pod_uid.clone(),
                agent_version,
            };
            let hello = Hello {
                worker_id,
                session_token: secret,
                pod_uid,
                protocol_version: version,
                attempt: held,
            };
            let hello = AgentMessage { message: Some(Say::Hello(hello)) };
            let (registered, opened) = runtime.block_on(async {
                let registered = client.register(request).await.err();
                let opened = client.open_session(tokio_stream::iter([hello])).await.err();
                (registered, opened)
            });
            let expect = if version == PROTOCOL_VERSION {
                [Code::Unauthenticated, Code::ResourceExhausted]
            } else {
                [Code::FailedPrecondition; 2]
            };
            for status in [registered, opened] {
                let status = status.expect("a stranger is refused");
                prop_assert!(expect.contains(&status.code()), "{status:?}");
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn any_place_in_a_log_is_answered() {
    let (runtime, server) = start();
    let id = runtime.block_on(server.submit(&JobSpec::command(["true"])));
    let channel = runtime.block_on(server.channel());
    let job =
        prop_oneof![3 => Just(id.to_string()), 1 => Just(JobId::new().to_string()), 1 => text()];
    let number = || prop_oneof![0_u64..4, any::<u64>(), Just(u64::MAX)];
    TestRunner::default()
        .run(&(job, number(), number()), |(job_id, from_epoch, from_sequence)| {
            let from_epoch = u32::try_from(from_epoch).unwrap_or(u32::MAX);
            let follow = false;
            let request = StreamLogsRequest { job_id, from_epoch, from_sequence, follow };
            let mut client = LogStreamServiceClient::new(channel.clone());
            let read = async {
                let mut stream = client.stream(request).await?.into_inner();
                while stream.message().await?.is_some() {}
                Ok::<_, tonic::Status>(())
            };
            let read = runtime.block_on(async { tokio::time::timeout(PATIENCE, read).await });
            if let Err(status) = read.expect("the log must end") {
                let expected = [Code::InvalidArgument, Code::NotFound];
                prop_assert!(expected.contains(&status.code()), "{status:?}");
            }
            Ok(())
        })
        .unwrap();
}

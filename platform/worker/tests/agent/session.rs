//! The agent on its session, against a scripted server: links that break, results that are repeated.

use std::time::Duration;

use crate::peer::{Agent, Peer, Session, within};
use hodei_core::{id::AttemptKey, spec::JobSpec};
use hodei_proto::v1::{self, agent_message::Message, attempt_outcome::How, server_message};
use tonic::Status;

#[tokio::test]
async fn a_job_from_assignment_to_shutdown() {
    let (mut peer, home) = (Peer::start([]).await, tempfile::tempdir().unwrap());
    let agent = Agent::start(peer.config(home.path()));
    let mut session = peer.welcomed().await;
    let key = session.assign(&JobSpec::command(["sh", "-c", "echo hello; exit 3"])).await;
    let Message::Started(started) = session.next_of_work().await else { panic!("no start") };
    assert_eq!(started.attempt, Some(key.into()));
    let mut output = Vec::new();
    let result = session.result(key, &mut output).await;
    assert_eq!(output, b"hello\n");
    assert_eq!(result.outcome.unwrap().how, Some(How::ExitCode(3)));
    assert_eq!(result.last_sequence, 1);
    session.ack_result(key).await;
    session.shut_down().await;
    agent.end().await.unwrap();
}

/// What a server keeps of an attempt over several links.
#[derive(Default)]
struct Store {
    durable: u64,
    output: Vec<u8>,
}

impl Store {
    /// Takes output from a link until `most` frames are durable and one more has come, or the result.
    async fn take(&mut self, session: &mut Session, key: AttemptKey, most: u64) -> Option<u64> {
        let (mut received, stop_at) = (self.durable, self.durable.saturating_add(most));
        loop {
            match session.next_of_work().await {
                Message::Logs(batch) => {
                    for frame in batch.frames {
                        received += 1;
                        assert_eq!(
                            frame.sequence, received,
                            "in order, from the last acknowledged on"
                        );
                        if received <= stop_at {
                            self.output.extend(&frame.data);
                            self.durable = received;
                        }
                    }
                    session.ack(key, self.durable).await;
                    if received > stop_at {
                        return None;
                    }
                }
                Message::Result(result) => return Some(result.last_sequence),
                Message::Started(_) => {}
                other => panic!("not expected: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn the_first_stream_goes_on_with_the_connection_that_registered() {
    let (mut peer, home) = (Peer::start([]).await, tempfile::tempdir().unwrap());
    let agent = Agent::start(peer.config(home.path()));
    let first = peer.welcomed().await;
    let registered = peer.registrations()[0].from;
    assert!(registered.is_some());
    assert_eq!(first.from, registered);
    drop(first);
    let second = peer.welcomed().await;
    assert_ne!(second.from, registered, "a link that broke is made anew");
    second.shut_down().await;
    agent.end().await.unwrap();
}

#[tokio::test]
async fn a_lost_link_loses_and_doubles_nothing() {
    let (mut peer, home) = (Peer::start([]).await, tempfile::tempdir().unwrap());
    let agent = Agent::start(peer.config(home.path()));
    let mut store = Store::default();
    let mut session = peer.welcomed().await;
    // 3 MB through an outbox of 1 MiB, so it has to wait for acknowledgements as well.
    let key = session.assign(&JobSpec::command(["seq", "1", "450000"])).await;
    for most in [0, 3, 7] {
        assert_eq!(store.take(&mut session, key, most).await, None);
        drop(session);
        let (next, hello) = peer.session().await;
        assert_eq!(hello.attempt, Some(key.into()));
        next.welcome(store.durable).await;
        session = next;
    }
    let last = store.take(&mut session, key, u64::MAX).await;
    assert_eq!(last, Some(store.durable));
    let expected: String = (1..=450_000).map(|n| format!("{n}\n")).collect();
    assert!(store.output == expected.as_bytes(), "{} bytes", store.output.len());
    session.ack_result(key).await;
    session.shut_down().await;
    agent.end().await.unwrap();
}

#[tokio::test]
async fn a_result_is_repeated_until_it_is_acknowledged() {
    let (mut peer, home) = (Peer::start([]).await, tempfile::tempdir().unwrap());
    let agent = Agent::start(peer.config(home.path()));
    let mut session = peer.welcomed().await;
    let key = session.assign(&JobSpec::command(["true"])).await;
    let first = session.result(key, &mut Vec::new()).await;
    drop(session);
    let mut session = peer.welcomed().await;
    assert_eq!(session.result(key, &mut Vec::new()).await, first);
    session.ack_result(key).await;
    drop(session);
    // The server forgets the worker before it could say Shutdown: the work is done all the same.
    let (session, hello) = peer.session().await;
    assert_eq!(hello.attempt, None);
    session.refuse(Status::unauthenticated("unknown session")).await;
    agent.end().await.unwrap();
}

#[tokio::test]
async fn cancelling_is_reported_and_output_before_it_kept() {
    let (mut peer, home) = (Peer::start([]).await, tempfile::tempdir().unwrap());
    let agent = Agent::start(peer.config(home.path()));
    let mut session = peer.welcomed().await;
    // SIGTERM reaches the sleep too, and some shells say so on stderr.
    let script =
        "exec 2>/dev/null; trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.1; done";
    let key = session.assign(&JobSpec::command(["sh", "-c", script])).await;
    let mut output: Vec<u8> = loop {
        if let Message::Logs(batch) = session.next_of_work().await {
            break batch.frames.iter().flat_map(|frame| frame.data.to_vec()).collect();
        }
    };
    session.cancel(key, Duration::from_secs(10)).await;
    let result = session.result(key, &mut output).await;
    assert_eq!(String::from_utf8_lossy(&output), "ready\nbye\n");
    assert_eq!(result.outcome.unwrap().how, Some(How::Cancelled(true)));
    session.ack_result(key).await;
    session.shut_down().await;
    agent.end().await.unwrap();
}

#[tokio::test]
async fn sigterm_gives_the_attempt_up_without_a_result() {
    let (mut peer, home) = (Peer::start([]).await, tempfile::tempdir().unwrap());
    let agent = Agent::start(peer.config(home.path()));
    let mut session = peer.welcomed().await;
    let key = session.assign(&JobSpec::command(["sleep", "1000"])).await;
    let Message::Started(_) = session.next_of_work().await else { panic!("no start") };
    agent.terminate.cancel();
    let Message::Draining(_) = session.next_of_work().await else { panic!("no draining") };
    while let Some(message) = session.next().await {
        assert!(!matches!(message, Message::Result(_)), "{key} was lost, not ended");
    }
    let end = agent.end().await.unwrap_err();
    assert_eq!(end.exit_code(), 143, "{end}");
}

#[tokio::test]
async fn a_revoked_attempt_is_killed_and_its_output_dropped() {
    let (mut peer, home) = (Peer::start([]).await, tempfile::tempdir().unwrap());
    let agent = Agent::start(peer.config(home.path()));
    let session = peer.welcomed().await;
    session.assign(&JobSpec::command(["sh", "-c", "echo x; sleep 1000"])).await;
    drop(session);
    let (mut session, _) = peer.session().await;
    let revoked = v1::Welcome { acked_sequence: 0, attempt_revoked: true };
    session.say(server_message::Message::Welcome(revoked)).await;
    let key = session.assign(&JobSpec::command(["echo", "second"])).await;
    let mut output = Vec::new();
    session.result(key, &mut output).await;
    assert_eq!(output, b"second\n");
    session.shut_down().await;
    agent.end().await.unwrap();
}

#[tokio::test]
async fn heartbeats_go_on_while_a_job_is_silent() {
    let (mut peer, home) = (Peer::start([]).await, tempfile::tempdir().unwrap());
    let agent = Agent::start(peer.config(home.path()));
    let mut session = peer.welcomed().await;
    session.assign(&JobSpec::command(["sleep", "1000"])).await;
    let mut beats = 0;
    while beats < 3 {
        beats += usize::from(matches!(session.next().await, Some(Message::Heartbeat(_))));
    }
    session.shut_down().await;
    agent.end().await.unwrap();
}

#[tokio::test]
async fn a_session_that_is_refused_or_gone_for_long_ends_the_job() {
    for (refusal, code) in [(Some(Status::permission_denied("fenced")), 14), (None, 13)] {
        let (mut peer, home) = (Peer::start([]).await, tempfile::tempdir().unwrap());
        let agent = Agent::start(peer.config(home.path()));
        let session = peer.welcomed().await;
        session.assign(&JobSpec::command(["sleep", "1000"])).await;
        match refusal {
            Some(status) => session.refuse(status).await,
            None => drop(session),
        }
        let answering = async {
            loop {
                // Streams are taken and never welcomed.
                let _ = peer.session().await;
            }
        };
        let error = tokio::select! {
            end = within("the end", agent.end()) => end.unwrap_err(),
            () = answering => unreachable!("it goes on for ever"),
        };
        assert_eq!(error.exit_code(), code, "{error}");
    }
}

#[tokio::test]
async fn a_specification_that_cannot_be_run_has_a_result() {
    let (mut peer, home) = (Peer::start([]).await, tempfile::tempdir().unwrap());
    let agent = Agent::start(peer.config(home.path()));
    let mut session = peer.welcomed().await;
    let key = session.assign(&JobSpec::command([""])).await;
    let result = session.result(key, &mut Vec::new()).await;
    let expected = How::Failure("spec.command.argv: names no program".into());
    assert_eq!(result.outcome.unwrap().how, Some(expected));
    session.shut_down().await;
    agent.end().await.unwrap();
}

#[tokio::test]
#[tracing_test::traced_test]
async fn no_secret_is_logged() {
    let (mut peer, home) = (Peer::start([]).await, tempfile::tempdir().unwrap());
    let agent = Agent::start(peer.config(home.path()));
    let (mut session, hello) = peer.session().await;
    session.welcome(0).await;
    let mut spec = JobSpec::command(["sh", "-c", "true argument-s3cret"]);
    spec.env.insert("TOKEN".into(), "value-s3cret".into());
    let key = session.assign(&spec).await;
    session.result(key, &mut Vec::new()).await;
    session.ack_result(key).await;
    session.shut_down().await;
    agent.end().await.unwrap();
    assert!(logs_contain("registered") && logs_contain("the command ended"));
    assert!(!logs_contain("s3cret") && !logs_contain(&hello.session_token));
    for registration in peer.registrations() {
        assert!(!logs_contain(&registration.password));
    }
}

#[tokio::test]
async fn a_refused_password_ends_the_agent_at_once() {
    for (status, code) in [
        (Status::unauthenticated("used"), 10),
        (Status::failed_precondition("too old"), 11),
        (Status::invalid_argument("pod_uid"), 15),
    ] {
        let (peer, home) = (Peer::start([status]).await, tempfile::tempdir().unwrap());
        let error = Agent::start(peer.config(home.path())).end().await.unwrap_err();
        assert_eq!(error.exit_code(), code, "{error}");
    }
}

#[tokio::test]
async fn a_refusal_after_an_unclear_try_says_so() {
    let answers = [Status::unavailable("restarting"), Status::unauthenticated("used")];
    let (peer, home) = (Peer::start(answers).await, tempfile::tempdir().unwrap());
    let error = Agent::start(peer.config(home.path())).end().await.unwrap_err();
    let expected = "the server refused the one-time password: used (an earlier try got no answer \
                    and may have used it up)";
    assert_eq!(error.to_string(), expected);
}

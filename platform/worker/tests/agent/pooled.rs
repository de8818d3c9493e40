//! A worker that takes one job after another: the second finds nothing of the first.

use hodei_core::{id::AttemptKey, spec::JobSpec};
use hodei_proto::v1::{agent_message::Message, attempt_outcome::How};
use hodei_worker::executor::Premises;
use tokio_util::sync::CancellationToken;

use crate::peer::{Agent, Peer, Session};

fn sh(script: &str) -> JobSpec {
    JobSpec::command(["sh", "-c", script])
}

/// Runs a script to its end; what it wrote.
async fn run(session: &mut Session, script: &str) -> String {
    let key: AttemptKey = session.assign(&sh(script)).await;
    let mut output = Vec::new();
    let result = session.result(key, &mut output).await;
    assert_eq!(result.outcome.unwrap().how, Some(How::ExitCode(0)));
    session.ack_result(key).await;
    String::from_utf8(output).unwrap()
}

#[tokio::test]
async fn the_second_job_finds_nothing_of_the_first() {
    let (mut peer, home) = (Peer::start([]).await, tempfile::tempdir().unwrap());
    std::fs::write(home.path().join("volume"), "").unwrap();
    let mut config = peer.config(home.path());
    let look = Premises::look([home.path().to_owned()], CancellationToken::new());
    config.environment.premises = Some(look.unwrap());
    let agent = Agent::start(config);
    let mut session = peer.welcomed().await;
    let left = "umask 077; echo secret > .token; mkdir -p cache/x; : > cache/x/y; chmod -R 0 cache";
    for script in [left, "mkfifo pipe", left] {
        let seen = run(&mut session, &format!("ls -A; {script}")).await;
        assert_eq!(seen, "volume\n");
        // By the time a result is told, what the job left is gone.
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
    }
    session.shut_down().await;
    agent.end().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_cannot_be_emptied_says_so_before_the_result_and_leaves() {
    let (mut peer, home) = (Peer::start([]).await, tempfile::tempdir().unwrap());
    let mut config = peer.config(home.path());
    let leave = CancellationToken::new();
    let premises = Premises::shared(leave.clone());
    config.environment.premises = Some(premises.clone());
    let agent = Agent::start_with(config, leave);
    let mut session = peer.welcomed().await;
    let key = session.assign(&sh("exit 3")).await;
    let Message::Started(_) = session.next_of_work().await else { panic!("no start") };
    let Message::Draining(_) = session.next_of_work().await else { panic!("not draining") };
    let result = session.result(key, &mut Vec::new()).await;
    assert_eq!(result.outcome.unwrap().how, Some(How::ExitCode(3)));
    // What comes before the server has acted on it is not run.
    session.ack_result(key).await;
    agent.end().await.unwrap();
    let error = premises.check().unwrap_err();
    assert_eq!(error.exit_code(), 16);
    assert!(error.to_string().contains("first process of a container"), "{error}");
}

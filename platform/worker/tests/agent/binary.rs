//! The binary as the kubelet runs it: its environment, its exit code, its processes.

use std::process::{Output, Stdio};

use hodei_core::{id::WorkerId, secret::Secret, spec::JobSpec};
use hodei_proto::v1::attempt_outcome::How;
use tokio::process::{Child, Command};
use tonic::Status;

use crate::peer::{Peer, within};

fn agent() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hodei-worker"));
    command.env_clear().env("PATH", "/usr/bin:/bin").kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn start(peer: &Peer, otp: &Secret, workspace: &tempfile::TempDir) -> Child {
    agent()
        .env("HODEI_WORKER_ID", WorkerId::new().to_string())
        .env("HODEI_SERVER_ADDRESS", &peer.address)
        .env("HODEI_OTP_TOKEN", otp.expose())
        .env("HODEI_WORKSPACE", workspace.path())
        .spawn()
        .unwrap()
}

async fn end_of(child: Child) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } =
        within("the agent's end", child.wait_with_output()).await.unwrap();
    assert!(stdout.is_empty());
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[tokio::test]
async fn help_and_missing_settings() {
    let help =
        within("help", agent().arg("--help").env("HODEI_OTP_TOKEN", "s3cret").output()).await;
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    assert!(help.contains("HODEI_SERVER_ADDRESS") && help.contains("Exit codes:"), "{help}");
    assert!(!help.contains("s3cret"), "{help}");
    let version = within("version", agent().arg("--version").output()).await.unwrap();
    assert!(version.stdout.starts_with(b"hodei-worker "));
    let (code, log) = end_of(agent().spawn().unwrap()).await;
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("HODEI_WORKER_ID is not set"), "{log}");
}

#[tokio::test]
async fn a_refused_password_has_its_own_exit_code() {
    let peer = Peer::start([Status::unauthenticated("expired")]).await;
    let (otp, workspace) = (Secret::generate(), tempfile::tempdir().unwrap());
    let (code, log) = end_of(start(&peer, &otp, &workspace)).await;
    assert_eq!(code, Some(10), "{log}");
    assert!(log.contains("the server refused the one-time password: expired"), "{log}");
    assert!(!log.contains(otp.expose()), "{log}");
}

/// The job runs as the agent's own user; neither its environment nor /proc may give the password.
/// (As root nothing is hidden, so there only the environment is looked at.)
#[tokio::test]
async fn a_job_cannot_find_the_password_and_leaves_nothing_behind() {
    let mut peer = Peer::start([]).await;
    let (otp, workspace) = (Secret::generate(), tempfile::tempdir().unwrap());
    let child = start(&peer, &otp, &workspace);
    let agent = child.id().unwrap();
    let mut session = peer.welcomed().await;
    // An orphan outside of the job's process group, as a daemon would be, and one that ends.
    let script = "env; [ $(id -u) = 0 ] || cat /proc/$PPID/environ | tr '\\0' '\\n'; \
                  (setsid sleep 1000 &); (sleep 0.1 &); echo over";
    let key = session.assign(&JobSpec::command(["sh", "-c", script])).await;
    let mut output = Vec::new();
    let result = session.result(key, &mut output).await;
    assert_eq!(result.outcome.unwrap().how, Some(How::ExitCode(0)));
    let output = String::from_utf8(output).unwrap();
    assert!(output.ends_with("over\n") && !output.contains(otp.expose()), "{output}");
    assert!(!output.contains("HODEI_SERVER_ADDRESS"), "{output}");
    await_no_children(agent).await;
    session.ack_result(key).await;
    session.shut_down().await;
    let (code, log) = end_of(child).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains(otp.expose()) && log.contains("\"message\":\"registered\""), "{log}");
}

/// Neither living children nor zombies.
async fn await_no_children(parent: u32) {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let gone = async {
        let mut look = tokio::time::interval(std::time::Duration::from_millis(10));
        loop {
            look.tick().await;
            if std::fs::read_to_string(&path).unwrap().trim().is_empty() {
                break;
            }
        }
    };
    within("the end of all children", gone).await;
}

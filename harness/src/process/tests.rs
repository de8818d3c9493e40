//! Commands against a real shell.

use super::*;
use crate::progress::Progress;

fn shell(script: &str) -> Command {
    Command::new("sh").args(["-c", script])
}

#[tokio::test]
async fn output_of_both_streams_is_kept_apart() {
    let stage = Progress::silent().unlisted();
    let output =
        shell("echo out; echo err >&2; cat").stdin_bytes("in\n").run(&stage).await.unwrap();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\nin\n", "err\n"));
}

#[tokio::test]
async fn a_failure_names_command_status_tail_and_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("logs/x.log");
    let stage = Progress::silent().unlisted();
    let error = shell("echo no space left >&2; exit 7").log_to(&log).run(&stage).await.unwrap_err();
    let text = error.to_string();
    for part in ["sh -c", "exit status: 7", "| no space left", "logs/x.log"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    assert_eq!(std::fs::read_to_string(log).unwrap(), "no space left\n");
}

#[tokio::test]
async fn a_deadline_ends_the_whole_group() {
    let stage = Progress::silent().unlisted();
    let script = "sleep 300 & echo $!; wait";
    let error = shell(script).deadline(Duration::from_millis(300)).run(&stage).await.unwrap_err();
    assert!(matches!(error, ProcessError::Deadline { .. }), "{error}");
    let grandchild: i32 = error.tail().trim().parse().unwrap();
    // SIGKILL has been sent; the kernel ends a process of another parent in its own time.
    let waited = Instant::now();
    while let Some(state) = alive(grandchild) {
        assert!(waited.elapsed() < Duration::from_secs(10), "still there: {state}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What the kernel says of a process that has not ended; a zombie has.
fn alive(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    (!stat.contains(") Z ")).then_some(stat)
}

#[tokio::test]
async fn a_signal_to_the_tool_ends_the_command() {
    let progress = Progress::silent();
    let stage = progress.unlisted();
    let cancel = progress.cancellation();
    let command = shell("sleep 300");
    let (outcome, ()) = tokio::join!(command.run(&stage), async { cancel.cancel() });
    let error = crate::failure::HarnessError::new(
        crate::failure::FailureClass::Image,
        "build",
        "it",
        outcome.unwrap_err(),
    );
    assert!(error.is_interrupted());
}

#[tokio::test]
async fn a_missing_program_says_so() {
    let stage = Progress::silent().unlisted();
    let error = Command::new("hodei-no-such-program").run(&stage).await.unwrap_err();
    assert!(matches!(error, ProcessError::Start { .. }));
}

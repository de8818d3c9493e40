//! Running and following jobs.

use std::{path::PathBuf, process::Stdio};

use hodei_core::{
    attempt::Outcome,
    session::OutputStream::{Stderr, Stdout},
};
use hodei_proto::v1::{JobState, job_spec::Run};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::peer::{Ended, JOB, Peer, Script, frames, gap, within};

fn exited(code: i32) -> Outcome {
    Outcome::Exited { code, out_of_memory: false }
}

fn ending(state: JobState, outcome: Option<Outcome>) -> Script {
    Script { end: Some((state, outcome)), ..Script::default() }
}

#[tokio::test]
async fn output_goes_to_its_own_stream_byte_for_byte() {
    let pieces =
        [(Stdout, &b"out\xff\0"[..]), (Stderr, b"err\n"), (Stdout, "ñ no newline".as_bytes())];
    let script = Script { frames: frames(&pieces), ..ending(JobState::Failed, Some(exited(3))) };
    let peer = Peer::start(script).await;
    let ended = peer.run(&["job", "run", "--name", "x", "-e", "A=b", "--", "sh", "-c", "y"]).await;
    assert_eq!(ended.stdout, b"out\xff\0\xc3\xb1 no newline");
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(3), "err\n"));
    let submitted = peer.submitted.lock().unwrap().remove(0);
    let spec = submitted.spec.unwrap();
    assert_eq!((spec.name.as_str(), spec.env["A"].as_str()), ("x", "b"));
    let Some(Run::Command(command)) = spec.run else { panic!("no command") };
    assert_eq!(command.argv, ["sh", "-c", "y"]);
    assert!(!submitted.idempotency_key.is_empty() && !submitted.correlation_id.is_empty());
}

#[tokio::test]
async fn a_broken_link_loses_and_doubles_nothing() {
    let pieces: Vec<_> = (0..9).map(|n| (Stdout, &b"123456789"[n..=n])).collect();
    let cuts = vec![2, 0, 3, 1];
    let script =
        Script { frames: frames(&pieces), cuts, ..ending(JobState::Succeeded, Some(exited(0))) };
    let ended = Peer::start(script).await.run(&["job", "run", "--", "true"]).await;
    assert_eq!((ended.code, ended.text()), (Some(0), "123456789"), "{}", ended.stderr);
}

#[tokio::test]
async fn the_exit_code_says_how_the_job_ended() {
    let oom = Outcome::Signalled { signal: 9, out_of_memory: true };
    let not_run = Outcome::NotRun { reason: "no such file".into() };
    for (state, outcome, code, words) in [
        (JobState::Succeeded, Some(exited(0)), 0, ""),
        (JobState::Failed, Some(exited(255)), 255, ""),
        (JobState::Failed, Some(oom), 137, "killed by signal 9 (out of memory)"),
        (JobState::Failed, Some(not_run), 127, "not run: no such file"),
        (JobState::Cancelled, Some(Outcome::Cancelled), 130, "was cancelled: as scripted"),
        (JobState::Cancelled, None, 130, "was cancelled"),
        (JobState::TimedOut, Some(Outcome::Cancelled), 124, "timed out"),
        (JobState::Failed, None, 125, "failed without a result: as scripted"),
    ] {
        let peer = Peer::start(ending(state, outcome)).await;
        let Ended { code: given, stderr, .. } = peer.run(&["job", "run", "--", "x"]).await;
        assert_eq!(given, Some(code), "{stderr}");
        assert!(stderr.contains(words) && stderr.is_empty() == words.is_empty(), "{stderr}");
    }
}

/// Starts the command and waits for the first output of its job.
async fn started(mut command: Command) -> Child {
    let mut child = command.spawn().unwrap();
    let mut ready = [0; 6];
    let stdout = child.stdout.as_mut().unwrap();
    within("the first output", stdout.read_exact(&mut ready)).await.unwrap();
    assert_eq!(&ready, b"ready\n");
    child
}

async fn interrupt(child: &Child) {
    let pid = child.id().unwrap().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status();
    assert!(within("kill", sent).await.unwrap().success());
}

async fn end_of(child: Child) -> Ended {
    within("the command's end", child.wait_with_output()).await.unwrap().into()
}

#[tokio::test]
async fn lost_output_is_a_line_on_stderr_in_its_place_said_once() {
    let mut frames = frames(&[(Stderr, b"begun"), (Stderr, b""), (Stderr, b"ended\n")]);
    frames[1] = gap(2);
    // The link is cut right behind the record.
    let script = Script { frames, cuts: vec![2], ..ending(JobState::Succeeded, Some(exited(0))) };
    let peer = Peer::start(script).await;
    let ended = peer.run(&["job", "logs", "-f", JOB]).await;
    assert_eq!(ended.code, Some(0));
    let told = "begun\nhodei: 1.0 MiB of output lost here in 999 frames, read 1970-01-01 00:00:00 to 00:00:00 \
                UTC: the worker's link was down and its spool full\nended\n";
    assert_eq!((ended.stderr.as_str(), ended.stdout.len()), (told, 0));
}

#[tokio::test]
async fn ctrl_c_cancels_and_says_so() {
    let script = Script { frames: frames(&[(Stdout, b"ready\n")]), ..Script::default() };
    let peer = Peer::start(script).await;
    let child = started(peer.command(&["job", "run", "--", "x"])).await;
    interrupt(&child).await;
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(130));
    insta::assert_snapshot!("ctrl_c", ended.stderr);
}

#[tokio::test]
async fn a_second_ctrl_c_leaves_at_once() {
    let script =
        Script { frames: frames(&[(Stdout, b"ready\n")]), deaf: true, ..Script::default() };
    let peer = Peer::start(script).await;
    let mut child = started(peer.command(&["job", "run", "--", "x"])).await;
    interrupt(&child).await;
    let mut said = vec![0; 17];
    let stderr = child.stderr.as_mut().unwrap();
    within("the note", stderr.read_exact(&mut said)).await.unwrap();
    assert_eq!(said, b"hodei: cancelling");
    interrupt(&child).await;
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(130));
    assert!(ended.stderr.contains("hodei job get"), "{}", ended.stderr);
}

#[tokio::test]
async fn ctrl_c_can_leave_the_job_to_itself() {
    let script = Script { frames: frames(&[(Stdout, b"ready\n")]), ..Script::default() };
    let peer = Peer::start(script).await;
    let run = ["job", "run", "--cancel-on-interrupt", "false", "--", "x"];
    let child = started(peer.command(&run)).await;
    interrupt(&child).await;
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(130));
    assert!(ended.stderr.contains("goes on"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_closed_stdout_ends_quietly() {
    let pieces: Vec<_> = (0..1000).map(|_| (Stdout, &b"line\n"[..])).collect();
    let script = Script { frames: frames(&pieces), ..Script::default() };
    let peer = Peer::start(script).await;
    for arguments in [&["job", "logs", "-f", JOB][..], &["job", "run", "--", "x"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = peer.command(arguments);
        command.stdout(Stdio::from(writer));
        let ended = end_of(command.spawn().unwrap()).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(141), ""));
    }
}

#[tokio::test]
async fn detached_scripted_and_listed() {
    let peer = Peer::start(Script::default()).await;
    let script: PathBuf = tempfile::tempdir().unwrap().keep().join("build.sh");
    std::fs::write(&script, "echo hello\n").unwrap();
    let ended = peer
        .run(&["job", "run", "--detach", "--timeout", "90s", "--script", script.to_str().unwrap()])
        .await;
    assert_eq!(
        (ended.code, ended.text()),
        (Some(0), format!("{JOB}\n").as_str()),
        "{}",
        ended.stderr
    );
    let spec = peer.submitted.lock().unwrap().remove(0).spec.unwrap();
    assert!(spec.run == Some(Run::Script("echo hello\n".into())));
    assert_eq!(spec.timeouts.unwrap().run.unwrap().seconds, 90);
    let listed =
        peer.run(&["job", "list", "--state", "queued", "--limit", "1", "--output", "json"]).await;
    let listed: serde_json::Value = serde_json::from_str(listed.text()).unwrap();
    assert_eq!(listed["jobs"][0]["state"], "queued");
    let cancelled = peer.run(&["job", "cancel", JOB]).await;
    assert!(cancelled.text().contains("cancelled"), "{}", cancelled.text());
    std::fs::remove_dir_all(script.parent().unwrap()).unwrap();
}

#[tokio::test]
async fn a_wait_that_lasts_is_explained_once() {
    let peer = Peer::start(Script::default()).await;
    peer.turn(JobState::Queued, "waiting: quota: full");
    let mut child = peer.command(&["job", "run", "--", "x"]).spawn().unwrap();
    let said = b"hodei: waiting: quota: full\n";
    let mut heard = vec![0; said.len()];
    let stderr = child.stderr.as_mut().unwrap();
    within("the note", stderr.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, said);
    peer.turn(JobState::Queued, "waiting: quota: still full");
    peer.finish(JobState::Succeeded, Some(&exited(0)));
    let ended = end_of(child).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn a_job_is_submitted_watched_and_retried() {
    let peer = Peer::start(Script::default()).await;
    let submitted = peer.run(&["job", "submit", "--priority", "-5", "--", "x"]).await;
    let id = format!("{JOB}\n");
    assert_eq!((submitted.code, submitted.text()), (Some(0), id.as_str()), "{}", submitted.stderr);
    assert_eq!(peer.submitted.lock().unwrap().remove(0).spec.unwrap().priority, -5);
    let refused = peer.run(&["job", "retry", JOB]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("only a job that has ended"), "{}", refused.stderr);
    peer.finish(JobState::Failed, Some(&exited(3)));
    let watched = peer.run(&["job", "watch", JOB]).await;
    let (time, change) = watched.text().split_once(' ').unwrap();
    assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    assert_eq!((watched.code, change), (Some(0), "failed: exit code 3: as scripted\n"));
    let retried =
        peer.run(&["job", "retry", JOB, "--idempotency-key", "k", "--output", "json"]).await;
    assert_eq!(retried.code, Some(0), "{}", retried.stderr);
    let job: serde_json::Value = serde_json::from_str(retried.text()).unwrap();
    assert_eq!(job["state"], "queued");
    assert_eq!(*peer.retried.lock().unwrap(), ["k"]);
}

#[tokio::test]
async fn each_change_is_one_line_of_json() {
    let peer = Peer::start(Script::default()).await;
    let mut child = peer.command(&["job", "watch", JOB, "--output", "json"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut states = Vec::new();
    for turn in 0..3 {
        let line = within("a change", lines.next_line()).await.unwrap().unwrap();
        let job: serde_json::Value = serde_json::from_str(&line).unwrap();
        states.push((job["state"].clone(), job["reason"].clone()));
        match turn {
            0 => peer.turn(JobState::Starting, "worker pending"),
            _ => peer.finish(JobState::Succeeded, Some(&exited(0))),
        }
    }
    let expect = [("queued", ""), ("starting", "worker pending"), ("succeeded", "as scripted")];
    assert_eq!(states, expect.map(|(state, reason)| (state.into(), reason.into())));
    assert_eq!(within("the end", lines.next_line()).await.unwrap(), None);
    assert_eq!(end_of(child).await.code, Some(0));
}

#[tokio::test]
async fn the_token_is_taken_from_flag_or_file() {
    let peer = Peer::start(Script { token: Some("s3cret"), ..Script::default() }).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "s3cret\n").unwrap();
    let path = file.path().to_str().unwrap();
    let refused = peer.run(&["job", "get", JOB]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("--token-file"), "{}", refused.stderr);
    for given in [["--token", "s3cret"], ["--token-file", path]] {
        let shown = peer.run(&[&["job", "get", JOB], &given[..]].concat()).await;
        assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    }
    let mut named = peer.command(&["job", "get", JOB]);
    named.env("HODEI_TOKEN_FILE", path);
    assert_eq!(end_of(named.spawn().unwrap()).await.code, Some(0));
    std::fs::write(file.path(), "two\nlines\n").unwrap();
    let broken = peer.run(&["job", "get", JOB, "--token-file", path]).await;
    assert_eq!(broken.code, Some(2));
    assert!(!broken.stderr.contains("lines"), "{}", broken.stderr);
}

#[tokio::test]
async fn what_is_wrong_is_said_without_a_server_and_with_one() {
    let peer = Peer::start(Script::default()).await;
    let unknown = peer.run(&["job", "get", "nope"]).await;
    assert_eq!(unknown.code, Some(1));
    insta::assert_snapshot!("unknown_job", unknown.stderr);
    let invalid = peer.run(&["job", "run", "--name", "No Name", "--", "x"]).await;
    assert_eq!(invalid.code, Some(125));
    insta::assert_snapshot!("invalid_job", invalid.stderr);
    assert!(peer.submitted.lock().unwrap().is_empty());
}

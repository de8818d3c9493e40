//! The executor alone: what is run, what is read, and how it ends.

use std::{path::Path, time::Duration};

use crate::peer::{environment, within};
use hodei_core::{
    attempt::Outcome,
    id::{AttemptKey, Epoch, JobId},
    session::OutputStream,
    spec::JobSpec,
};
use hodei_worker::{
    executor::{Event, Execution, Stop, StopCause},
    process::Family,
};

/// All that came of one run.
#[derive(Debug, Default)]
struct Ran {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    starts: usize,
    largest: usize,
}

fn start(spec: JobSpec, home: &Path) -> Execution {
    let key = AttemptKey { job: JobId::new(), epoch: Epoch(2) };
    Execution::start(spec, key, environment(home), Family::default())
}

async fn end_of(execution: &mut Execution) -> (Ran, Outcome) {
    let mut ran = Ran::default();
    loop {
        match within("an event", execution.next()).await.expect("the end comes last") {
            Event::Started(_) => ran.starts += 1,
            Event::Output { stream, data, .. } => {
                ran.largest = ran.largest.max(data.len());
                match stream {
                    OutputStream::Stdout => ran.stdout.extend(&data),
                    OutputStream::Stderr => ran.stderr.extend(&data),
                }
            }
            Event::Ended { outcome, .. } => {
                return (ran, outcome.expect("nobody told the worker to leave"));
            }
        }
    }
}

async fn run(spec: JobSpec) -> (Ran, Outcome) {
    let home = tempfile::tempdir().unwrap();
    let ended = end_of(&mut start(spec, home.path())).await;
    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    ended
}

fn sh(script: &str) -> JobSpec {
    JobSpec::command(["sh", "-c", script])
}

fn exited(code: i32) -> Outcome {
    Outcome::Exited { code, out_of_memory: false }
}

fn signalled(signal: i32) -> Outcome {
    Outcome::Signalled { signal, out_of_memory: false }
}

#[tokio::test]
async fn ends_and_outputs() {
    let cases: [(JobSpec, &[u8], &[u8], Outcome); 15] = [
        (JobSpec::command(["true"]), b"", b"", exited(0)),
        (sh("exit 1"), b"", b"", exited(1)),
        (sh("echo hello; exit 3"), b"hello\n", b"", exited(3)),
        (sh("exit 255"), b"", b"", exited(255)),
        (sh("echo out; echo err >&2"), b"out\n", b"err\n", exited(0)),
        (sh("printf 'no newline'"), b"no newline", b"", exited(0)),
        (sh("echo 'ñandú 🦙'"), "ñandú 🦙\n".as_bytes(), b"", exited(0)),
        (sh(r"printf '\377\000\376'"), b"\xff\0\xfe", b"", exited(0)),
        (sh("kill -TERM $$"), b"", b"", signalled(15)),
        (sh("kill -9 $$"), b"", b"", signalled(9)),
        (sh("cat; echo end"), b"end\n", b"", exited(0)),
        (JobSpec::script("echo one\nfalse\necho two"), b"one\n", b"", exited(1)),
        (JobSpec::script("echo \"$#\"; cat"), b"0\n", b"", exited(0)),
        (JobSpec::command(["printf", "%s", "a b", "$HOME"]), b"a b$HOME", b"", exited(0)),
        (sh("kill -40 $$"), b"", b"", signalled(40)),
    ];
    for (spec, stdout, stderr, outcome) in cases {
        let what = format!("{spec:?}");
        let (ran, ended) = run(spec).await;
        assert_eq!((ran.stdout.as_slice(), ran.stderr.as_slice()), (stdout, stderr), "{what}");
        assert_eq!((ended, ran.starts), (outcome, 1), "{what}");
    }
}

#[tokio::test]
async fn what_cannot_be_run_says_why() {
    let mut nowhere = JobSpec::command(["true"]);
    nowhere.working_directory = Some("/no/such/place".into());
    for (spec, reason) in [
        (JobSpec::command(["no-such-program"]), "cannot run \"no-such-program\": No such file"),
        (JobSpec::command(["/etc/passwd"]), "cannot run \"/etc/passwd\": Permission denied"),
        (nowhere, "working directory \"/no/such/place\": No such file"),
    ] {
        let (ran, outcome) = run(spec).await;
        let Outcome::NotRun { reason: given } = outcome else { panic!("{outcome}") };
        assert!(given.starts_with(reason), "{given}");
        assert_eq!(ran.starts, 0);
    }
}

#[tokio::test]
async fn the_environment_is_built_from_nothing() {
    let mut spec = JobSpec::command(["env"]);
    spec.env.insert("GREETING".into(), "hola\nmundo".into());
    spec.env.insert("LANG".into(), "es".into());
    let (ran, _) = run(spec).await;
    let text = String::from_utf8(ran.stdout).unwrap();
    let mut names: Vec<_> = text.lines().filter_map(|line| line.split_once('=')).collect();
    names.sort_unstable();
    let names: Vec<_> = names.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["GREETING", "HODEI_ATTEMPT", "HODEI_JOB_ID", "HOME", "LANG", "PATH"]);
    assert!(text.contains("GREETING=hola\nmundo\n") && text.contains("LANG=es\n"), "{text}");
    assert!(text.contains("HODEI_ATTEMPT=2\n"), "{text}");
}

#[tokio::test]
async fn large_output_comes_whole_and_in_order() {
    let (ran, _) = run(JobSpec::command(["seq", "1", "750000"])).await;
    let expected: String = (1..=750_000).map(|n| format!("{n}\n")).collect();
    assert!(ran.stdout == expected.as_bytes(), "{} of {}", ran.stdout.len(), expected.len());
    assert!(ran.largest <= 64 << 10, "{}", ran.largest);
    let (ran, _) = run(sh("head -c 1048576 /dev/zero | tr '\\0' x")).await;
    assert_eq!(ran.stdout, vec![b'x'; 1 << 20]);
}

#[tokio::test]
async fn a_large_script_is_run() {
    let filler = "# filler\n".repeat(100_000);
    let (ran, outcome) = run(JobSpec::script(format!("{filler}echo done"))).await;
    assert_eq!((ran.stdout.as_slice(), outcome), (&b"done\n"[..], exited(0)));
}

#[tokio::test]
async fn children_that_hold_the_pipe_do_not_hold_the_result() {
    let started = std::time::Instant::now();
    let (ran, outcome) = run(sh("sleep 1000 & echo $!")).await;
    assert_eq!(outcome, exited(0));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    await_gone(&ran.stdout).await;
}

#[tokio::test]
async fn cancelling_kills_the_whole_tree_after_the_grace() {
    let home = tempfile::tempdir().unwrap();
    for (grace, script) in [
        (Duration::from_secs(10), "sleep 1000 & echo $!; wait"),
        (Duration::from_millis(200), "trap '' TERM; sleep 1000 & echo $!; wait; wait"),
        (Duration::ZERO, "sleep 1000 & echo $!; wait"),
    ] {
        let mut execution = start(sh(script), home.path());
        let pid = loop {
            match within("output", execution.next()).await {
                Some(Event::Output { data, .. }) => break data,
                event => assert!(matches!(event, Some(Event::Started(_))), "{event:?}"),
            }
        };
        let started = std::time::Instant::now();
        execution.stop(Stop { grace, cause: StopCause::Cancelled });
        assert_eq!(end_of(&mut execution).await.1, Outcome::Cancelled);
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        await_gone(&pid).await;
    }
}

#[tokio::test]
async fn an_end_of_its_own_stands_against_a_late_cancel() {
    let home = tempfile::tempdir().unwrap();
    let mut execution = start(sh("exit 3"), home.path());
    // Nothing is taken after the start, so the command ends while its owner does not look.
    let started = within("the start", execution.next()).await;
    assert!(matches!(started, Some(Event::Started(_))), "{started:?}");
    let ended = within("the end", execution.next()).await;
    execution.stop(Stop { grace: Duration::ZERO, cause: StopCause::Cancelled });
    assert!(matches!(ended, Some(Event::Ended { ref outcome, .. }) if *outcome == Some(exited(3))));
}

#[tokio::test]
async fn a_dropped_execution_kills_its_command() {
    let home = tempfile::tempdir().unwrap();
    let mut execution = start(sh("echo $$; exec sleep 1000"), home.path());
    let pid = loop {
        if let Some(Event::Output { data, .. }) = within("output", execution.next()).await {
            break data;
        }
    };
    drop(execution);
    await_gone(&pid).await;
}

/// Waits until the process whose id was printed is gone, or only waits for its parent to notice.
async fn await_gone(printed: &[u8]) {
    let pid = String::from_utf8(printed.to_vec()).unwrap();
    let stat = format!("/proc/{}/stat", pid.trim());
    let gone = async {
        let mut look = tokio::time::interval(Duration::from_millis(10));
        loop {
            look.tick().await;
            match std::fs::read_to_string(&stat) {
                Ok(text) if !text.contains(") Z ") => {}
                _ => break,
            }
        }
    };
    within(&format!("the end of process {}", pid.trim()), gone).await;
}

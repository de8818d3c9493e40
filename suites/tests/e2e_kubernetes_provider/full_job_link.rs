//! A job that writes while its worker's link to the server is cut: what was written meanwhile, or how
//! much of it is missing.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::Result;
use hodei_harness::case::{CaseEnv, CaseOptions, Output, run_case_with};
use hodei_harness::link_proxy::Way;
use hodei_harness::wait::{Observed, await_until};
use hodei_proto::v1::{JobState, LogGapCause, attempt_outcome::How};
use kube::api::LogParams;

use crate::pods::{pods, worker_of};

/// From submit to the byte that cuts the link.
const CUT_DEADLINE: Duration = Duration::from_secs(90);
/// An agent notices a dead link within ten seconds.
const NOTICED_DEADLINE: Duration = Duration::from_secs(30);
/// The same, and half a minute for which a job waits before its output is dropped.
const DROPPED_DEADLINE: Duration = Duration::from_secs(90);
/// What the agent says then.
const DROPPED: &str = "output is dropped from here on";

/// Lines of 100 bytes, as `seq -f %099.0f` writes them.
fn numbered(lines: RangeInclusive<usize>) -> String {
    lines.map(|line| format!("{line:099}\n")).collect()
}

/// Waits until the link is held by what the job wrote, and then cuts it in both directions.
async fn await_cut(env: &CaseEnv) -> Result<()> {
    let link = env.link_proxy()?;
    let cut = await_until("a link cut by output", CUT_DEADLINE, async || {
        Ok(match link.is_held() {
            true => Observed::Ready(()),
            false => Observed::NotYet(format!("sound, {} connections", link.connections())),
        })
    });
    cut.await?;
    link.partition();
    Ok(())
}

/// Waits until the agent takes its link for lost and makes another.
async fn await_noticed(env: &CaseEnv) -> Result<()> {
    let link = env.link_proxy()?;
    let before = link.connections();
    let noticed = await_until("the agent to connect again", NOTICED_DEADLINE, async || {
        Ok(match link.connections() {
            now if now > before => Observed::Ready(()),
            now => Observed::NotYet(format!("{now} connections")),
        })
    });
    Ok(noticed.await?)
}

/// Waits until the agent of a job says that it drops output.
async fn await_dropping(env: &CaseEnv, job: &str) -> Result<()> {
    let pod = format!("hodei-worker-{}", worker_of(&env.job(job).await?)?);
    let dropping = await_until("an agent that drops output", DROPPED_DEADLINE, async || {
        Ok(match pods(env).logs(&pod, &LogParams::default()).await {
            Ok(log) if log.contains(DROPPED) => Observed::Ready(()),
            Ok(log) => Observed::NotYet(log),
            Err(error) => Observed::NotYet(error.to_string()),
        })
    });
    Ok(dropping.await?)
}

/// Every byte of `written` is there, in its place, or counted in a record in its place. Answers with how
/// many records there are.
fn assert_no_silent_hole(output: &Output, written: &[u8]) -> usize {
    let contiguous: Vec<u64> = (1..=output.frames.len() as u64).collect();
    assert_eq!(output.sequences(), contiguous);
    let (mut at, mut gaps) = (0, 0);
    for (_, frame) in &output.frames {
        let rest = written.get(at..).unwrap_or_default();
        assert!(rest.starts_with(&frame.data), "frame {} is not byte {at} on", frame.sequence);
        at += frame.data.len() + frame.dropped_bytes as usize;
        assert_eq!(frame.gap.is_some(), frame.dropped_bytes > 0, "frame {}", frame.sequence);
        if let Some(gap) = &frame.gap {
            gaps += 1;
            assert!(frame.data.is_empty() && gap.frames > 0 && gap.since.is_some(), "{gap:?}");
            assert_eq!(gap.cause(), LogGapCause::SpoolFull);
        }
    }
    assert_eq!(at, written.len(), "bytes that came or are said to be lost");
    gaps
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_link_cut_amid_output() {
    const FAST: usize = 5_000;
    const ALL: usize = 5_150;
    // The worker is not to be taken for lost.
    let options = CaseOptions::new().link_proxy().server_argument("--lease-seconds", "60");
    run_case_with("full-job.link-cut", options, async |env| {
        env.link_proxy()?.hold_after(Way::ToServer, 256 << 10);
        let slowly = format!("for i in $(seq {} {ALL}); do printf '%099d\\n' $i", FAST + 1);
        let script = format!("seq -f %099.0f 1 {FAST}; {slowly}; sleep 0.1; done");
        let job = env.submit_script(&script).await?;
        await_cut(env).await?;
        await_noticed(env).await?;
        assert_eq!(env.job(&job.id).await?.state(), JobState::Running);
        env.link_proxy()?.heal();
        let output = env.job_output(&job.id).await?;
        assert_eq!(assert_no_silent_hole(&output, numbered(1..=ALL).as_bytes()), 0, "records");
        let job = env.await_job_state(&job.id, JobState::Succeeded).await?;
        assert_eq!(job.attempts.len(), 1);
        let sessions = env.server_log()?.matches("session opened").count();
        assert!(sessions >= 2, "the link that was cut was not opened again");
        Ok(env.await_gone().await?)
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_spool_overflows_and_says_so() {
    /// 40 MB: more than window and spool hold together.
    const LINES: usize = 400_000;
    const WINDOW: usize = 16 << 20;
    let options = CaseOptions::new()
        .link_proxy()
        .provider("tmp_size", "8Mi")
        .server_argument("--lease-seconds", "300")
        .deadline(Duration::from_secs(300));
    run_case_with("full-job.spool-gap", options, async |env| {
        env.link_proxy()?.hold_after(Way::ToServer, 1 << 20);
        let job = env.submit_script(&format!("seq -f %099.0f 1 {LINES}; exit 7")).await?;
        await_cut(env).await?;
        await_dropping(env, &job.id).await?;
        env.link_proxy()?.heal();
        let job = env.await_job_state(&job.id, JobState::Failed).await?;
        assert_eq!(job.outcome.and_then(|outcome| outcome.how), Some(How::ExitCode(7)));
        assert_eq!(job.attempts.len(), 1);
        let output = env.job_output(&job.id).await?;
        let written = numbered(1..=LINES);
        assert_eq!(assert_no_silent_hole(&output, written.as_bytes()), 1, "records");
        assert!(output.stdout_bytes().len() > WINDOW, "less came than the agent holds in memory");
        Ok(env.await_gone().await?)
    });
}

//! Output as it was written: every byte, once, in order, whatever its form and however much.

use anyhow::{Context, Result};
use futures::StreamExt;
use hodei_harness::case::{CaseEnv, run_case};
use hodei_proto::v1::{JobState, StreamLogsRequest};

/// 50 MiB in lines of 100 bytes.
const LINES: usize = (50 << 20) / 100;

async fn stdout_of(env: &CaseEnv, script: &str) -> Result<Vec<u8>> {
    let job = env.submit_script(script).await?;
    let output = env.job_output(&job.id).await?;
    assert!(output.frames.iter().all(|(_, frame)| frame.dropped_bytes == 0));
    env.await_job_state(&job.id, JobState::Succeeded).await?;
    Ok(output.stdout_bytes())
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_output_of_every_form() {
    run_case("full-job.output-forms", async |env| {
        let (bytes, line, unended, empty) = tokio::try_join!(
            stdout_of(env, r"printf 'a\377\376\000\200z\n\303'"),
            stdout_of(env, "head -c 1048576 /dev/zero | tr '\\0' x; echo; echo after"),
            stdout_of(env, "printf 'no end'"),
            stdout_of(env, "true"),
        )?;
        assert_eq!(bytes, b"a\xff\xfe\x00\x80z\n\xc3", "bytes that are no UTF-8");
        let (long, rest) = line.split_at_checked(1 << 20).context("a line of 1 MiB")?;
        assert!(long.iter().all(|byte| *byte == b'x') && rest == b"\nafter\n");
        assert_eq!(unended, b"no end", "nothing is added");
        assert_eq!(empty, b"", "nothing at all");
        Ok(env.await_gone().await?)
    });
}

/// Both streams, each whole and in order, and between the two the order in which they were read.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_streams_apart_and_in_order() {
    run_case("full-job.streams", async |env| {
        let text =
            "for i in 1 2 3 4 5 6 7 8; do echo out $i; sleep 0.1; echo err $i >&2; sleep 0.1; done";
        let job = env.submit_script(text).await?;
        let output = env.job_output(&job.id).await?;
        env.await_job_state(&job.id, JobState::Succeeded).await?;
        let expected = |what: &str| (1..=8).map(|i| format!("{what} {i}\n")).collect::<String>();
        assert_eq!((output.stdout(), output.stderr()), (expected("out"), expected("err")));
        let written: Vec<u8> =
            output.frames.iter().flat_map(|(_, frame)| frame.data.iter().copied()).collect();
        let order = (1..=8).map(|i| format!("out {i}\nerr {i}\n")).collect::<String>();
        assert_eq!(String::from_utf8(written)?, order, "as they were written");
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_fifty_mebibytes_of_output() {
    run_case("full-job.output-50-mib", async |env| {
        let job = env.submit_script(&format!("seq -f %099.0f 1 {LINES}")).await?;
        let request =
            StreamLogsRequest { job_id: job.id.clone(), follow: true, ..Default::default() };
        let mut stream = env.clients()?.logs().stream(request).await?.into_inner();
        let (mut line, mut lines, mut sequence) = (Vec::with_capacity(100), 0, 0);
        while let Some(part) = stream.next().await {
            for frame in part?.frames {
                sequence += 1;
                assert_eq!(frame.sequence, sequence, "each frame once and in order");
                for byte in &frame.data {
                    line.push(*byte);
                    if *byte == b'\n' {
                        lines += 1;
                        let expected = format!("{lines:099}\n");
                        assert_eq!(String::from_utf8_lossy(&line), expected, "line {lines}");
                        line.clear();
                    }
                }
            }
        }
        assert_eq!((lines, line.len()), (LINES, 0), "every line");
        let job = env.await_job_state(&job.id, JobState::Succeeded).await?;
        assert_eq!(job.attempts.len(), 1);
        Ok(env.await_gone().await?)
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_output_outlives_the_pod() {
    run_case("full-job.output-kept", async |env| {
        let text = "for i in $(seq 1 30); do echo line $i; sleep 0.05; done";
        let job = env.submit_script(text).await?;
        let (one, other) =
            tokio::join!(env.job_output_from(&job.id, 0, 0), env.job_output_from(&job.id, 1, 5),);
        let (whole, live) = (one?, other?);
        let expected = (1..=30).map(|i| format!("line {i}\n")).collect::<String>();
        assert_eq!(whole.stdout(), expected);
        assert_eq!(live.frames, whole.frames[4..], "one that came to it at the fifth frame");
        env.await_job_state(&job.id, JobState::Succeeded).await?;
        env.await_gone().await?;
        let last = whole.frames.len() as u64;
        assert!(last >= 5, "{last} frames");
        for from in [0, 1, 2, last / 2, last, last + 1] {
            let (one, other) = tokio::join!(
                env.job_output_from(&job.id, 1, from),
                env.job_output_from(&job.id, 1, from),
            );
            let (one, other) = (one?, other?);
            let passed_over = usize::try_from(from.saturating_sub(1))?;
            assert_eq!(one.frames, whole.frames[passed_over..], "from {from}");
            assert_eq!(one, other, "two who read the same, from {from}");
        }
        Ok(())
    });
}

//! Many short jobs on pooled workers, while the server is killed again and again and Postgres
//! crashes: what was promised to a client is kept. This case runs alone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use hodei_harness::case::{CaseEnv, CaseOptions, Clients, is_final, pod_ready, run_case_with};
use hodei_proto::v1::{
    GetJobRequest, Job, JobSpec, JobState, LogFrame, RetryPolicy, StreamLogsRequest,
    SubmitJobRequest, job_spec,
};
use kube::ResourceExt;
use kube::api::LogParams;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use crate::pods::{assert_no_strays, pods};

const JOBS: usize = 1_000;
/// Lines that each job writes.
const LINES: usize = 20;
/// Workers of the pool, all the time.
const WORKERS: usize = 8;
/// Clients that each wait for a job at a time.
const CLIENTS: usize = 32;
/// From one SIGKILL of the server to the next.
const KILL_EVERY: Duration = Duration::from_secs(20);
/// When Postgres crashes: at these shares of the jobs, in thousandths.
const CRASHES: [usize; 2] = [333, 666];
/// Half of it would do on a quiet machine.
const DEADLINE: Duration = Duration::from_secs(900);
/// One client's patience with one job.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two questions of a client, and before it tries again.
const PAUSE: Duration = Duration::from_millis(250);

/// What a job writes: who it is, how often this very line came, and nothing that another would.
fn script() -> String {
    format!(
        "i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo \"$HODEI_JOB_ID $i\"; done; sleep 1"
    )
}

/// Asks again while the server or its database is away, as a client should.
async fn persist<T>(ask: impl AsyncFn() -> Result<T, Status>) -> Result<T> {
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            // What a client sees of a server that was killed in the middle of an answer.
            Err(status)
                if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled) =>
            {
                sleep(PAUSE).await;
            }
            Err(status) => bail!("{status}"),
        }
    }
}

async fn submit(clients: &Clients, index: usize) -> Result<Job> {
    let run = Some(job_spec::Run::Script(script()));
    // No retry may hide a loss.
    let retry = Some(RetryPolicy { infrastructure: Some(0), command: Some(0) });
    let request = SubmitJobRequest {
        spec: Some(JobSpec { run, retry, ..Default::default() }),
        idempotency_key: format!("soak-{index}"),
        ..Default::default()
    };
    let answer = persist(async || clients.jobs().submit(request.clone()).await).await?;
    answer.into_inner().job.context("the answer holds no job")
}

async fn await_end(clients: &Clients, id: &str) -> Result<Job> {
    loop {
        let request = GetJobRequest { id: id.to_owned() };
        let answer = persist(async || clients.jobs().get(request.clone()).await).await?;
        let job = answer.into_inner().job.context("the answer holds no job")?;
        if is_final(job.state()) {
            return Ok(job);
        }
        sleep(PAUSE).await;
    }
}

async fn read_output(clients: &Clients, id: &str) -> Result<Vec<LogFrame>> {
    let request = StreamLogsRequest { job_id: id.to_owned(), follow: true, ..Default::default() };
    let read = async || {
        let mut stream = clients.logs().stream(request.clone()).await?.into_inner();
        let mut frames = Vec::new();
        while let Some(part) = stream.message().await? {
            frames.extend(part.frames);
        }
        Ok(frames)
    };
    persist(read).await
}

/// One client's job from its submission to its last line.
async fn run_one(clients: &Clients, index: usize) -> Result<String> {
    let job = submit(clients, index).await?;
    let job = await_end(clients, &job.id).await?;
    ensure!(job.state() == JobState::Succeeded, "job {index} ended otherwise: {job:?}");
    ensure!(job.attempts.len() == 1, "job {index} had several attempts: {job:?}");
    let frames = read_output(clients, &job.id).await?;
    let written: Vec<u8> = frames.iter().flat_map(|frame| frame.data.iter().copied()).collect();
    let expected: String = (1..=LINES).map(|line| format!("{} {line}\n", job.id)).collect();
    let written = String::from_utf8_lossy(&written);
    ensure!(written == expected, "the output of job {index} ({}) is {written:?}", job.id);
    let sequences: Vec<_> = frames.iter().map(|frame| frame.sequence).collect();
    let contiguous = sequences.iter().zip(1..).all(|(sequence, wanted)| *sequence == wanted);
    ensure!(contiguous, "the frames of job {index} are {sequences:?}");
    Ok(job.id)
}

/// Kills the server and crashes Postgres until all jobs are done; answers how often each.
async fn disturb(env: &mut CaseEnv, done: &AtomicUsize) -> Result<(usize, usize)> {
    let (mut kills, mut crashes) = (0, 0);
    let mut killed = Instant::now();
    while done.load(Ordering::Relaxed) < JOBS {
        if CRASHES.get(crashes).is_some_and(|at| done.load(Ordering::Relaxed) * 1000 >= JOBS * at) {
            env.crash_postgres().await?;
            crashes += 1;
        }
        if killed.elapsed() >= KILL_EVERY {
            env.server()?.kill().await?;
            env.server()?.start_again().await?;
            kills += 1;
            killed = Instant::now();
        }
        sleep(PAUSE).await;
    }
    Ok((kills, crashes))
}

/// How often each attempt was begun, by the agents' own logs: the one witness that the database and
/// the server can't have silenced.
async fn count_begun(env: &CaseEnv) -> Result<BTreeMap<String, usize>> {
    let mut begun = BTreeMap::new();
    for record in env.recorder().pods() {
        ensure!(!record.gone, "a pooled worker was lost: {}", record.pod.name_any());
        let log = pods(env).logs(&record.pod.name_any(), &LogParams::default()).await?;
        for line in log.lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            if line["message"] == "assigned" {
                let attempt =
                    line["attempt"].as_str().context("an assignment names its attempt")?;
                *begun.entry(attempt.to_owned()).or_default() += 1;
            }
        }
    }
    Ok(begun)
}

async fn await_pool(env: &CaseEnv) -> Result<()> {
    let ready = |record: &hodei_harness::case::PodRecord| !record.gone && pod_ready(&record.pod);
    let full = env.await_pods("the pool to be full", PATIENCE, |all| {
        (all.iter().filter(|record| ready(record)).count() == WORKERS).then_some(())
    });
    Ok(full.await?)
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_exclusive_soak() {
    let options = CaseOptions::new().pool(WORKERS, WORKERS, 3600).deadline(DEADLINE);
    run_case_with("multi-worker.soak", options, async |env| {
        await_pool(env).await?;
        let (clients, done) = (env.clients()?.clone(), AtomicUsize::new(0));
        let begin = Instant::now();
        let jobs = stream::iter(0..JOBS).map(|index| {
            let (clients, done) = (&clients, &done);
            async move {
                let id = timeout(PATIENCE, run_one(clients, index)).await;
                let id = id.with_context(|| format!("job {index} did not end in time"))??;
                done.fetch_add(1, Ordering::Relaxed);
                anyhow::Ok(id)
            }
        });
        let jobs = jobs.buffer_unordered(CLIENTS).try_collect::<Vec<_>>();
        let (ids, (kills, crashes)) = tokio::try_join!(jobs, disturb(env, &done))?;
        let seconds = begin.elapsed().as_secs_f64();
        let begun = count_begun(env).await?;
        let expected = ids.iter().map(|id| (format!("{id}#1"), 1)).collect();
        assert_eq!(begun, expected, "each job is begun once, on one worker");
        assert_eq!(crashes, CRASHES.len());
        assert!(kills > 1, "{kills} kills in {seconds} s prove nothing");
        assert_no_strays(env).await?;
        env.clients()?.delete("/api/providers/kind").await?;
        env.await_gone().await?;
        let figures = json!({"jobs": JOBS, "lines": JOBS * LINES, "seconds": seconds,
            "server_kills": kills, "postgres_crashes": crashes});
        std::fs::write(env.evidence().join("soak.json"), figures.to_string())?;
        Ok(())
    });
}

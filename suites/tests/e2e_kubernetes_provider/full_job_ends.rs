//! Ends that are not the command's own: cancelled before it ran, out of time, tried again.

use std::time::Duration;

use hodei_harness::case::{CaseOptions, command, run_case, run_case_with};
use hodei_proto::v1::{
    CancelJobRequest, JobSpec, JobState, RetryPolicy, Timeouts, attempt_outcome::How, job_spec::Run,
};
use serde_json::json;

use crate::candidate::{Candidate, pending};
use crate::pods::{NO_RETRY, pods_ever};

/// Times in seconds; 0 leaves the server's own.
fn timeouts(queue: u64, startup: u64, run: u64) -> Option<Timeouts> {
    let wire = |seconds: u64| {
        let time = (seconds > 0).then_some(Duration::from_secs(seconds));
        time.and_then(|time| time.try_into().ok())
    };
    Some(Timeouts { queue: wire(queue), startup: wire(startup), run: wire(run) })
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_cancel_queued() {
    let options = CaseOptions::new().without_provider();
    run_case_with("full-job.cancel-queued", options, async |env| {
        let job = env.submit_command(&["true"]).await?;
        let reason = "changed my mind".to_owned();
        let request = CancelJobRequest { id: job.id.clone(), reason };
        let answer = env.clients()?.jobs().cancel(request).await?.into_inner().job;
        assert_eq!(answer.map(|job| job.state()), Some(JobState::Cancelled), "at once");
        // Somebody who could run it comes too late.
        env.register_provider(hodei_harness::case::PROVIDER, &Default::default()).await?;
        let next = env.submit_command(&["true"]).await?;
        env.await_job_state(&next.id, JobState::Succeeded).await?;
        let job = env.job(&job.id).await?;
        assert_eq!((job.state(), job.attempts.len()), (JobState::Cancelled, 0));
        assert!(job.reason.contains("changed my mind"), "{}", job.reason);
        env.await_gone().await?;
        assert_eq!(pods_ever(env), 1);
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_cancel_pending() {
    run_case_with("full-job.cancel-pending", pending(), async |env| {
        let worker = Candidate::create(env).await?;
        let request = CancelJobRequest { id: worker.job.clone(), reason: "too slow".into() };
        env.clients()?.jobs().cancel(request).await?;
        let job = env.await_job_state(&worker.job, JobState::Cancelled).await?;
        assert_eq!(job.attempts.len(), 1, "no further attempt");
        env.await_gone().await?;
        assert_eq!(pods_ever(env), 1);
        let why = json!({"reason": "its job was cancelled"});
        assert_eq!(env.rows("SELECT reason FROM workers").await?, [why], "and not found later");
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_queue_timeout() {
    let options = CaseOptions::new().without_provider();
    run_case_with("full-job.timeout-queue", options, async |env| {
        let spec = JobSpec { timeouts: timeouts(2, 0, 0), ..command(&["true"]) };
        let (hasty, patient) = (env.submit(spec).await?, env.submit_command(&["true"]).await?);
        let job = env.await_job_state(&hasty.id, JobState::TimedOut).await?;
        assert!(job.reason.contains("waited in the queue for more than 2s"), "{}", job.reason);
        assert_eq!(job.attempts.len(), 0);
        assert_eq!(env.job(&patient.id).await?.state(), JobState::Queued, "only the hasty one");
        let times = "SELECT finished_at - submitted_at >= interval '2 s' AS waited FROM jobs
                     WHERE state = 'timed_out'";
        assert_eq!(env.rows(times).await?, [json!({"waited": true})]);
        crate::candidate::cancel(env, &patient.id).await
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_startup_timeout() {
    run_case_with("full-job.timeout-startup", pending(), async |env| {
        let spec =
            JobSpec { timeouts: timeouts(0, 4, 0), retry: Some(NO_RETRY), ..command(&["true"]) };
        let job = env.submit(spec).await?;
        let job = env.await_job_end(&job.id).await?;
        assert_eq!(job.state(), JobState::TimedOut, "{job:?}");
        assert!(job.reason.contains("did not register in time"), "{}", job.reason);
        let rows = env
            .rows(
                "SELECT state, failure_cause, finished_at - created_at >= interval '4 s' AS waited
                 FROM attempts",
            )
            .await?;
        let expected = json!({"state": "lost", "failure_cause": "startup_timeout", "waited": true});
        assert_eq!(rows, [expected]);
        env.await_gone().await?;
        assert_eq!(pods_ever(env), 1);
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_run_timeout() {
    run_case("full-job.timeout-run", async |env| {
        let run =
            Some(Run::Script("trap 'echo told; exit 0' TERM; echo begun; sleep 600 & wait".into()));
        let spec = JobSpec { run, timeouts: timeouts(0, 0, 2), ..Default::default() };
        let job = env.submit(spec).await?;
        let output = env.job_output(&job.id).await?;
        assert_eq!(output.stdout(), "begun\ntold\n", "its output so far, and its last words");
        let job = env.await_job_state(&job.id, JobState::TimedOut).await?;
        assert!(job.reason.contains("run time-out"), "{}", job.reason);
        assert_eq!(job.attempts.len(), 1, "one that ran out of time is not tried again");
        let times =
            "SELECT state, finished_at - started_at >= interval '2 s' AS waited FROM attempts";
        assert_eq!(env.rows(times).await?, [json!({"state": "finished", "waited": true})]);
        Ok(env.await_gone().await?)
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_retries_are_attempts() {
    run_case("full-job.retries", async |env| {
        let retry = |command| Some(RetryPolicy { infrastructure: Some(0), command: Some(command) });
        let run =
            Some(Run::Script("echo try $HODEI_ATTEMPT; test $HODEI_ATTEMPT = 3 || exit 7".into()));
        let stubborn = env.submit(JobSpec { run, retry: retry(2), ..Default::default() }).await?;
        let hopeless = env.submit(JobSpec { retry: retry(1), ..command(&["false"]) }).await?;
        let job = env.await_job_state(&stubborn.id, JobState::Succeeded).await?;
        let how = |attempt: &hodei_proto::v1::Attempt| {
            (
                attempt.epoch,
                attempt.state.clone(),
                attempt.outcome.as_ref().and_then(|o| o.how.clone()),
            )
        };
        let ended = |epoch, code| (epoch, "finished".to_owned(), Some(How::ExitCode(code)));
        let seen: Vec<_> = job.attempts.iter().map(how).collect();
        assert_eq!(seen, [ended(1, 7), ended(2, 7), ended(3, 0)]);
        let workers: std::collections::BTreeSet<_> =
            job.attempts.iter().map(|attempt| &attempt.worker_id).collect();
        assert_eq!(workers.len(), 3, "each attempt has a worker of its own");
        let output = env.job_output(&job.id).await?;
        assert_eq!(output.stdout(), "try 1\ntry 2\ntry 3\n");
        let epochs: Vec<_> = output.frames.iter().map(|(epoch, _)| *epoch).collect();
        assert_eq!(epochs, [1, 2, 3], "each attempt's output is its own");
        let job = env.await_job_state(&hopeless.id, JobState::Failed).await?;
        let seen: Vec<_> = job.attempts.iter().map(how).collect();
        assert_eq!(seen, [ended(1, 1), ended(2, 1)]);
        Ok(env.await_gone().await?)
    });
}

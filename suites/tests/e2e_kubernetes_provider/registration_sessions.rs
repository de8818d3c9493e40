//! What a session is worth: how long silence is borne, what is taken up again after a restart, and
//! how many may come at once.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use hodei_harness::case::{CaseEnv, SimulatedWorker, WorkerLink, command, run_case_with};
use hodei_harness::wait::{Observed, await_until};
use hodei_proto::v1::server_message::Message;
use hodei_proto::v1::{AttemptRef, JobSpec, JobState, RegisterRequest};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::json;
use tonic::Code;

use crate::candidate::{Candidate, PROTOCOL_VERSION, cancel, pending};
use crate::pods::{NO_RETRY, otp_of};

/// How many register at once.
const CROWD: usize = 200;
/// From the first submit to the last pod, through the provider's own limit of requests.
const CROWD_DEADLINE: Duration = Duration::from_secs(120);
/// The lease, and twice the patience of a busy machine.
const LOSS_DEADLINE: Duration = Duration::from_secs(30);

async fn begin(env: &CaseEnv) -> Result<(String, SimulatedWorker, WorkerLink, AttemptRef)> {
    let spec = JobSpec { retry: Some(NO_RETRY), ..command(&["true"]) };
    let candidate = Candidate::create_for(env, spec).await?;
    let mut worker = candidate.simulate(env).await?;
    let (link, attempt) = worker.begin().await?;
    env.await_job_state(&candidate.job, JobState::Running).await?;
    Ok((candidate.job, worker, link, attempt))
}

/// Two workers with open streams: one goes on beating, the other falls silent.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_silent_worker_is_lost() {
    let options = pending().server_argument("--lease-seconds", "4");
    run_case_with("registration.heartbeat-loss", options, async |env| {
        let (loud, _, mut beating, attempt) = begin(env).await?;
        let (silent, worker, _open, _) = begin(env).await?;
        assert_eq!(worker.registered.lease.map(|lease| lease.seconds), Some(4));
        let what = "the silent worker to be lost";
        let lost = await_until(what, LOSS_DEADLINE, async || {
            beating.beat().await?;
            let job = env.job(&silent).await?;
            let over = job.state() == JobState::Failed;
            Ok(if over { Observed::Ready(job) } else { Observed::NotYet(format!("{job:?}")) })
        })
        .await?;
        assert!(lost.reason.contains("nothing was heard of the worker for 4s"), "{}", lost.reason);
        let rows = env
            .rows(
                "SELECT a.failure_cause, a.finished_at - a.started_at >= interval '4 s' AS waited,
                    a.finished_at - a.started_at < interval '12 s' AS in_time
                 FROM attempts a WHERE a.state = 'lost'",
            )
            .await?;
        let expected = json!({"failure_cause": "lease_expired", "waited": true, "in_time": true});
        assert_eq!(rows, [expected], "one is lost, after the configured time");
        assert_eq!(env.job(&loud).await?.state(), JobState::Running, "who beats is not");
        assert!(beating.end(&attempt, 0, 0).await?);
        env.await_job_state(&loud, JobState::Succeeded).await?;
        Ok(env.await_gone().await?)
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_session_outlives_the_server() {
    run_case_with("registration.session-resumed", pending(), async |env| {
        let (job, mut worker, mut link, attempt) = begin(env).await?;
        link.print(&attempt, 1..=3).await?;
        link.await_durable(3).await?;
        env.server()?.kill().await?;
        env.server()?.start_again().await?;
        let wrong = "0".repeat(64);
        let refused = worker.with_token(&wrong).open(Some(attempt.clone())).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
        let mut again = worker.open(Some(attempt.clone())).await?;
        assert_eq!(again.welcome.acked_sequence, 3, "it goes on after what is durable");
        assert!(!again.welcome.attempt_revoked);
        // What is not known to be durable is sent again, and is not stored twice.
        again.print(&attempt, 3..=5).await?;
        again.await_durable(5).await?;
        assert!(again.end(&attempt, 0, 5).await?);
        let ended = env.await_job_state(&job, JobState::Succeeded).await?;
        assert_eq!(ended.attempts.len(), 1);
        let output = env.job_output(&job).await?;
        assert_eq!(output.stdout(), "line 1\nline 2\nline 3\nline 4\nline 5\n");
        assert_eq!(output.sequences(), [1, 2, 3, 4, 5]);
        let audit = env.rows("SELECT kind, reason FROM audit_events").await?;
        assert_eq!(audit, [json!({"kind": "session_refused", "reason": "wrong secret"})]);
        let shown = env.server_log()?;
        assert!(!shown.contains(&worker.registered.session_token) && !shown.contains(&wrong));
        Ok(env.await_gone().await?)
    });
}

/// Of two streams of one session the later one counts: the earlier is an agent's dead link.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_later_stream_fences_the_earlier() {
    run_case_with("registration.later-stream", pending(), async |env| {
        let (job, mut worker, mut earlier, attempt) = begin(env).await?;
        let mut later = worker.open(Some(attempt.clone())).await?;
        let nothing = |_: Message| None::<()>;
        let ended = earlier.await_message("the end of the earlier stream", nothing).await;
        let ended = ended.unwrap_err().source.to_string();
        assert!(ended.contains("this stream is over"), "{ended}");
        assert!(later.end(&attempt, 0, 0).await?);
        let job = env.await_job_state(&job, JobState::Succeeded).await?;
        assert_eq!(job.attempts.len(), 1);
        Ok(())
    });
}

/// Everybody who waits for a first word gets it, each a session of its own.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_crowd_registers() {
    let options = pending().pod_quota(250);
    run_case_with("registration.crowd", options, async |env| {
        let submitted = (0..CROWD).map(|_| env.submit_command(&["true"]));
        let jobs = try_join_all(submitted).await?;
        let made = |pods: &[hodei_harness::case::PodRecord]| (pods.len() == CROWD).then_some(());
        env.await_pods("a pod for each of them", CROWD_DEADLINE, made).await?;
        let everybody = candidates(env).await?;
        assert_eq!(everybody.len(), CROWD);
        let agent = env.clients()?.agent();
        let sessions = try_join_all(
            everybody.into_iter().map(|request| SimulatedWorker::register(agent.clone(), request)),
        )
        .await?;
        let tokens = sessions.iter().map(|worker| &worker.registered.session_token);
        let distinct: std::collections::BTreeSet<_> = tokens.collect();
        assert_eq!(distinct.len(), CROWD, "each has a session of its own");
        let registered = "SELECT count(*) AS n FROM workers WHERE registered_at IS NOT NULL";
        assert_eq!(env.rows(registered).await?, [json!({"n": CROWD})]);
        try_join_all(jobs.iter().map(|job| cancel(env, &job.id))).await?;
        let none = |pods: &[hodei_harness::case::PodRecord]| {
            pods.iter().all(|record| record.gone).then_some(())
        };
        Ok(env.await_pods("every pod to be gone", CROWD_DEADLINE, none).await?)
    });
}

/// What each worker's agent would register with, in two requests.
async fn candidates(env: &CaseEnv) -> Result<Vec<RegisterRequest>> {
    let every = ListParams::default();
    let secrets = Api::<Secret>::namespaced(env.kube(), env.namespace()).list(&every).await?;
    let pods = Api::<Pod>::namespaced(env.kube(), env.namespace()).list(&every).await?;
    let request = |secret: Secret| {
        let name = secret.name_any();
        let name = name.strip_suffix("-otp").context("a Secret of another kind")?.to_owned();
        let pod = pods.iter().find(|pod| pod.name_any() == name).context("a pod of the Secret")?;
        let worker = name.strip_prefix("hodei-worker-").context("a worker's name")?;
        Ok(RegisterRequest {
            worker_id: worker.to_owned(),
            otp: otp_of(secret)?,
            protocol_version: PROTOCOL_VERSION,
            pod_uid: pod.uid().unwrap_or_default(),
            agent_version: "e2e".into(),
        })
    };
    secrets.into_iter().map(request).collect()
}

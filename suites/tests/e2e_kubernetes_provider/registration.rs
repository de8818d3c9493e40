//! One-time passwords, with a simulated worker: the real pod is kept pending by a node selector
//! that no node has, and its Secret is read as an administrator.

use anyhow::{Context, Result};
use futures::StreamExt;
use hodei_harness::case::{CaseEnv, CaseOptions, pod_ready, run_case_with};
use hodei_harness::run_dir::RUN_LABEL;
use hodei_proto::v1::{CancelJobRequest, JobState, RegisterRequest, RegisterResponse};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, LogParams, WatchEvent, WatchParams};
use serde_json::json;
use tonic::Code;

use crate::pods::{otp_of, pods, read_otp, worker_of};

/// The version that `hodei-worker` speaks.
const PROTOCOL_VERSION: u32 = 1;

/// A worker that has not registered.
struct Candidate {
    job: String,
    worker: String,
    otp: String,
    pod_uid: String,
}

fn pending() -> CaseOptions {
    CaseOptions::new().provider("node_selector", json!({RUN_LABEL: "nowhere"}))
}

impl Candidate {
    async fn create(env: &CaseEnv) -> Result<Self> {
        let job = env.submit_command(&["true"]).await?;
        let asked = |job: &hodei_proto::v1::Job| !job.attempts.is_empty();
        let deadline = std::time::Duration::from_secs(30);
        let job = env.await_job(&job.id, "given a worker", deadline, asked).await?;
        let worker = worker_of(&job)?;
        let name = format!("hodei-worker-{worker}");
        let pod = env.await_pod("the worker's pod", |record| record.pod.name_any() == name).await?;
        let otp = read_otp(env, &worker).await?;
        Ok(Self { job: job.id, worker, otp, pod_uid: pod.uid().unwrap_or_default() })
    }

    fn request(&self) -> RegisterRequest {
        RegisterRequest {
            worker_id: self.worker.clone(),
            otp: self.otp.clone(),
            protocol_version: PROTOCOL_VERSION,
            pod_uid: self.pod_uid.clone(),
            agent_version: "e2e".into(),
        }
    }
}

async fn register(
    env: &CaseEnv,
    request: RegisterRequest,
) -> Result<Result<RegisterResponse, tonic::Status>> {
    Ok(env.clients()?.agent().register(request).await.map(tonic::Response::into_inner))
}

async fn cancel(env: &CaseEnv, job: &str) -> Result<()> {
    let request = CancelJobRequest { id: job.to_owned(), reason: "the case is over".into() };
    env.clients()?.jobs().cancel(request).await?;
    env.await_job_end(job).await?;
    Ok(())
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_good_otp_registers() {
    run_case_with("registration.good-otp", pending(), async |env| {
        let worker = Candidate::create(env).await?;
        let session = register(env, worker.request()).await??;
        assert_eq!(session.session_token.len(), 64);
        assert!(session.session_token != worker.otp);
        assert!(session.heartbeat_interval.is_some() && session.lease.is_some());
        let rows = env.rows("SELECT registered_at IS NOT NULL AS registered FROM workers").await?;
        assert_eq!(rows, [json!({"registered": true})]);
        cancel(env, &worker.job).await
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_otp_works_once() {
    run_case_with("registration.replayed-otp", pending(), async |env| {
        let worker = Candidate::create(env).await?;
        register(env, worker.request()).await??;
        let twin = RegisterRequest {
            pod_uid: "00000000-0000-4000-8000-000000000000".into(),
            ..worker.request()
        };
        let refused = register(env, twin).await?.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
        assert!(!refused.message().contains(&worker.otp));
        cancel(env, &worker.job).await
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_bad_otp_refused() {
    run_case_with("registration.bad-otp", pending(), async |env| {
        let (one, other) = (Candidate::create(env).await?, Candidate::create(env).await?);
        let wrong = if one.otp.starts_with('0') { "1" } else { "0" }.to_owned() + &one.otp[1..];
        let unknown = "01890000-0000-7000-8000-000000000000".to_owned();
        let refusals = [
            ("wrong", RegisterRequest { otp: wrong, ..one.request() }),
            ("another worker's", RegisterRequest { otp: other.otp.clone(), ..one.request() }),
            ("unknown worker", RegisterRequest { worker_id: unknown, ..one.request() }),
        ];
        for (what, request) in refusals {
            let refused = register(env, request).await?.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{what}: {refused}");
        }
        for (what, otp) in [("empty", String::new()), ("oversized", "a".repeat(1 << 16))] {
            let refused =
                register(env, RegisterRequest { otp, ..one.request() }).await?.unwrap_err();
            let code = refused.code();
            assert!(
                matches!(code, Code::Unauthenticated | Code::InvalidArgument),
                "{what}: {refused}"
            );
        }
        let audited = env.rows("SELECT count(*) AS n FROM audit_events").await?;
        assert!(audited[0]["n"].as_u64() >= Some(3), "{audited:?}");
        let session = register(env, one.request()).await?;
        assert!(session.is_ok(), "refusals must not use up the good one: {session:?}");
        cancel(env, &one.job).await?;
        cancel(env, &other.job).await?;
        Ok(env.await_gone().await?)
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_protocol_version_refused() {
    run_case_with("registration.protocol-version", pending(), async |env| {
        let worker = Candidate::create(env).await?;
        for version in [0, PROTOCOL_VERSION + 998] {
            let request = RegisterRequest { protocol_version: version, ..worker.request() };
            let refused = register(env, request).await?.unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition, "version {version}: {refused}");
            assert!(refused.message().contains("version"), "{refused}");
        }
        cancel(env, &worker.job).await
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_credentials_appear_nowhere() {
    run_case_with("registration.no-credential-shown", pending(), async |env| {
        let worker = Candidate::create(env).await?;
        let mistaken = RegisterRequest { worker_id: "x".into(), ..worker.request() };
        assert!(register(env, mistaken).await?.is_err());
        let session = register(env, worker.request()).await??;
        cancel(env, &worker.job).await?;
        let database = env
            .rows("SELECT to_jsonb(w) AS w, to_jsonb(a) AS a FROM workers w, audit_events a")
            .await?;
        let places = [
            ("the server's log", env.server_log()?),
            ("pods and events", std::fs::read_to_string(env.recorder().timeline())?),
            ("the database", format!("{database:?}")),
            ("the metrics", env.clients()?.text("/metrics").await?),
        ];
        for (place, text) in places {
            assert!(!text.contains(&worker.otp), "the one-time password is in {place}");
            assert!(!text.contains(&session.session_token), "the session token is in {place}");
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_agent_shows_no_credential() {
    run_case_with("registration.agent-shows-no-credential", CaseOptions::new(), async |env| {
        let secrets = Api::<Secret>::namespaced(env.kube(), env.namespace());
        let mut made = secrets.watch(&WatchParams::default(), "0").await?.boxed();
        // The job looks where a job could look, and stays until it is cancelled.
        let look = "env; for p in /proc/[0-9]*; do tr '\\0' '\\n' < $p/environ; cat $p/cmdline; done 2>&1 || true; \
                    find /tmp /workspace /var/run -type f -exec cat {} + 2>&1 || true; echo looked; sleep 600";
        let job = env.submit_script(&format!("set +e; {look}")).await?;
        let otp = loop {
            let event = made.next().await.context("the watch of Secrets ended")??;
            if let WatchEvent::Added(secret) = event
                && secret.name_any().ends_with("-otp")
            {
                break otp_of(secret)?;
            }
        };
        env.await_job_state(&job.id, JobState::Running).await?;
        let output = env.await_output(&job.id, "looked").await?;
        let name = format!("hodei-worker-{}", worker_of(&env.job(&job.id).await?)?);
        // The kubelet tells of a start later than the agent itself does, and serves no log before.
        env.await_pod("the agent's container running", |record| {
            record.pod.name_any() == name && pod_ready(&record.pod)
        })
        .await?;
        let agent_log = pods(env).logs(&name, &LogParams::default()).await?;
        assert!(agent_log.contains("registered"), "the agent's log: {agent_log}");
        cancel(env, &job.id).await?;
        let places = [
            ("the job's output", output),
            ("the agent's log", agent_log),
            ("the server's log", env.server_log()?),
            ("pods and events", std::fs::read_to_string(env.recorder().timeline())?),
        ];
        for (place, text) in places {
            assert!(!text.contains(&otp), "the one-time password is in {place}");
        }
        Ok(env.await_gone().await?)
    });
}

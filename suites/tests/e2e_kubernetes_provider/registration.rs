//! One-time passwords, with a simulated worker in place of the agent.

use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use hodei_harness::case::{CaseOptions, pod_ready, run_case_with};
use hodei_harness::wait::{Observed, await_until};
use hodei_proto::v1::{JobState, RegisterRequest};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, LogParams, WatchEvent, WatchParams};
use serde_json::{Value, json};
use tonic::Code;

use crate::candidate::{Candidate, PROTOCOL_VERSION, cancel, pending, register};
use crate::pods::{otp_of, pods, worker_of};

/// From submit to a password whose second is over, on a busy two-core machine.
const EXPIRY_DEADLINE: Duration = Duration::from_secs(60);
/// What was refused, in order.
const AUDIT: &str = "SELECT kind, reason FROM audit_events ORDER BY id";

fn audited(kind: &str, reason: &str) -> Value {
    json!({"kind": kind, "reason": reason})
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
        let again = register(env, worker.request()).await?.unwrap_err();
        assert_eq!(again.code(), Code::Unauthenticated, "the same worker id twice: {again}");
        let replayed = audited("registration_refused", "replayed");
        assert_eq!(env.rows(AUDIT).await?, [replayed.clone(), replayed]);
        assert!(!env.server_log()?.contains(&worker.otp));
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
        let foreign = "00000000-0000-4000-8000-000000000000".to_owned();
        let refusals = [
            ("wrong secret", RegisterRequest { otp: wrong.clone(), ..one.request() }),
            ("wrong secret", RegisterRequest { otp: other.otp.clone(), ..one.request() }),
            ("unknown worker", RegisterRequest { worker_id: unknown, ..one.request() }),
            ("foreign pod", RegisterRequest { pod_uid: foreign, ..one.request() }),
            ("malformed", RegisterRequest { otp: String::new(), ..one.request() }),
            ("malformed", RegisterRequest { otp: "a".repeat(1 << 16), ..one.request() }),
        ];
        for (reason, request) in &refusals {
            let refused = register(env, request.clone()).await?.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{reason}: {refused}");
            assert_eq!(refused.message(), "one-time password refused", "{reason}: it tells why");
        }
        let expected: Vec<_> =
            refusals.iter().map(|(reason, _)| audited("registration_refused", reason)).collect();
        assert_eq!(env.rows(AUDIT).await?, expected);
        let log = env.server_log()?;
        for otp in [&wrong, &other.otp, &one.otp] {
            assert!(!log.contains(otp), "a refused password is in the server's log");
        }
        let session = register(env, one.request()).await?;
        assert!(session.is_ok(), "refusals must not use up the good one: {session:?}");
        cancel(env, &one.job).await?;
        cancel(env, &other.job).await?;
        Ok(env.await_gone().await?)
    });
}

/// The agent is sent to an address where nobody is, so that its password stays unused.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_expired_otp_refused() {
    let options = CaseOptions::new()
        .server_argument("--otp-ttl-seconds", "1")
        .server_argument("--advertised-address", "http://host.docker.internal:1");
    run_case_with("registration.expired-otp", options, async |env| {
        let worker = Candidate::create(env).await?;
        let clock = "SELECT scheduled_at IS NOT NULL AS scheduled,
                        otp_expires_at - scheduled_at = interval '1 s' AS counted,
                        otp_expires_at <= now() AS expired FROM workers";
        let over = json!({"scheduled": true, "counted": true, "expired": true});
        await_until("the password to expire", EXPIRY_DEADLINE, async || {
            let row = env.rows(clock).await?.remove(0);
            let early = row["scheduled"] == false && row["expired"] == true;
            assert!(!early, "its clock began before its worker was on a node");
            Ok(if row == over { Observed::Ready(()) } else { Observed::NotYet(row.to_string()) })
        })
        .await?;
        let refused = register(env, worker.request()).await?.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
        assert_eq!(env.rows(AUDIT).await?, [audited("registration_refused", "expired")]);
        assert!(!env.server_log()?.contains(&worker.otp));
        cancel(env, &worker.job).await
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

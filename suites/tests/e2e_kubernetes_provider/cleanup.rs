//! Nothing stays behind, however a worker ends.

use hodei_harness::case::{CaseOptions, command, pod_terminated, run_case, run_case_with};
use hodei_proto::v1::{JobSpec, JobState};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams};
use serde_json::json;

use crate::candidate::cancel;
use crate::pods::{NO_RETRY, assert_no_strays};

const MANAGED: &str = "hodei.io/managed=true";

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_pod_cleanup() {
    run_case("cleanup.pod-cleanup", async |env| {
        let good = env.submit_command(&["true"]).await?;
        let bad = env.submit(JobSpec { retry: Some(NO_RETRY), ..command(&["false"]) }).await?;
        let unwanted = env.submit_command(&["sleep", "600"]).await?;
        env.await_job_state(&unwanted.id, JobState::Running).await?;
        cancel(env, &unwanted.id).await?;
        env.await_job_state(&good.id, JobState::Succeeded).await?;
        env.await_job_state(&bad.id, JobState::Failed).await?;
        env.await_gone().await?;
        assert_eq!(env.recorder().pods().len(), 3);
        let secrets = Api::<Secret>::namespaced(env.kube(), env.namespace());
        let left = secrets.list(&ListParams::default().labels(MANAGED)).await?;
        assert_eq!(left.items.len(), 0, "{:?}", left.items);
        assert_no_strays(env).await
    });
}

/// A worker that has done its work stays for inspection, and no longer than it is to.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_finished_worker_is_kept() {
    let options = CaseOptions::new().provider("ttl_seconds_after_finished", 8);
    run_case_with("cleanup.finished-kept", options, async |env| {
        let job = env.submit_command(&["true"]).await?;
        env.await_job_state(&job.id, JobState::Succeeded).await?;
        env.await_pod("the finished worker's pod", |record| pod_terminated(&record.pod) == Some(0))
            .await?;
        env.await_gone().await?;
        let kept = env
            .rows(
                "SELECT coalesce(w.terminated_at, now()) - a.finished_at >= interval '8 s' AS kept
                 FROM workers w JOIN attempts a ON a.worker_id = w.id",
            )
            .await?;
        assert_eq!(kept, [json!({"kept": true})]);
        assert_no_strays(env).await
    });
}

/// An agent that is told to speak TLS and given no authority ends at once, again and again.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_pod_cleanup_crash_loop() {
    let options = CaseOptions::new()
        .provider("restart_policy", "OnFailure")
        .server_argument("--advertised-address", "https://host.docker.internal:1");
    run_case_with("cleanup.crash-loop", options, async |env| {
        let job = env.submit(JobSpec { retry: Some(NO_RETRY), ..command(&["true"]) }).await?;
        let job = env.await_job_state(&job.id, JobState::Failed).await?;
        let rows = env.rows("SELECT failure_cause FROM attempts").await?;
        assert_eq!(rows, [json!({"failure_cause": "crash_loop"})], "{}", job.reason);
        env.await_gone().await?;
        assert_eq!(env.recorder().pods().len(), 1);
        assert_no_strays(env).await
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_server_killed_while_running() {
    run_case("cleanup.server-killed", async |env| {
        let mut gate = env.make_gate()?;
        let text = format!("echo before; {}; echo after", gate.wait());
        let job = env.submit_command(&["sh", "-c", &text]).await?;
        env.await_job_state(&job.id, JobState::Running).await?;
        env.server()?.kill().await?;
        env.server()?.start_again().await?;
        gate.open().await?;
        let ended = env.await_job_state(&job.id, JobState::Succeeded).await?;
        assert_eq!(ended.attempts.len(), 1, "the same worker finished it");
        assert_eq!(env.job_output(&job.id).await?.stdout(), "before\nafter\n");
        env.await_gone().await?;
        Ok(())
    });
}

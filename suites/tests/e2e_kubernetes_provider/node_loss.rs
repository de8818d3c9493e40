//! A node that goes while a job runs on it. These cases run alone.

use std::time::Duration;

use anyhow::{Context, Result};
use hodei_harness::case::{CaseEnv, CaseOptions, run_case_with};
use hodei_harness::cluster::node::Stop;
use hodei_proto::v1::{Job, JobState};
use serde_json::json;

use crate::node_control::{assert_second_attempt, node_of, pod_of, submit_until_lost};

/// The cluster takes 50 s to miss a node, and a node as long to start again.
const DEADLINE: Duration = Duration::from_secs(340);
/// From the loss of a node to the job's end on the other.
const MOVE_DEADLINE: Duration = Duration::from_secs(150);

/// A case whose pods leave a lost node at once, and whose provider does not wait for its kubelet.
fn options() -> CaseOptions {
    let leave = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "toleration_seconds": 1});
    let tolerations = ["node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"].map(leave);
    CaseOptions::new()
        .deadline(DEADLINE)
        .provider("tolerations", json!(tolerations))
        .provider("force_delete_after_seconds", 1)
}

/// A job that runs on the node that can go, and that node.
async fn submit_to_worker_node(env: &mut CaseEnv) -> Result<(Job, String)> {
    let cluster = &env.environment().cluster;
    let stays = cluster.control_plane().context("a cluster has a control plane")?.to_owned();
    let goes = (*cluster.workers().first().context("there is a second node")?).to_owned();
    env.cordon(&stays).await?;
    let job = submit_until_lost(env).await?;
    env.uncordon(&stays).await?;
    assert_eq!(node_of(env, &pod_of(&job)?)?, goes);
    Ok((job, goes))
}

async fn await_moved(env: &CaseEnv, job: &Job) -> Result<Job> {
    let done = |job: &Job| job.state() == JobState::Succeeded;
    let job = env.await_job(&job.id, "done on the other node", MOVE_DEADLINE, done).await?;
    let node = node_of(env, &pod_of(&job)?)?;
    assert_eq!(Some(&*node), env.environment().cluster.control_plane());
    Ok(job)
}

/// Its connections stay open and say nothing, so that the cluster is the first to miss it. What the
/// agent still says once it runs again is late.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_exclusive_frozen_node() {
    let options = options().server_argument("--lease-seconds", "200");
    run_case_with("lifecycle.node-frozen", options, async |env| {
        let (job, node) = submit_to_worker_node(env).await?;
        env.stop_node(&node, Stop::Freeze).await?;
        env.await_node_ready(&node, false).await?;
        let job = await_moved(env, &job).await?;
        assert_second_attempt(env, &job, "node_lost").await?;
        env.start_node(&node).await?;
        env.await_gone().await?;
        let after = env.job(&job.id).await?;
        assert_eq!(after, job, "nothing that was late has changed the job");
        Ok(())
    });
}

/// Here the server is the first to miss it: nothing is heard of the worker for as long as its lease.
/// The cluster has not missed the node yet and would still put a worker there: the next one prefers
/// the other node.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_exclusive_node_without_power() {
    let options = options().provider("startup_timeout_seconds", 20);
    run_case_with("lifecycle.node-power-cut", options, async |env| {
        let (job, node) = submit_to_worker_node(env).await?;
        env.stop_node(&node, Stop::PowerOff).await?;
        let job = await_moved(env, &job).await?;
        assert_eq!(job.attempts.len(), 2, "the second went to the other node at once: {job:?}");
        let rows = env.rows("SELECT failure_cause FROM attempts WHERE epoch = 1").await?;
        assert_eq!(rows, [json!({"failure_cause": "lease_expired"})], "{job:?}");
        env.await_gone().await?;
        env.start_node(&node).await?;
        Ok(())
    });
}

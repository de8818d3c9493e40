//! What a worker's life costs the API server, by the API server's own audit log.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use hodei_core::provider::{LogQuery, WorkerHandle, WorkerProvider};
use hodei_harness::case::{CaseEnv, CaseOptions, run_case_with};
use hodei_kubernetes::KubernetesProvider;
use jiff::Timestamp;
use serde_json::json;

use crate::direct::{
    UNTIL_TOLD, await_running, connect_as, connect_stand_in, make_script, make_worker,
};

/// Most requests that one worker may cost from create to gone.
const MOST: usize = 6;
/// Workers alive at once in the case that starts them.
const ALIVE: usize = 10;
/// Requests under way at once in the case whose workers never start.
const AT_ONCE: usize = 32;
/// What is read once for all workers, by list and watch.
const SHARED: [&str; 4] = ["pods", "nodes", "resourcequotas", "limitranges"];

/// How often each verb was asked of each resource.
type Counts = BTreeMap<String, usize>;

/// What was asked since a moment.
#[derive(Default)]
struct Asked {
    /// For workers' lives, and answered.
    lives: Counts,
    /// For workers' lives, and refused for the moment: two at once would change one quota, or there
    /// are too many. Such a request is made again.
    refused: Counts,
    /// Lists and watches that are of all workers.
    shared: Counts,
}

async fn count_requests(env: &CaseEnv, since: Timestamp) -> Result<Asked> {
    let mut asked = Asked::default();
    for request in env.api_requests(since).await? {
        let agent = &request.user_agent;
        assert!(agent.starts_with("hodei-kubernetes/"), "{agent:?} does not say who asks");
        let watched = matches!(request.verb.as_str(), "list" | "watch")
            && SHARED.contains(&request.resource.as_str());
        let resource = match request.subresource.as_str() {
            "" => request.resource,
            part => format!("{}/{part}", request.resource),
        };
        let counts = match request.code {
            _ if watched => &mut asked.shared,
            409 | 429 => &mut asked.refused,
            _ => &mut asked.lives,
        };
        *counts.entry(format!("{} {resource}", request.verb)).or_default() += 1;
    }
    Ok(asked)
}

/// That many workers cost as much each as one does, and that this is little. What was counted is
/// kept as evidence.
async fn assert_cost(
    env: &CaseEnv,
    many: usize,
    live: impl AsyncFn(usize) -> Result<()>,
) -> Result<()> {
    let (mut lives, mut record) = (Vec::new(), Vec::new());
    for workers in [1, many] {
        let since = Timestamp::now();
        live(workers).await?;
        let asked = count_requests(env, since).await?;
        let requests: usize = asked.lives.values().chain(asked.refused.values()).sum();
        record.push(json!({
            "workers": workers, "requests": requests,
            "answered": asked.lives, "refused": asked.refused, "shared": asked.shared,
        }));
        let text = serde_json::to_string_pretty(&record)?;
        std::fs::write(env.evidence().join("api-requests.json"), &text)?;
        assert!(requests <= MOST * workers, "a worker costs more than {MOST}: {text}");
        lives.push(asked.lives);
    }
    assert_eq!(lives[0].get("create pods"), Some(&1), "one worker is one pod");
    let expected = lives[0].iter().map(|(what, count)| (what.clone(), count * many)).collect();
    assert_eq!(lives[1], expected, "{many} workers cost more, or less, than {many} times one");
    Ok(())
}

/// A create that meets the watch's first list asks for its pod once more, to put the two in an order.
async fn await_in_step(provider: &KubernetesProvider) -> Result<()> {
    provider.capabilities().await?;
    provider.list_workers().await?;
    Ok(())
}

/// All that a control plane does with a worker: made, awaited, its password removed once it has
/// registered, its log read, removed.
async fn live_through(provider: &KubernetesProvider) -> Result<()> {
    let handle = provider.create_worker(&make_script(UNTIL_TOLD)).await?;
    await_running(provider, &handle).await?;
    provider.discard_otp(handle.worker).await?;
    provider.worker_logs(&handle, LogQuery::default()).await?;
    provider.destroy_worker(&handle).await?;
    Ok(())
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_exclusive_api_requests_per_worker() {
    let options = CaseOptions::cluster_only().deadline(Duration::from_secs(300));
    run_case_with("lifecycle.api-requests", options, async |env| {
        let provider = connect_stand_in(env, json!({})).await?;
        await_in_step(&provider).await?;
        let live = async |count: usize| {
            let lives = stream::iter((0..count).map(|_| live_through(&provider)));
            lives.buffer_unordered(ALIVE).try_collect().await
        };
        assert_cost(env, 50, live).await
    });
}

/// A worker that is on no node costs no kubelet anything, so that all can be there at once.
async fn make_waiting(provider: &KubernetesProvider) -> Result<WorkerHandle> {
    let handle = provider.create_worker(&make_worker()).await?;
    provider.discard_otp(handle.worker).await?;
    Ok(handle)
}

async fn destroy(provider: &KubernetesProvider, handle: WorkerHandle) -> Result<()> {
    provider.worker_status(&handle).await?;
    Ok(provider.destroy_worker(&handle).await?)
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_api_requests_of_five_hundred() {
    let options = CaseOptions::cluster_only().pod_quota(600).deadline(Duration::from_secs(300));
    run_case_with("lifecycle.api-requests-500", options, async |env| {
        let nowhere = json!({"node_selector": {"hodei.io/no-such-node": "true"}});
        let provider = connect_as(env, "direct", nowhere).await?;
        await_in_step(&provider).await?;
        let live = async |count: usize| {
            let made = stream::iter((0..count).map(|_| make_waiting(&provider)));
            let made: Vec<_> = made.buffer_unordered(AT_ONCE).try_collect().await?;
            let there = provider.list_workers().await?.len();
            assert_eq!(there, count, "all are there at once");
            let gone = stream::iter(made.into_iter().map(|handle| destroy(&provider, handle)));
            gone.buffer_unordered(AT_ONCE).try_collect().await
        };
        assert_cost(env, 500, live).await
    });
}

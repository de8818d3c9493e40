//! The watch when its connection is cut, dies without a word, or is refused as too old.

use std::time::Duration;

use anyhow::Result;
use hodei_core::provider::{WorkerHandle, WorkerPhase, WorkerProvider};
use hodei_harness::api_proxy::{ApiProxy, Fault, Match, ProxiedRequest, WatchFault};
use hodei_harness::case::{CaseEnv, CaseOptions, run_case_with};
use hodei_harness::wait::{Observed, await_until};
use hodei_kubernetes::KubernetesProvider;
use kube::api::DeleteParams;

use crate::direct::{WORKER_DEADLINE, await_running, await_worker, connect, make_worker};
use crate::pods::{pods, pods_ever};

/// A watch is given up after 35 s; the list after it may meet another dead connection, and as long.
const HALF_OPEN_DEADLINE: Duration = Duration::from_secs(120);

fn options() -> CaseOptions {
    CaseOptions::cluster_only().api_proxy()
}

/// A provider behind the fault proxy, with one worker that runs.
async fn connect_behind(env: &CaseEnv) -> Result<(KubernetesProvider, WorkerHandle)> {
    let provider = connect(env).await?;
    let handle = provider.create_worker(&make_worker()).await?;
    await_running(&provider, &handle).await?;
    Ok((provider, handle))
}

/// Removes a worker's pod as anybody may.
async fn delete_now(env: &CaseEnv, handle: &WorkerHandle) -> Result<()> {
    pods(env).delete(&handle.resource, &DeleteParams::default().grace_period(0)).await?;
    Ok(())
}

/// Removes a worker's pod where the provider's watch cannot see it.
async fn delete_unseen(
    env: &CaseEnv,
    provider: &KubernetesProvider,
    handle: &WorkerHandle,
) -> Result<()> {
    delete_now(env, handle).await?;
    env.await_gone().await?;
    let status = provider.worker_status(handle).await?;
    assert_eq!(status.observed.phase, WorkerPhase::Running, "seen although nothing came through");
    Ok(())
}

/// Waits until the provider knows that the worker is gone.
async fn await_noticed(provider: &KubernetesProvider, handle: &WorkerHandle) -> Result<()> {
    let noticed = await_until("the loss to be noticed", HALF_OPEN_DEADLINE, async || {
        Ok(match provider.worker_status(handle).await {
            Ok(status) if status.observed.phase == WorkerPhase::Gone => Observed::Ready(()),
            other => Observed::NotYet(format!("{other:?}")),
        })
    });
    Ok(noticed.await?)
}

/// The provider works on: what is left of a worker whose pod is gone is removed, and one that is made
/// now is seen, and removed.
async fn assert_works(provider: &KubernetesProvider, lost: &WorkerHandle) -> Result<()> {
    provider.destroy_worker(lost).await?;
    let next = provider.create_worker(&make_worker()).await?;
    await_running(provider, &next).await?;
    provider.destroy_worker(&next).await?;
    assert!(provider.list_workers().await?.is_empty());
    Ok(())
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_watch_is_taken_up_again() {
    run_case_with("lifecycle.watch-cut", options(), async |env| {
        let (provider, handle) = connect_behind(env).await?;
        env.api_proxy()?.take_down().await;
        delete_unseen(env, &provider, &handle).await?;
        env.api_proxy()?.restore().await?;
        await_worker(&provider, &handle, "gone", |s| s.phase == WorkerPhase::Gone).await?;
        assert_works(&provider, &handle).await
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_half_open_watch_is_noticed() {
    run_case_with("lifecycle.watch-half-open", options(), async |env| {
        let (provider, handle) = connect_behind(env).await?;
        env.api_proxy()?.half_open_connections();
        delete_unseen(env, &provider, &handle).await?;
        await_noticed(&provider, &handle).await?;
        assert_works(&provider, &handle).await
    });
}

/// How often the provider has listed its pods.
fn lists(proxy: &ApiProxy) -> usize {
    let is_list = |r: &&ProxiedRequest| r.call.verb == "list" && r.call.resource == "pods";
    proxy.requests().iter().filter(is_list).count()
}

/// An API server that has forgotten tells so as an event of a watch, or answers so to the request.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_watch_too_old_lists_again() {
    run_case_with("lifecycle.watch-expired", options(), async |env| {
        let (provider, handle) = connect_behind(env).await?;
        let proxy = env.api_proxy()?;
        let before = lists(proxy);
        assert_eq!(proxy.disturb_watches("pods", WatchFault::Expire), 1, "one watch for all");
        delete_now(env, &handle).await?;
        await_worker(&provider, &handle, "gone", |s| s.phase == WorkerPhase::Gone).await?;
        provider.destroy_worker(&handle).await?;
        let after_event = lists(proxy);
        assert!(after_event > before, "a watch that is told to be too old begins with a list");
        let next = provider.create_worker(&make_worker()).await?;
        await_running(&provider, &next).await?;
        proxy.inject(Match::of("watch", "pods"), Fault::status(410), 1);
        assert_eq!(proxy.disturb_watches("pods", WatchFault::End), 1);
        let listed = await_until("a list after a refused watch", WORKER_DEADLINE, async || {
            let now = lists(proxy);
            Ok(if now > after_event {
                Observed::Ready(())
            } else {
                Observed::NotYet(now.to_string())
            })
        });
        listed.await?;
        delete_now(env, &next).await?;
        await_worker(&provider, &next, "gone", |s| s.phase == WorkerPhase::Gone).await?;
        assert_works(&provider, &next).await
    });
}

/// A busy API server is asked again after the time it names, and the worker is made once.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_busy_api_is_waited_for() {
    run_case_with("lifecycle.api-busy", options(), async |env| {
        let provider = connect(env).await?;
        let proxy = env.api_proxy()?;
        proxy.inject(Match::of("create", "pods"), Fault::too_many_requests(1), 1);
        proxy.inject(Match::of("create", "pods"), Fault::status(500), 1);
        proxy.inject(Match::of("create", "pods"), Fault::CutAfter, 1);
        proxy.inject(Match::of("delete", "pods"), Fault::CutAfter, 1);
        let handle = provider.create_worker(&make_worker()).await?;
        await_running(&provider, &handle).await?;
        provider.destroy_worker(&handle).await?;
        assert_eq!(proxy.pending_faults(), 0, "a fault was not met");
        assert_eq!(pods_ever(env), 1, "an answer that is lost must not make two pods");
        Ok(())
    });
}

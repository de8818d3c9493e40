//! Providers side by side, and one after another.

use anyhow::Result;
use futures::StreamExt;
use hodei_core::failure::FailureCause;
use hodei_core::id::{AttemptKey, Epoch, JobId};
use hodei_core::provider::{ProviderEvent, WorkerPhase, WorkerProvider};
use hodei_harness::case::{CaseOptions, run_case_with};
use hodei_kubernetes::KubernetesProvider;
use serde_json::json;

use crate::direct::{await_running, connect, connect_as, make_worker, refusal};
use crate::pods::{pods, pods_ever};

/// The pods a provider lists, by name.
async fn listed(provider: &KubernetesProvider) -> Result<Vec<String>> {
    let list = provider.list_workers().await?;
    let mut names: Vec<_> = list.into_iter().map(|seen| seen.handle.resource).collect();
    names.sort();
    Ok(names)
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_providers_are_isolated() {
    run_case_with("lifecycle.isolation", CaseOptions::cluster_only(), async |env| {
        let one = connect_as(env, "one", json!({})).await?;
        let two = connect_as(env, "two", json!({})).await?;
        assert!(listed(&two).await?.is_empty());
        let mut heard_by_two = two.subscribe();
        let spec = make_worker();
        let of_one = one.create_worker(&spec).await?;
        await_running(&one, &of_one).await?;
        let error = refusal(&two, &spec).await?;
        assert_eq!(error.cause(), FailureCause::Conflict, "{error}");
        two.destroy_unknown(spec.worker).await?;
        let of_two = two.create_worker(&make_worker()).await?;
        await_running(&two, &of_two).await?;
        assert_eq!(listed(&one).await?, [of_one.resource.as_str()]);
        assert_eq!(listed(&two).await?, [of_two.resource.as_str()]);
        let phase = two.worker_status(&of_one).await?.observed.phase;
        assert_eq!(phase, WorkerPhase::Gone, "two sees a worker of one");
        let pod = pods(env).get(&of_one.resource).await?;
        assert_eq!(pod.metadata.deletion_timestamp, None, "two removed a worker of one");
        two.destroy_worker(&of_two).await?;
        let gone = async {
            while let Some(event) = heard_by_two.next().await {
                let ProviderEvent::Changed(seen) = event else { continue };
                assert_eq!(seen.handle, of_two, "two hears of a worker of one");
                if seen.phase == WorkerPhase::Gone {
                    break;
                }
            }
        };
        tokio::time::timeout(crate::direct::WORKER_DEADLINE, gone).await?;
        await_running(&one, &of_one).await?;
        one.destroy_worker(&of_one).await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_restarted_provider_adopts() {
    run_case_with("lifecycle.restart-adoption", CaseOptions::cluster_only(), async |env| {
        let before = connect(env).await?;
        let attempt = AttemptKey { job: JobId::new(), epoch: Epoch(3) };
        let mut specs = [make_worker(), make_worker()];
        specs[0].attempt = Some(attempt);
        let mut handles = Vec::new();
        for spec in &specs {
            handles.push(before.create_worker(spec).await?);
        }
        await_running(&before, &handles[0]).await?;
        drop(before);
        let after = connect(env).await?;
        let mut found = after.list_workers().await?;
        found.sort_by_key(|seen| seen.handle.worker);
        let seen: Vec<_> = found.iter().map(|seen| seen.handle.clone()).collect();
        assert_eq!(seen, handles, "what the old one made is not what the new one lists");
        assert_eq!(found[0].phase, WorkerPhase::Running);
        assert_eq!(found[0].attempt, Some(attempt));
        assert_eq!(found[1].attempt, None);
        assert_eq!(after.create_worker(&specs[1]).await?, handles[1], "a repeated create adopts");
        for handle in &handles {
            after.destroy_worker(handle).await?;
            assert!(pods(env).get_opt(&handle.resource).await?.is_none());
        }
        assert_eq!(pods_ever(env), 2);
        Ok(())
    });
}

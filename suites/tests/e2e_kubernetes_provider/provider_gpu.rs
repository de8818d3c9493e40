//! Workers that ask for a GPU. The cluster has none, so a node is given what a device plug-in would
//! give it: an extended resource, of a name that no other case asks for.

use anyhow::{Context, Result};
use hodei_core::provider::{
    Fulfilment, GpuOffer, GpuRequest, Requirements, WorkerPhase, WorkerProvider,
};
use hodei_harness::case::{CaseOptions, run_case_with};
use hodei_harness::wait::{Observed, await_until};
use hodei_kubernetes::KubernetesProvider;
use serde_json::json;

use crate::direct::{
    WORKER_DEADLINE, await_running, await_worker, connect_with_nodes, make_worker,
};

/// Waits until this is what the provider says of the resource.
async fn await_gpus(
    provider: &KubernetesProvider,
    resource: &str,
    wanted: Option<GpuOffer>,
) -> Result<()> {
    let what = format!("{wanted:?} of {resource} to be offered");
    let offered = await_until(what, WORKER_DEADLINE, async || {
        Ok(match provider.capabilities().await {
            Ok(offer) if offer.gpus.get(resource) == wanted.as_ref() => Observed::Ready(()),
            other => Observed::NotYet(format!("{other:?}")),
        })
    });
    Ok(offered.await?)
}

fn asking(resource: &str, count: u64) -> Requirements {
    let gpu = GpuRequest { resource: resource.to_owned(), count, model: None };
    Requirements { gpu: Some(gpu), ..Requirements::default() }
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_gpu_request_is_scheduled() {
    run_case_with("lifecycle.gpu", CaseOptions::cluster_only(), async |env| {
        let resource = format!("hodei.io/gpu.{}", env.namespace());
        let node = env.environment().cluster.nodes.last().context("a cluster has nodes")?.clone();
        env.give_resource(&node, &resource, 1).await?;
        let config = json!({"extended_resources": {&resource: "1"}});
        let provider = connect_with_nodes(env, config).await?;
        await_gpus(&provider, &resource, Some(GpuOffer { max_per_worker: 1, models: vec![] }))
            .await?;
        assert_eq!(provider.can_fulfill(&asking(&resource, 1)).await?, Fulfilment::Yes);
        let two = provider.can_fulfill(&asking(&resource, 2)).await?;
        assert!(matches!(&two, Fulfilment::Never(why) if why.contains("2 wanted")), "{two:?}");
        let first = provider.create_worker(&make_worker()).await?;
        let placed = await_running(&provider, &first).await?;
        assert_eq!(placed.node.as_deref(), Some(&*node), "it is on the node with the GPU");
        let second = provider.create_worker(&make_worker()).await?;
        let short = format!("Insufficient {resource}");
        let waits = await_worker(&provider, &second, "told what it waits for", |seen| {
            seen.waiting_for.as_ref().is_some_and(|words| words.contains(&short))
        });
        assert_eq!(waits.await?.phase, WorkerPhase::Pending);
        provider.destroy_worker(&first).await?;
        await_running(&provider, &second).await?;
        provider.destroy_worker(&second).await?;
        env.take_resource(&node, &resource).await?;
        await_gpus(&provider, &resource, None).await?;
        let none = provider.can_fulfill(&asking(&resource, 1)).await?;
        assert!(matches!(&none, Fulfilment::Never(why) if why.contains("has 0")), "{none:?}");
        Ok(())
    });
}

//! What a provider says it can offer, against what the cluster says.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use hodei_core::provider::{Fulfilment, ProviderCapabilities, Requirements, WorkerProvider};
use hodei_core::spec::Resources;
use hodei_harness::case::{CaseEnv, CaseOptions, run_case_with};
use hodei_harness::wait::{Observed, await_until};
use hodei_kubernetes::KubernetesProvider;
use k8s_openapi::api::core::v1::{LimitRange, Node, ResourceQuota};
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::direct::{WORKER_DEADLINE, await_running, connect, connect_with_nodes, make_worker};

/// What was measured may be used again for a minute.
const FRESH_DEADLINE: Duration = Duration::from_secs(75);
const GIB: u64 = 1 << 30;

/// The cluster's own words, read by other code than the provider's.
struct Truth {
    cpu_millis: u64,
    memory_bytes: u64,
    architectures: Vec<String>,
    systems: Vec<String>,
}

/// Thousandths of a core or bytes, of the few forms that nodes and this file use.
fn amount(text: &str, unit: u64) -> Result<u64> {
    let forms = [("m", unit / 1000), ("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", GIB)];
    let known = forms.iter().find_map(|(suffix, scale)| Some((text.strip_suffix(suffix)?, *scale)));
    let (digits, scale) = known.unwrap_or((text, unit));
    let number: u64 = digits.parse().with_context(|| format!("the quantity {text:?}"))?;
    Ok(number * scale)
}

/// The largest node, bounded by the limit range that the harness gives each namespace.
async fn read_truth(env: &CaseEnv) -> Result<Truth> {
    let nodes = Api::<Node>::all(env.kube()).list(&ListParams::default()).await?;
    let (mut cpu, mut memory) = (0, 0);
    let (mut architectures, mut systems) = (BTreeSet::new(), BTreeSet::new());
    for status in nodes.items.into_iter().filter_map(|node| node.status) {
        let room = status.allocatable.context("a node without allocatable")?;
        cpu = cpu.max(amount(&room["cpu"].0, 1000)?);
        memory = memory.max(amount(&room["memory"].0, 1)?);
        let info = status.node_info.context("a node without its system")?;
        architectures.insert(info.architecture);
        systems.insert(info.operating_system);
    }
    Ok(Truth {
        cpu_millis: cpu.min(4000),
        memory_bytes: memory.min(8 * GIB),
        architectures: architectures.into_iter().collect(),
        systems: systems.into_iter().collect(),
    })
}

/// Waits until a provider offers what is wanted.
async fn await_offer(
    what: &str,
    deadline: Duration,
    offer: impl AsyncFn() -> Result<ProviderCapabilities>,
    wanted: impl Fn(&ProviderCapabilities) -> bool,
) -> Result<()> {
    let seen = await_until(format!("the offer to be {what}"), deadline, async || {
        Ok(match offer().await {
            Ok(offer) if wanted(&offer) => Observed::Ready(()),
            other => Observed::NotYet(format!("{other:?}")),
        })
    });
    Ok(seen.await?)
}

/// Narrows what the namespace allows: 7 pods, half a core and 200 MiB each.
async fn narrow(env: &CaseEnv) -> Result<()> {
    let merge = |body: Value| Patch::Merge(body);
    let params = PatchParams::default();
    let quotas = Api::<ResourceQuota>::namespaced(env.kube(), env.namespace());
    let hard = json!({"pods": "7", "requests.memory": "150Mi"});
    quotas.patch("workers", &params, &merge(json!({"spec": {"hard": hard}}))).await?;
    let ranges = Api::<LimitRange>::namespaced(env.kube(), env.namespace());
    let limits = json!([{"type": "Container", "max": {"cpu": "500m", "memory": "200Mi"}}]);
    ranges.patch("workers", &params, &merge(json!({"spec": {"limits": limits}}))).await?;
    Ok(())
}

fn is_narrowed(offer: &ProviderCapabilities) -> bool {
    (offer.max_cpu_millis, offer.max_memory_bytes) == (Some(500), Some(150 << 20))
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_capabilities_are_the_truth() {
    let options = CaseOptions::cluster_only().pod_quota(9);
    run_case_with("lifecycle.capabilities", options, async |env| {
        let truth = read_truth(env).await?;
        let provider = connect_with_nodes(env, json!({})).await?;
        let offer = provider.capabilities().await?;
        assert_eq!(offer.max_cpu_millis, Some(truth.cpu_millis));
        assert_eq!(offer.max_memory_bytes, Some(truth.memory_bytes));
        assert_eq!(offer.free_workers, Some(9));
        assert_eq!(offer.architectures, truth.architectures);
        assert_eq!(offer.operating_systems, truth.systems);
        let handle = provider.create_worker(&make_worker()).await?;
        await_running(&provider, &handle).await?;
        let measure = async || Ok(connect(env).await?.capabilities().await?);
        let one_less = |offer: &ProviderCapabilities| offer.free_workers == Some(8);
        await_offer("one worker less", WORKER_DEADLINE, measure, one_less).await?;
        narrow(env).await?;
        let narrowed =
            |offer: &ProviderCapabilities| is_narrowed(offer) && offer.free_workers == Some(6);
        await_offer("what the new bounds allow", WORKER_DEADLINE, measure, narrowed).await?;
        provider.destroy_worker(&handle).await?;
        Ok(())
    });
}

/// A quota or a limit range that is changed is known to a provider that runs, within a minute.
#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_capabilities_stay_fresh() {
    run_case_with("lifecycle.capabilities-fresh", CaseOptions::cluster_only(), async |env| {
        let provider = connect(env).await?;
        assert!(!is_narrowed(&provider.capabilities().await?));
        narrow(env).await?;
        let measure = async || Ok(provider.capabilities().await?);
        await_offer("what the new bounds allow", FRESH_DEADLINE, measure, is_narrowed).await
    });
}

fn asking(cpu_millis: u64, memory_bytes: u64) -> Requirements {
    let resources = Resources {
        cpu_request: Some(format!("{cpu_millis}m")),
        memory_request: Some(memory_bytes.to_string()),
        ..Resources::default()
    };
    Requirements { resources, ..Requirements::default() }
}

async fn verdict(provider: &KubernetesProvider, needs: Requirements) -> Result<String> {
    Ok(match provider.can_fulfill(&needs).await? {
        Fulfilment::Yes => "it fits".to_owned(),
        Fulfilment::NotNow(reason) => format!("not now: {reason}"),
        Fulfilment::Never(reason) => format!("never: {reason}"),
    })
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_what_cannot_fit_is_refused() {
    run_case_with("lifecycle.can-fulfill", CaseOptions::cluster_only(), async |env| {
        let truth = read_truth(env).await?;
        let (cpu, memory) = (truth.cpu_millis, truth.memory_bytes);
        let provider = connect_with_nodes(env, json!({})).await?;
        let with_architecture = |name: &str| Requirements {
            architecture: Some(name.to_owned()),
            ..Requirements::default()
        };
        for (needs, wanted) in [
            (Requirements::default(), "it fits"),
            (asking(cpu, memory), "it fits"),
            (asking(cpu + 1, 1), "never: cpu"),
            (asking(1, memory + 1), "never: memory"),
            (with_architecture(&truth.architectures[0]), "it fits"),
            (with_architecture("s390x"), "never: architecture: s390x wanted"),
        ] {
            let said = verdict(&provider, needs.clone()).await?;
            assert!(said.contains(wanted), "{needs:?}: {said}");
        }
        Ok(())
    });
}

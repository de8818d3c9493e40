//! Readiness: nodes Ready, CoreDNS serving, the default service account there. Each is looked
//! at again and again until all are so.
//!
//! After a restart of the engine the API server first tells how things stood before it. So what
//! counts as serving is a CoreDNS container that was started after its node was.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, ServiceAccount};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::cluster::KindCluster;
use crate::engine::docker;
use crate::failure::{Classify, Result};
use crate::progress::Stage;
use crate::wait::{Observed, Wait};

/// From the end of `kind create` to a cluster that takes pods, on a slow machine.
const READY_DEADLINE: Duration = Duration::from_secs(120);
/// What keeps pods off a control plane that has workers beside it.
const CONTROL_PLANE_TAINT: &str = "node-role.kubernetes.io/control-plane";
/// Where the mark inside the cluster is.
const OWNER: (&str, &str) = ("kube-system", "hodei-e2e-owner");

/// A client of the cluster by its private kubeconfig.
///
/// # Errors
/// The kubeconfig cannot be read or is not one.
pub async fn client(cluster: &KindCluster) -> Result<kube::Client> {
    // A second installation of the same provider is refused, and of no consequence.
    let _already = rustls::crypto::ring::default_provider().install_default();
    let subject = || format!("the kubeconfig of {}", cluster.name);
    let kubeconfig =
        Kubeconfig::read_from(&cluster.kubeconfig).infrastructure("read", subject())?;
    let options =
        KubeConfigOptions { context: Some(cluster.context.clone()), ..Default::default() };
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .infrastructure("use", subject())?;
    kube::Client::try_from(config).infrastructure("use", subject())
}

/// Waits until the cluster takes pods.
///
/// # Errors
/// It does not within its deadline; the error says what was missing last.
pub async fn await_ready(cluster: &KindCluster, stage: &Stage) -> Result<()> {
    let client = client(cluster).await?;
    let started = nodes_started(cluster, stage).await?;
    Wait::infrastructure(format!("cluster {} to be ready", cluster.name), READY_DEADLINE)
        .until(stage, async || {
            Ok(match missing(&client, cluster.nodes.len(), &started).await {
                Ok(None) => Observed::Ready(()),
                Ok(Some(what)) => Observed::NotYet(what),
                Err(error) => Observed::NotYet(format!("the API server says: {error}")),
            })
        })
        .await
}

/// When each node was started last.
type Starts = BTreeMap<String, Timestamp>;

async fn nodes_started(cluster: &KindCluster, stage: &Stage) -> Result<Starts> {
    let format = "{{.Name}} {{.State.StartedAt}}";
    let inspect = docker(["inspect", "--format", format]).args(&cluster.nodes);
    let subject = format!("the nodes of {}", cluster.name);
    let output = inspect.run(stage).await.infrastructure("inspect", subject)?;
    Ok(read_starts(&output.stdout))
}

fn read_starts(said: &str) -> Starts {
    let lines = said.lines().filter_map(|line| line.trim().split_once(' '));
    let starts = lines.filter_map(|(name, at)| Some((name, at.parse().ok()?)));
    // The engine's names begin with a slash.
    starts.map(|(name, at)| (name.trim_start_matches('/').to_owned(), at)).collect()
}

async fn missing(
    client: &kube::Client,
    nodes_wanted: usize,
    started: &Starts,
) -> kube::Result<Option<String>> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    let unready: Vec<String> = nodes
        .iter()
        .filter(|node| !is_ready(node))
        .filter_map(|n| n.metadata.name.clone())
        .collect();
    if nodes.items.len() < nodes_wanted {
        return Ok(Some(format!("{} of {nodes_wanted} nodes registered", nodes.items.len())));
    }
    if !unready.is_empty() {
        return Ok(Some(format!("nodes not Ready: {}", unready.join(", "))));
    }
    let dns = ListParams::default().labels("k8s-app=kube-dns");
    let pods = Api::<Pod>::namespaced(client.clone(), "kube-system").list(&dns).await?;
    if !pods.iter().any(|pod| serves(pod, started)) {
        return Ok(Some("no CoreDNS pod serves since its node was started".into()));
    }
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "default");
    Ok(match accounts.get_opt("default").await? {
        Some(_) => None,
        None => Some("namespace default has no default service account".into()),
    })
}

/// Whether a container of the pod was started after its node was, and is ready.
fn serves(pod: &Pod, started: &Starts) -> bool {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
    let Some(since) = node.and_then(|node| started.get(node)) else { return false };
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    containers.into_iter().flatten().any(|container| {
        let running = container.state.as_ref().and_then(|state| state.running.as_ref());
        let started = running.and_then(|running| running.started_at.as_ref());
        container.ready && started.is_some_and(|started| started.0 >= *since)
    })
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    })
}

/// Says inside the cluster who made it, for people and other tools.
///
/// # Errors
/// The API server refuses.
pub(super) async fn label_owner(cluster: &KindCluster, tag: &str) -> Result<()> {
    let (namespace, name) = OWNER;
    let map = serde_json::json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "hodei-e2e"}},
        "data": {"cluster": cluster.name, "tag": tag},
    });
    let api = Api::<ConfigMap>::namespaced(client(cluster).await?, namespace);
    let params = PatchParams::apply("hodei-e2e").force();
    api.patch(name, &params, &Patch::Apply(map)).await.infrastructure("mark", &cluster.name)?;
    Ok(())
}

/// Lets the control plane's node take pods, as that of a cluster of one node does by itself: two
/// nodes are there so that work can move from one to the other.
///
/// # Errors
/// The API server refuses.
pub(super) async fn open_control_plane(cluster: &KindCluster) -> Result<()> {
    let Some(name) = cluster.control_plane() else { return Ok(()) };
    let nodes = Api::<Node>::all(client(cluster).await?);
    let subject = || format!("node {name}");
    let node = nodes.get(name).await.infrastructure("read", subject())?;
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let left: Vec<_> = taints.iter().filter(|taint| taint.key != CONTROL_PLANE_TAINT).collect();
    if left.len() == taints.len() {
        return Ok(());
    }
    let change = serde_json::json!({"spec": {"taints": left}});
    let params = PatchParams::default();
    nodes.patch(name, &params, &Patch::Merge(change)).await.infrastructure("open", subject())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_from_before_its_nodes_restart_does_not_serve() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "spec": {"nodeName": "a", "containers": []},
            "status": {"containerStatuses": [{
                "name": "coredns", "image": "x", "imageID": "y", "ready": true, "restartCount": 0,
                "state": {"running": {"startedAt": "2026-01-01T00:00:10Z"}},
            }]},
        }))
        .unwrap();
        let (early, late) = ("2026-01-01T00:00:05.5Z", "2026-01-01T00:00:15Z");
        assert!(serves(&pod, &read_starts(&format!("/a {early}\n/b {early}\n"))));
        assert!(!serves(&pod, &read_starts(&format!("/a {late}\n/b {early}\n"))));
        assert!(serves(&pod, &read_starts(&format!("/a {early}\n/b {late}\n"))), "another node");
        assert!(!serves(&pod, &Starts::new()));
    }
}

//! Nodes, quotas and limit ranges, and what they leave for one worker.

use hodei_core::{provider::WorkerProvider, spec::Resources};
use serde_json::{Value, json};

use super::*;
use crate::{
    KubernetesConfig,
    testing::{FakeCluster, Fault},
};

fn make_node(name: &str, cpu: &str, memory: &str, zone: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {
            "topology.kubernetes.io/region": "eu", "topology.kubernetes.io/zone": zone,
        }},
        "spec": {},
        "status": {
            "allocatable": {"cpu": cpu, "memory": memory, "nvidia.com/gpu": "2", "pods": "110"},
            "nodeInfo": {"architecture": "amd64", "operatingSystem": "linux",
                "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "",
                "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "osImage": "",
                "systemUUID": ""},
        },
    })
}

fn make_cluster() -> FakeCluster {
    let cluster = FakeCluster::new();
    cluster.put("nodes", make_node("a", "3920m", "8Gi", "eu-1"));
    cluster.put("nodes", make_node("b", "8", "4Gi", "eu-2"));
    let mut cordoned = make_node("c", "16", "2Gi", "eu-3");
    cordoned["spec"]["unschedulable"] = json!(true);
    cluster.put("nodes", cordoned);
    cluster
}

#[tokio::test]
async fn the_largest_node_is_the_bound() {
    let cluster = make_cluster();
    let provider = cluster.provider(KubernetesConfig::default());
    let offer = provider.capabilities().await.unwrap();
    assert_eq!((offer.max_cpu_millis, offer.max_memory_bytes), (Some(16000), Some(8 << 30)));
    assert_eq!(offer.zones, ["eu-1", "eu-2", "eu-3"]);
    assert_eq!(offer.gpus, [("nvidia.com/gpu".to_owned(), 2)].into());
    assert_eq!(offer.architectures, ["amd64"]);
    provider.capabilities().await.unwrap();
    assert_eq!(cluster.requests().len(), 3, "the second answer is from memory");
}

#[tokio::test]
async fn quota_and_limit_range_bound_further() {
    let cluster = make_cluster();
    cluster.put(
        "resourcequotas",
        json!({"metadata": {"name": "q"},
        "spec": {"hard": {"pods": "10", "requests.memory": "6Gi"}},
        "status": {"used": {"pods": "7"}}}),
    );
    cluster.put(
        "limitranges",
        json!({"metadata": {"name": "l"},
        "spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}}]}}),
    );
    let offer = cluster.provider(KubernetesConfig::default()).capabilities().await.unwrap();
    assert_eq!((offer.max_cpu_millis, offer.max_memory_bytes), (Some(2000), Some(6 << 30)));
    assert_eq!(offer.free_workers, Some(3));
}

#[tokio::test]
async fn without_nodes_the_namespace_is_all_that_is_known() {
    let cluster = make_cluster();
    let forbidden = "nodes is forbidden: User cannot list resource \"nodes\"";
    cluster.fail_next("LIST nodes", Fault::status(403, "Forbidden", forbidden));
    let provider = cluster.provider(KubernetesConfig::default());
    let offer = provider.capabilities().await.unwrap();
    assert_eq!(offer.max_cpu_millis, None);
    let needs = Requirements { architecture: Some("arm64".into()), ..Requirements::default() };
    assert_eq!(provider.can_fulfill(&needs).await.unwrap(), None, "what is unknown is not a no");
}

#[tokio::test]
async fn a_no_is_explained() {
    let provider = make_cluster().provider(KubernetesConfig::default());
    let needs =
        |cpu: Option<&str>, memory: Option<&str>, architecture: Option<&str>| Requirements {
            resources: Resources {
                cpu_request: cpu.map(str::to_owned),
                memory_request: memory.map(str::to_owned),
                ..Resources::default()
            },
            architecture: architecture.map(str::to_owned),
        };
    for (needs, part) in [
        (
            needs(Some("17"), None, None),
            Some("17000m of CPU are asked for; one worker can have 16000m"),
        ),
        (needs(None, Some("9Gi"), None), Some("bytes of memory")),
        (
            needs(None, None, Some("arm64")),
            Some("no node has the architecture arm64; there are amd64"),
        ),
        (needs(Some("8"), Some("8Gi"), Some("amd64")), None),
    ] {
        let answer = provider.can_fulfill(&needs).await.unwrap();
        match part {
            Some(part) => assert!(answer.as_deref().unwrap().contains(part), "{answer:?}"),
            None => assert_eq!(answer, None),
        }
    }
}

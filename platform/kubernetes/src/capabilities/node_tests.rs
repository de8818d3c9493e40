//! What is kept of a node.

use serde_json::{Value, json};

use super::*;
use crate::KubernetesConfig;

pub(in crate::capabilities) fn make_node(name: &str, cpu: &str, memory: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {
            "topology.kubernetes.io/region": "eu", "topology.kubernetes.io/zone": "eu-1",
        }},
        "spec": {},
        "status": {
            "allocatable": {"cpu": cpu, "memory": memory, "pods": "110", "hugepages-2Mi": "0"},
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"architecture": "amd64", "operatingSystem": "linux",
                "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "",
                "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "osImage": "",
                "systemUUID": ""},
        },
    })
}

fn read_with(config: Value, change: impl FnOnce(&mut Value)) -> Node {
    let mut node = make_node("n", "4", "8Gi");
    change(&mut node);
    let config: KubernetesConfig = serde_json::from_value(config).unwrap();
    Node::read(&serde_json::from_value(node).unwrap(), &Placement::of(&config))
}

fn read(change: impl FnOnce(&mut Value)) -> Node {
    read_with(json!({}), change)
}

#[test]
fn gpus_have_the_models_of_their_vendor() {
    let node = read(|node| {
        node["status"]["allocatable"]["nvidia.com/gpu"] = json!("2");
        node["status"]["allocatable"]["nvidia.com/mig-1g.5gb"] = json!("7");
        node["status"]["allocatable"]["amd.com/gpu"] = json!("0");
        node["status"]["allocatable"]["example.com/fpga"] = json!("1");
        node["metadata"]["labels"]["nvidia.com/gpu.product"] = json!("Tesla-T4");
        node["metadata"]["labels"]["amd.com/gpu.product-name"] = json!("MI300X");
    });
    let gpus: Vec<_> = node.gpus().collect();
    assert_eq!(gpus, [("nvidia.com/gpu", 2), ("nvidia.com/mig-1g.5gb", 7)]);
    assert_eq!(node.models("nvidia.com/gpu").collect::<Vec<_>>(), ["Tesla-T4"]);
    assert_eq!(node.models("amd.com/gpu").count(), 0, "it has none of them");
    assert_eq!(node.extended("example.com/fpga"), 1);
}

#[test]
fn who_keeps_workers_away_for_ever_and_who_for_a_while() {
    let taint = |key: &str| {
        let key = key.to_owned();
        move |node: &mut Value| {
            node["spec"]["taints"] = json!([{"key": key, "effect": "NoSchedule"}]);
        }
    };
    assert_eq!((read(|_| ()).barred, read(|_| ()).closed), (None, None));
    let gpu = read(taint("gpu"));
    assert_eq!(gpu.barred, Some(Barred::Taint("gpu:NoSchedule".into())));
    let tolerating = json!({"tolerations": [{"key": "gpu", "operator": "Exists"}]});
    assert_eq!(read_with(tolerating, taint("gpu")).barred, None);
    let pressed = read(taint("node.kubernetes.io/disk-pressure"));
    assert_eq!(pressed.barred, None);
    let words = "node.kubernetes.io/disk-pressure:NoSchedule".into();
    assert_eq!(pressed.closed, Some(Closed::Taint(words)));
    let soft = |node: &mut Value| {
        node["spec"]["taints"] = json!([{"key": "gpu", "effect": "PreferNoSchedule"}]);
    };
    assert_eq!(read(soft).barred, None);
    let cordoned = |node: &mut Value| node["spec"]["unschedulable"] = json!(true);
    assert_eq!(read(cordoned).closed, Some(Closed::Cordoned));
    let all = json!({"tolerations": [{"operator": "Exists"}]});
    assert_eq!(read_with(all, cordoned).closed, None, "the scheduler lets these on to it too");
    let unready = |node: &mut Value| node["status"]["conditions"][0]["status"] = json!("Unknown");
    assert_eq!(read(unready).closed, Some(Closed::NotReady));
    let selector = json!({"node_selector": {"disk": "ssd"}});
    assert_eq!(read_with(selector, |_| ()).barred, Some(Barred::Selector("disk=ssd".into())));
}

#[test]
fn a_node_without_a_word_has_no_room_and_is_not_ready() {
    let node = Node::read(&ApiNode::default(), &Placement::default());
    assert_eq!((node.cpu_millis, node.memory_bytes), (0, 0));
    assert_eq!(node.closed, Some(Closed::NotReady));
}

#[test]
fn an_image_is_known_by_any_of_its_names() {
    let names = ["docker.io/library/hodei-jobs-worker:latest", "ghcr.io/a/b@sha256:00"];
    let node = read(|node| node["status"]["images"] = json!([{"names": names}, {"names": null}]));
    for (image, present) in [
        ("hodei-jobs-worker:latest", true),
        ("hodei-jobs-worker", true),
        ("docker.io/library/hodei-jobs-worker", true),
        ("library/hodei-jobs-worker", true),
        ("ghcr.io/a/b@sha256:00", true),
        ("hodei-jobs-worker:2", false),
        ("localhost:5000/hodei-jobs-worker", false),
        ("ghcr.io/a/b", false),
    ] {
        assert_eq!(node.has_image(image), present, "{image}");
    }
}

mod outside_input {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    fn quantity() -> impl Strategy<Value = String> {
        prop_oneof!["[0-9.]{0,21}(m|k|Ki|Mi|Gi|Pi|E|e[0-9])?", any::<String>()]
    }

    fn rule() -> impl Strategy<Value = Value> {
        let operator = select(vec!["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Near"]);
        let value = || prop_oneof!["-?[0-9]{1,20}", any::<String>()];
        (operator, select(vec!["disk", "cores", "metadata.name", "x"]), vec(value(), 0..3)).prop_map(
            |(operator, key, values)| json!({"key": key, "operator": operator, "values": values}),
        )
    }

    proptest! {
        #[test]
        fn any_node_is_read_whatever_its_quantities_labels_and_taints_are(
            (cpu, memory, gpus) in (quantity(), quantity(), quantity()),
            (disk, cores, model) in (any::<String>(), quantity(), any::<String>()),
            taint in ("\\PC{0,9}", "\\PC{0,9}", select(vec!["NoSchedule", "NoExecute", "x"])),
            images in vec(any::<String>(), 0..4), rules in vec(rule(), 0..3),
        ) {
            let config = json!({"affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution":
                    {"nodeSelectorTerms": [{"matchExpressions": rules}]}}}});
            let node = read_with(config, |node| {
                node["metadata"]["labels"]["disk"] = json!(disk);
                node["metadata"]["labels"]["cores"] = json!(cores);
                node["metadata"]["labels"]["nvidia.com/gpu.product"] = json!(model);
                node["status"]["allocatable"] =
                    json!({"cpu": cpu, "memory": memory, "nvidia.com/gpu": gpus});
                node["spec"]["taints"] = json!([{"key": taint.0, "value": taint.1, "effect": taint.2}]);
                node["status"]["images"] = json!([{"names": images}]);
            });
            prop_assert_eq!(node.cpu_millis, parse_cpu_millis(&cpu).unwrap_or(0));
            prop_assert_eq!(node.memory_bytes, parse_bytes(&memory).unwrap_or(0));
            prop_assert_eq!(node.extended("nvidia.com/gpu"), parse_bytes(&gpus).unwrap_or(0));
            prop_assert!(node.barred.is_some() || !rules.is_empty());
            prop_assert!(images.iter().all(|image| node.has_image(image)));
        }
    }
}

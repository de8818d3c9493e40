//! Every sort of no, in words.

use hodei_core::{provider::GpuRequest, spec::Resources};
use serde_json::{Value, json};

use super::*;
use crate::{
    KubernetesConfig,
    capabilities::{node::tests::make_node, placement::Placement},
};

/// Two nodes: `a` is large and has GPUs, `b` is small and of another architecture.
fn make_nodes() -> Vec<Value> {
    let mut a = make_node("a", "3920m", "8Gi");
    a["status"]["allocatable"]["nvidia.com/gpu"] = json!("2");
    a["metadata"]["labels"]["nvidia.com/gpu.product"] = json!("Tesla-T4");
    let mut b = make_node("b", "2", "4Gi");
    b["status"]["nodeInfo"]["architecture"] = json!("arm64");
    vec![a, b]
}

struct World {
    config: Value,
    nodes: Vec<Value>,
    departed: Vec<Value>,
    quota: Value,
    range: Value,
    needs: Requirements,
}

impl World {
    fn new() -> Self {
        Self {
            config: json!({"default_cpu_limit": "500m", "default_memory_limit": "1Gi"}),
            nodes: make_nodes(),
            departed: Vec::new(),
            quota: json!({}),
            range: json!([]),
            needs: Requirements::default(),
        }
    }

    fn answer(&self) -> Fulfilment {
        let config: KubernetesConfig = serde_json::from_value(self.config.clone()).unwrap();
        config.validate().unwrap();
        let placement = Placement::of(&config);
        let read =
            |node: &Value| Node::read(&serde_json::from_value(node.clone()).unwrap(), &placement);
        let name = |node: &Value| node["metadata"]["name"].as_str().unwrap().to_owned();
        let nodes = self.nodes.iter().map(|node| (name(node), read(node))).collect();
        let departed: Vec<_> = self.departed.iter().map(read).collect();
        let mut quota = json!({"metadata": {"name": "q"}});
        quota["spec"] = json!({"hard": self.quota["hard"]});
        quota["status"] = json!({"used": self.quota["used"]});
        let quota = Quota::read(&serde_json::from_value(quota).unwrap(), &placement).unwrap();
        let range = json!({"metadata": {"name": "l"}, "spec": {"limits": self.range}});
        let range = Limits::read(&serde_json::from_value(range).unwrap());
        let known = Known {
            nodes: Some(&nodes),
            departed: departed.iter().collect(),
            quotas: Some(&[("q".to_owned(), quota)].into()),
            ranges: Some(&[("l".to_owned(), range)].into()),
        };
        let demand = Demand::of(&config, &self.needs.resources);
        answer(&known, &demand, &self.needs, config.node_autoscaling)
    }
}

fn answer_to(change: impl FnOnce(&mut World)) -> String {
    let mut world = World::new();
    change(&mut world);
    match world.answer() {
        Fulfilment::Yes => "yes".to_owned(),
        Fulfilment::NotNow(reason) => format!("not now: {reason}"),
        Fulfilment::Never(reason) => format!("never: {reason}"),
    }
}

fn resources(cpu: &str, memory: &str) -> Resources {
    Resources {
        cpu_request: Some(cpu.to_owned()),
        memory_request: Some(memory.to_owned()),
        ..Resources::default()
    }
}

fn gpu(count: u64, model: Option<&str>) -> Option<GpuRequest> {
    let model = model.map(str::to_owned);
    Some(GpuRequest { resource: "nvidia.com/gpu".to_owned(), count, model })
}

type Change = fn(&mut World);

fn told(cases: &[(&str, Change)]) -> String {
    let lines = cases.iter().map(|(what, change)| format!("{what}\n  {}\n", answer_to(change)));
    lines.collect()
}

const NEVER: &[(&str, Change)] = &[
    ("more CPU than any node", |w| w.needs.resources = resources("17", "1Gi")),
    ("more memory than any node", |w| w.needs.resources = resources("1", "9Gi")),
    ("fits either node, but not the one of the architecture", |w| {
        w.needs.resources = resources("3", "1Gi");
        w.needs.architecture = Some("arm64".into());
    }),
    ("an architecture", |w| w.needs.architecture = Some("s390x".into())),
    ("an operating system", |w| w.needs.operating_system = Some("windows".into())),
    ("a region", |w| w.needs.region = Some("us".into())),
    ("a GPU that workers are not given", |w| w.needs.gpu = gpu(1, None)),
    ("more GPUs than workers are given", |w| {
        w.config["extended_resources"] = json!({"nvidia.com/gpu": "1"});
        w.needs.gpu = gpu(2, None);
    }),
    ("more GPUs than any node", |w| {
        w.config["extended_resources"] = json!({"nvidia.com/gpu": "4"});
    }),
    ("a GPU model", |w| {
        w.config["extended_resources"] = json!({"nvidia.com/gpu": "1"});
        w.needs.gpu = gpu(1, Some("A100"));
    }),
    ("a node selector", |w| w.config["node_selector"] = json!({"disk": "ssd"})),
    ("a node affinity", |w| {
        w.config["affinity"] = json!({"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]}}});
    }),
    ("taints", |w| {
        for node in &mut w.nodes {
            node["spec"]["taints"] = json!([{"key": "team", "value": "x", "effect": "NoExecute"}]);
        }
    }),
    ("a limit range", |w| {
        w.range = json!([{"type": "Container", "max": {"cpu": "1"}}]);
        w.needs.resources = resources("1500m", "1Gi");
    }),
    ("the least of a limit range", |w| {
        w.range = json!([{"type": "Pod", "min": {"memory": "64Mi"}}]);
        w.needs.resources = resources("1", "32Mi");
    }),
    ("a quota", |w| {
        w.quota = json!({"hard": {"requests.cpu": "1"}});
        w.needs.resources = resources("1500m", "1Gi");
    }),
    ("a quota of limits", |w| w.quota = json!({"hard": {"limits.memory": "512Mi"}})),
    ("a quota of GPUs", |w| {
        w.config["extended_resources"] = json!({"nvidia.com/gpu": "1"});
        w.quota = json!({"hard": {"requests.nvidia.com/gpu": "0"}});
    }),
];

#[test]
fn every_never_is_explained() {
    insta::assert_snapshot!(told(NEVER));
}

const NOT_NOW: &[(&str, Change)] = &[
    ("no room for a pod", |w| {
        w.quota = json!({"hard": {"pods": "10"}, "used": {"pods": "10"}});
    }),
    ("a namespace that is closed", |w| w.quota = json!({"hard": {"pods": "0"}})),
    ("no room for a Secret", |w| {
        w.quota = json!({"hard": {"count/secrets": "4"}, "used": {"count/secrets": "4"}});
    }),
    ("too little memory left", |w| {
        w.quota =
            json!({"hard": {"requests.memory": "4Gi"}, "used": {"requests.memory": "3584Mi"}});
    }),
    ("nodes that are cordoned or not ready", |w| {
        w.nodes[0]["spec"]["unschedulable"] = json!(true);
        w.nodes[1]["status"]["conditions"][0]["status"] = json!("False");
    }),
    ("the only one large enough is being drained", |w| {
        w.nodes[0]["spec"]["taints"] =
            json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
        w.needs.resources = resources("3", "1Gi");
    }),
    ("a node that left", |w| {
        w.departed = vec![w.nodes.remove(0)];
        w.needs.resources = resources("3", "1Gi");
    }),
    ("no node at all", |w| w.nodes.clear()),
];

#[test]
fn every_not_now_is_explained() {
    insta::assert_snapshot!(told(NOT_NOW));
}

#[test]
fn what_is_not_a_no() {
    let cases: [(&str, Change); 6] = [
        ("nothing special", |_| ()),
        ("all of it", |w| {
            w.config["extended_resources"] = json!({"nvidia.com/gpu": "2"});
            w.needs = Requirements {
                resources: resources("3920m", "8Gi"),
                architecture: Some("amd64".into()),
                operating_system: Some("linux".into()),
                gpu: gpu(2, Some("Tesla-T4")),
                region: Some("eu".into()),
            };
        }),
        ("a cordoned node beside one that is not", |w| {
            w.nodes[0]["spec"]["unschedulable"] = json!(true);
        }),
        ("the last pod of the quota", |w| {
            w.quota = json!({"hard": {"pods": "10"}, "used": {"pods": "9"}});
        }),
        ("what a quota counts that workers are not", |w| {
            w.quota = json!({"hard": {"services": "0", "persistentvolumeclaims": "0"}});
        }),
        ("nodes that are added on demand", |w| {
            w.config["node_autoscaling"] = json!(true);
            w.nodes.clear();
            w.needs.resources = resources("64", "1Gi");
        }),
    ];
    for (what, change) in cases {
        assert_eq!(answer_to(change), "yes", "{what}");
    }
}

#[test]
fn what_is_unknown_bounds_nothing() {
    let known = Known { nodes: None, departed: Vec::new(), quotas: None, ranges: None };
    let needs = Requirements { resources: resources("999", "1Gi"), ..Requirements::default() };
    let demand = Demand::of(&KubernetesConfig::default(), &needs.resources);
    assert_eq!(answer(&known, &demand, &needs, false), Fulfilment::Yes);
    assert_eq!(summarize(&known), ProviderCapabilities::default());
}

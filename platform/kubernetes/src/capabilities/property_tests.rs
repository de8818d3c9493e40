//! Whatever the watches told on the way, what is offered is what a plain reading of the objects that
//! are there gives.

use std::collections::BTreeMap;

use hodei_core::provider::{Fulfilment, GpuOffer, NodeCount, ProviderCapabilities, Requirements};
use hodei_core::spec::Resources;
use proptest::{collection::vec, option, prelude::*};
use serde_json::{Value, json};

use super::*;
use crate::{
    KubernetesConfig,
    capabilities::{
        answer::{answer, summarize},
        bounds::Demand,
    },
    testing::provider_id,
};

#[derive(Debug, Clone)]
enum Told {
    Put(Value),
    Delete(Value),
    Relist(Vec<Value>),
}

prop_compose! {
    fn any_node()(
        name in 0..6,
        room in (0..20_000_u64, 0..64_u64, 0..4_u64),
        (zone, arch, model) in (0..3, 0..2_usize, option::of(0..2)),
        (cordoned, ready, ssd) in (any::<bool>(), any::<bool>(), any::<bool>()),
        taint in option::of(0..3_usize),
    ) -> Value {
        let arch = ["amd64", "arm64"][arch];
        let taint = taint.map(|index| ["gpu", "other", "node.kubernetes.io/not-ready"][index]);
        let mut labels = json!({"topology.kubernetes.io/zone": format!("z{zone}")});
        if ssd {
            labels["disk"] = json!("ssd");
        }
        if let Some(model) = model {
            labels["nvidia.com/gpu.product"] = json!(format!("m{model}"));
        }
        json!({
            "metadata": {"name": format!("n{name}"), "resourceVersion": "1", "labels": labels},
            "spec": {"unschedulable": cordoned,
                "taints": taint.map(|key| json!([{"key": key, "effect": "NoSchedule"}]))},
            "status": {
                "allocatable": {"cpu": format!("{}m", room.0), "memory": format!("{}Mi", room.1),
                    "nvidia.com/gpu": room.2.to_string()},
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
                "nodeInfo": {"architecture": arch, "operatingSystem": "linux",
                    "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "",
                    "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "osImage": "",
                    "systemUUID": ""},
            },
        })
    }
}

fn told() -> impl Strategy<Value = Told> {
    prop_oneof![
        4 => any_node().prop_map(Told::Put),
        2 => any_node().prop_map(Told::Delete),
        1 => vec(any_node(), 0..6).prop_map(Told::Relist),
    ]
}

prop_compose! {
    fn any_quota()(
        name in 0..3,
        (pods, cpu, memory) in (option::of(0..9_u64), option::of(0..9_000_u64), option::of(0..32_u64)),
        used in (0..9_u64, 0..9_000_u64, 0..32_u64),
        scope in option::of(0..2_usize),
    ) -> Value {
        let mut hard = json!({});
        if let Some(pods) = pods { hard["pods"] = json!(pods.to_string()); }
        if let Some(cpu) = cpu { hard["requests.cpu"] = json!(format!("{cpu}m")); }
        if let Some(memory) = memory { hard["memory"] = json!(format!("{memory}Mi")); }
        let scopes = scope.map(|index| [["NotBestEffort"], ["BestEffort"]][index]);
        json!({
            "metadata": {"name": format!("q{name}"), "resourceVersion": "1"},
            "spec": {"hard": hard, "scopes": scopes},
            "status": {"used": {"pods": used.0.to_string(), "requests.cpu": format!("{}m", used.1),
                "memory": format!("{}Mi", used.2)}},
        })
    }
}

prop_compose! {
    fn any_range()(
        name in 0..2,
        kind in 0..3_usize,
        (cpu, memory) in (0..9_000_u64, 0..32_u64),
    ) -> Value {
        let kind = ["Container", "Pod", "PersistentVolumeClaim"][kind];
        json!({"metadata": {"name": format!("l{name}"), "resourceVersion": "1"}, "spec": {"limits": [
            {"type": kind, "max": {"cpu": format!("{cpu}m"), "memory": format!("{memory}Mi")}}]}})
    }
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

/// Tells a source; the answer is what is there in the end, as objects.
fn tell<T: Tracked>(
    shared: &Shared,
    placement: &Placement,
    all: &[Told],
) -> BTreeMap<String, Value> {
    let mut there = BTreeMap::new();
    let take = |event: watcher::Event<T::Object>| {
        assert!(shared.take::<T>(&provider_id(), placement, Ok(event)).is_continue());
    };
    let object = |value: &Value| serde_json::from_value(value.clone()).unwrap();
    for told in std::iter::once(&Told::Relist(Vec::new())).chain(all) {
        match told {
            Told::Put(value) => {
                there.insert(name_of(value), value.clone());
                take(watcher::Event::Apply(object(value)));
            }
            Told::Delete(value) => {
                there.remove(&name_of(value));
                take(watcher::Event::Delete(object(value)));
            }
            Told::Relist(values) => {
                there = values.iter().map(|value| (name_of(value), value.clone())).collect();
                take(watcher::Event::Init);
                values.iter().for_each(|value| take(watcher::Event::InitApply(object(value))));
                take(watcher::Event::InitDone);
            }
        }
    }
    there
}

/// A number without its unit; none of the tests mixes units.
fn number(value: &Value) -> Option<u64> {
    value.as_str()?.trim_end_matches("Mi").trim_end_matches('m').parse().ok()
}

fn admits(node: &Value) -> bool {
    let taint = node["spec"]["taints"][0]["key"].as_str();
    node["metadata"]["labels"]["disk"] == "ssd" && taint != Some("other")
}

fn schedulable(node: &Value) -> bool {
    node["spec"]["unschedulable"] == false
        && node["status"]["conditions"][0]["status"] == "True"
        && node["spec"]["taints"][0]["key"] != "node.kubernetes.io/not-ready"
}

fn least(all: impl IntoIterator<Item = Option<u64>>) -> Option<u64> {
    all.into_iter().flatten().min()
}

type Objects = BTreeMap<String, Value>;

fn bounding<'a>(quotas: &'a Objects, ranges: &'a Objects) -> (Vec<&'a Value>, Vec<&'a Value>) {
    let counting = |quota: &&Value| quota["spec"]["scopes"][0] != "BestEffort";
    let ours = |range: &&Value| range["spec"]["limits"][0]["type"] != "PersistentVolumeClaim";
    (quotas.values().filter(counting).collect(), ranges.values().filter(ours).collect())
}

fn plain_reading(nodes: &Objects, quotas: &Objects, ranges: &Objects) -> ProviderCapabilities {
    let (quotas, ranges) = bounding(quotas, ranges);
    let ours: Vec<_> = nodes.values().filter(|node| admits(node)).collect();
    let most = |name: &str| {
        ours.iter().filter_map(|node| number(&node["status"]["allocatable"][name])).max()
    };
    let range = |name: &'static str| {
        ranges.iter().map(move |range| number(&range["spec"]["limits"][0]["max"][name]))
    };
    let hard = |name: &'static str| quotas.iter().map(move |q| number(&q["spec"]["hard"][name]));
    let free = |name: &'static str| {
        least(quotas.iter().map(|quota| {
            let used = number(&quota["status"]["used"][name])?;
            Some(number(&quota["spec"]["hard"][name])?.saturating_sub(used))
        }))
    };
    let listed = |path: &[&str]| {
        let value = |node: &&Value| {
            let found = path.iter().fold(*node, |at, step| &at[*step]);
            found.as_str().unwrap().to_owned()
        };
        let mut all: Vec<_> = ours.iter().map(value).collect();
        all.sort();
        all.dedup();
        all
    };
    let gpus = most("nvidia.com/gpu").filter(|count| *count > 0).map(|count| {
        let with = ours.iter().filter(|n| n["status"]["allocatable"]["nvidia.com/gpu"] != "0");
        let labels =
            with.filter_map(|n| n["metadata"]["labels"]["nvidia.com/gpu.product"].as_str());
        let mut models: Vec<_> = labels.map(str::to_owned).collect();
        models.sort();
        models.dedup();
        ("nvidia.com/gpu".to_owned(), GpuOffer { max_per_worker: count, models })
    });
    let mib = |count: u64| count << 20;
    ProviderCapabilities {
        max_cpu_millis: least(
            [most("cpu").or(Some(0))].into_iter().chain(range("cpu")).chain(hard("requests.cpu")),
        ),
        max_memory_bytes: least(
            [most("memory").or(Some(0))].into_iter().chain(range("memory")).chain(hard("memory")),
        )
        .map(mib),
        free_workers: free("pods"),
        free_cpu_millis: free("requests.cpu"),
        free_memory_bytes: free("memory").map(mib),
        nodes: Some(NodeCount {
            total: nodes.len(),
            admitting: ours.len(),
            schedulable: ours.iter().filter(|node| schedulable(node)).count(),
        }),
        gpus: gpus.into_iter().collect(),
        architectures: listed(&["status", "nodeInfo", "architecture"]),
        operating_systems: listed(&["status", "nodeInfo", "operatingSystem"]),
        zones: listed(&["metadata", "labels", "topology.kubernetes.io/zone"]),
        ..ProviderCapabilities::default()
    }
}

/// 2 for yes, 1 for not now, 0 for never; for a worker whose limits are its requests.
fn plain_verdict(
    (nodes, quotas, ranges): (&Objects, &Objects, &Objects),
    cpu: u64,
    memory: u64,
) -> u8 {
    let (quotas, ranges) = bounding(quotas, ranges);
    let has = |of: &Value, cpu_key: &str| {
        number(&of[cpu_key]).is_none_or(|most| cpu <= most)
            && number(&of["memory"]).is_none_or(|most| memory <= most)
    };
    let fits = |node: &&Value| admits(node) && has(&node["status"]["allocatable"], "cpu");
    let could = nodes.is_empty() || nodes.values().any(|node| fits(&node));
    let bounded = ranges.iter().all(|range| has(&range["spec"]["limits"][0]["max"], "cpu"))
        && quotas.iter().all(|quota| has(&quota["spec"]["hard"], "requests.cpu"));
    let room = |quota: &&Value| {
        [("pods", 1), ("requests.cpu", cpu), ("memory", memory)].into_iter().all(|(key, wanted)| {
            let used = number(&quota["status"]["used"][key]).unwrap();
            number(&quota["spec"]["hard"][key])
                .is_none_or(|hard| wanted <= hard.saturating_sub(used))
        })
    };
    let now = nodes.values().any(|node| fits(&node) && schedulable(node));
    if !could || !bounded {
        0
    } else if !now || !quotas.iter().all(room) {
        1
    } else {
        2
    }
}

proptest! {
    #[test]
    fn what_is_offered_is_what_a_plain_reading_gives(
        nodes in vec(told(), 0..20),
        quotas in vec(any_quota(), 0..4),
        ranges in vec(any_range(), 0..3),
        (cpu, memory) in (1..12_000_u64, 1..48_u64),
    ) {
        let config: KubernetesConfig = serde_json::from_value(json!({
            "node_selector": {"disk": "ssd"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
        })).unwrap();
        let placement = Placement::of(&config);
        let shared = Shared::default();
        let put = |values: &[Value]| values.iter().cloned().map(Told::Put).collect::<Vec<_>>();
        let nodes = tell::<Node>(&shared, &placement, &nodes);
        let quotas = tell::<Quota>(&shared, &placement, &put(&quotas));
        let ranges = tell::<Limits>(&shared, &placement, &put(&ranges));
        let state = shared.state();
        let mut known = state.known(Instant::now());
        prop_assert_eq!(summarize(&known), plain_reading(&nodes, &quotas, &ranges));

        known.departed.clear();
        let (cpu_text, memory_text) = (Some(format!("{cpu}m")), Some(format!("{memory}Mi")));
        let resources = Resources {
            cpu_request: cpu_text.clone(),
            cpu_limit: cpu_text,
            memory_request: memory_text.clone(),
            memory_limit: memory_text,
        };
        let demand = Demand::of(&config, &resources);
        let verdict = match answer(&known, &demand, &Requirements::default(), false) {
            Fulfilment::Never(_) => 0,
            Fulfilment::NotNow(_) => 1,
            Fulfilment::Yes => 2,
        };
        prop_assert_eq!(verdict, plain_verdict((&nodes, &quotas, &ranges), cpu, memory));
    }
}

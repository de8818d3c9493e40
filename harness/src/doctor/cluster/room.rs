//! The room for workers: what quotas and limit ranges leave, and which nodes take them. The rules are
//! the provider's (`hodei_kubernetes`), so that this says what the provider will say.

use hodei_kubernetes::{KubernetesConfig, headroom, why_closed};
use k8s_openapi::api::core::v1::{LimitRange, Node, ResourceQuota};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use super::ask::{Refused, ask};
use crate::doctor::{Check, Status};

/// Nodes that are named of those which take no workers.
const NAMED: usize = 5;

/// Fewer workers than this leave no room to speak of.
const FEW: u64 = 10;

/// Quota and limit range, and how many more workers the quota admits, if that is bounded.
pub(super) async fn bounds(
    client: &Client,
    config: &KubernetesConfig,
) -> ([Check; 2], Option<u64>) {
    let all = ListParams::default();
    let quotas = Api::<ResourceQuota>::namespaced(client.clone(), &config.namespace);
    let ranges = Api::<LimitRange>::namespaced(client.clone(), &config.namespace);
    let (quotas, ranges) = tokio::join!(ask(quotas.list(&all)), ask(ranges.list(&all)));
    let (quota, room) = quota(config, quotas.map(|list| list.items));
    ([quota, limit_range(config, ranges.map(|list| list.items))], room)
}

fn quota(
    config: &KubernetesConfig,
    quotas: Result<Vec<ResourceQuota>, Refused>,
) -> (Check, Option<u64>) {
    let (cpu, memory) = (&config.default_cpu_request, &config.default_memory_request);
    let needed = format!("room for workers of {cpu} and {memory}");
    let check = |status, found: String| Check::new("quota", needed, status, found);
    let quotas = match quotas {
        Ok(quotas) => quotas,
        Err(refused) => return (not_read(check(Status::Warn, refused.to_string())), None),
    };
    let found = headroom(config, &quotas, &[]);
    let fix = "raise the quota (deploy/kubernetes/quota.yaml)";
    let check = match (found.quota, found.used_up, found.workers) {
        (Some(never), ..) => check(Status::Fail, never).fix(fix),
        (None, Some(now), _) => {
            check(Status::Warn, now).fix("wait until workers are gone, or raise it")
        }
        (None, None, Some(workers)) if workers < FEW => {
            check(Status::Warn, format!("for {workers} more")).fix(fix)
        }
        (None, None, Some(workers)) => check(Status::Ok, format!("for {workers} more")),
        (None, None, None) => check(Status::Ok, "no quota counts workers".into()),
    };
    (check, found.workers)
}

fn limit_range(config: &KubernetesConfig, ranges: Result<Vec<LimitRange>, Refused>) -> Check {
    let (cpu, memory) = (&config.default_cpu_limit, &config.default_memory_limit);
    let needed = format!("workers of up to {cpu} and {memory}");
    let check = |status, found: String| Check::new("limit-range", needed, status, found);
    let ranges = match ranges {
        Ok(ranges) => ranges,
        Err(refused) => return not_read(check(Status::Warn, refused.to_string())),
    };
    match headroom(config, &[], &ranges).limit_range {
        Some(never) => check(Status::Fail, never)
            .fix("widen it, or set HODEI_K8S_DEFAULT_{CPU,MEMORY}_{REQUEST,LIMIT}"),
        None if ranges.is_empty() => check(Status::Ok, "no limit range".into()),
        None => check(Status::Ok, "admitted".into()),
    }
}

fn not_read(check: Check) -> Check {
    check.fix("what bounds workers is not known; ask as somebody who may list it")
}

/// The nodes that take workers now; `None` if nobody may say. In their order.
pub(super) async fn nodes(
    client: &Client,
    config: &KubernetesConfig,
) -> (Check, Option<Vec<String>>) {
    let nodes = Api::<Node>::all(client.clone());
    let needed = "a node that takes workers";
    let check = |status, found: String| Check::new("nodes", needed, status, found);
    let nodes = match ask(nodes.list(&ListParams::default())).await {
        Ok(nodes) => nodes.items,
        Err(refused) => {
            let fix = "which take workers is not known: a probe goes where the scheduler puts it";
            return (check(Status::Warn, refused.to_string()).fix(fix), None);
        }
    };
    let (mut open, mut closed) = (Vec::new(), Vec::new());
    for node in &nodes {
        match why_closed(config, node) {
            None => open.push(node.name_any()),
            Some(why) => closed.push(format!("{} ({why})", node.name_any())),
        }
    }
    let mut found = format!("{} of {}", open.len(), nodes.len());
    if !closed.is_empty() {
        let named: Vec<_> = closed.iter().take(NAMED).map(String::as_str).collect();
        found.push_str(&format!("; not {}", named.join(", ")));
        if closed.len() > NAMED {
            found.push_str(&format!(" and {} more", closed.len() - NAMED));
        }
    }
    let fix = "uncordon one, or set HODEI_K8S_TOLERATIONS and HODEI_K8S_NODE_SELECTOR";
    let status = if open.is_empty() { Status::Fail } else { Status::Ok };
    (check(status, found).fix(fix), Some(open))
}

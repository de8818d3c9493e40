//! What the namespace bounds: quotas, which are for all workers together, and limit ranges, which are
//! for one; and what one worker asks of them.

use std::collections::BTreeMap;

use hodei_core::{
    quantity::{parse_bytes, parse_cpu_millis},
    spec::Resources,
};
use k8s_openapi::{
    api::core::v1::{LimitRange, ResourceQuota, ResourceQuotaSpec},
    apimachinery::pkg::api::resource::Quantity,
};

use super::placement::Placement;
use crate::{config::KubernetesConfig, pod::effective_resources};

/// By resource: thousandths of a core for CPU, bytes for memory, a count for what is counted. What is
/// no quantity is left out: what is unknown is not a bound.
pub(super) type Amounts = BTreeMap<String, u64>;

/// What one worker asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Demand {
    requests: Amounts,
    limits: Amounts,
    /// Extended resources; each is request and limit alike.
    pub(super) extended: Amounts,
}

impl Demand {
    pub(super) fn of(config: &KubernetesConfig, asked: &Resources) -> Self {
        let effective = effective_resources(config, asked);
        let amounts = |cpu: &Option<String>, memory: &Option<String>| {
            let pairs = [("cpu", cpu), ("memory", memory)];
            let given = pairs.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?)));
            given.filter_map(|(name, text)| Some((name.to_owned(), parse(name, text)?))).collect()
        };
        let extended = config.extended_resources.iter();
        Self {
            requests: amounts(&effective.cpu_request, &effective.memory_request),
            limits: amounts(&effective.cpu_limit, &effective.memory_limit),
            extended: extended
                .filter_map(|(name, count)| Some((name.clone(), parse(name, count)?)))
                .collect(),
        }
    }

    pub(super) fn request(&self, resource: &str) -> u64 {
        let found = self.requests.get(resource).or_else(|| self.extended.get(resource));
        found.copied().unwrap_or(0)
    }

    /// What a limit range looks at, of a resource that every worker has.
    fn bounded(&self, resource: &str) -> Option<(u64, u64)> {
        let either =
            |of: &Amounts| of.get(resource).or_else(|| self.extended.get(resource)).copied();
        Some((either(&self.requests)?, either(&self.limits)?))
    }

    /// How much one worker takes of what a quota counts under this key.
    fn counted(&self, key: &str) -> Option<u64> {
        match key.split_once('.') {
            Some(("limits", resource)) => self.limits.get(resource).copied(),
            Some(("requests", resource)) => Some(self.request(resource)),
            _ if is_count(key) => Some(1),
            _ => self.requests.get(key).copied(),
        }
    }
}

/// A worker is one pod and one Secret.
fn is_count(key: &str) -> bool {
    matches!(key, "pods" | "count/pods" | "secrets" | "count/secrets")
}

fn parse(resource: &str, text: &str) -> Option<u64> {
    if is_cpu(resource) { parse_cpu_millis(text).ok() } else { parse_bytes(text).ok() }
}

fn is_cpu(resource: &str) -> bool {
    resource == "cpu" || resource.ends_with(".cpu")
}

/// An amount as a person would write it.
pub(super) fn show(resource: &str, amount: u64) -> String {
    if is_cpu(resource) {
        return if amount.is_multiple_of(1000) {
            (amount / 1000).to_string()
        } else {
            format!("{amount}m")
        };
    }
    if resource != "memory" && !resource.ends_with(".memory") {
        return amount.to_string();
    }
    let units = [(30, "Gi"), (20, "Mi"), (10, "Ki")];
    let fits = |shift: &u32| amount > 0 && amount.trailing_zeros() >= *shift;
    match units.into_iter().find(|(shift, _)| fits(shift)) {
        Some((shift, unit)) => format!("{}{unit}", amount >> shift),
        None => amount.to_string(),
    }
}

fn amounts(of: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    let all = of.into_iter().flatten();
    all.filter_map(|(name, amount)| Some((name.clone(), parse(name, &amount.0)?))).collect()
}

/// What is kept of a quota that counts workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quota {
    hard: Amounts,
    used: Amounts,
}

impl Quota {
    /// `None` for a quota that does not count workers, or of which that can't be known: no bound.
    pub(super) fn read(quota: &ResourceQuota, placement: &Placement) -> Option<Self> {
        let spec = quota.spec.as_ref()?;
        let used = quota.status.as_ref().and_then(|status| status.used.as_ref());
        counts_workers(spec, placement)
            .then(|| Self { hard: amounts(spec.hard.as_ref()), used: amounts(used) })
    }

    /// The least that is allowed in all under one of these keys.
    pub(super) fn hard(&self, keys: &[&str]) -> Option<u64> {
        keys.iter().filter_map(|key| self.hard.get(*key).copied()).min()
    }

    /// The least that is left under one of these keys.
    pub(super) fn free(&self, keys: &[&str]) -> Option<u64> {
        keys.iter().filter_map(|key| self.left(key)).min()
    }

    fn left(&self, key: &str) -> Option<u64> {
        let used = self.used.get(key).copied().unwrap_or(0);
        Some(self.hard.get(key)?.saturating_sub(used))
    }

    /// How many such workers it admits beside what it counts now; `None`: it counts nothing of them.
    pub(super) fn room(&self, demand: &Demand) -> Option<u64> {
        let keys = self.hard.keys();
        keys.filter_map(|key| self.left(key)?.checked_div(demand.counted(key)?)).min()
    }

    /// Why it never admits the worker. A quota without a single pod is a namespace that is closed for
    /// a while, and closed is not for ever.
    pub(super) fn refuses(&self, name: &str, demand: &Demand) -> Option<String> {
        self.hard.iter().filter(|(key, _)| !is_count(key)).find_map(|(key, hard)| {
            let wanted = demand.counted(key).filter(|wanted| wanted > hard)?;
            let (wanted, hard) = (show(key, wanted), show(key, *hard));
            Some(format!("{key}: {wanted} wanted, quota {name:?} allows {hard} in all"))
        })
    }

    /// Why it does not admit the worker now.
    pub(super) fn is_used_up(&self, name: &str, demand: &Demand) -> Option<String> {
        self.hard.iter().find_map(|(key, hard)| {
            let left = self.left(key)?;
            let wanted = demand.counted(key).filter(|wanted| *wanted > left)?;
            let (wanted, left, hard) = (show(key, wanted), show(key, left), show(key, *hard));
            Some(format!("{key}: {wanted} wanted, quota {name:?} has {left} of {hard} left"))
        })
    }
}

/// Whether every scope is one that workers are in: they ask for CPU and memory, so they are never
/// `BestEffort`; whether they have a deadline differs, so `Terminating` says nothing.
fn counts_workers(spec: &ResourceQuotaSpec, placement: &Placement) -> bool {
    let mut scopes = spec.scopes.iter().flatten();
    let selector = spec.scope_selector.as_ref();
    let mut rules = selector.into_iter().flat_map(|s| s.match_expressions.iter().flatten());
    scopes.all(|scope| scope == "NotBestEffort")
        && rules.all(|rule| match rule.scope_name.as_str() {
            "NotBestEffort" => true,
            "PriorityClass" => placement.priority_class.as_ref().is_some_and(|class| {
                let listed = rule.values.iter().flatten().any(|value| value == class);
                match rule.operator.as_str() {
                    "In" => listed,
                    "NotIn" => !listed,
                    "Exists" => true,
                    _ => false,
                }
            }),
            _ => false,
        })
}

/// What is kept of one item of a limit range.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Limit {
    /// `Container` or `Pod`; a worker is one container.
    kind: String,
    max: Amounts,
    min: Amounts,
}

/// What is kept of a limit range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limits(Vec<Limit>);

impl Limits {
    pub(super) fn read(range: &LimitRange) -> Self {
        let items = range.spec.iter().flat_map(|spec| &spec.limits);
        let ours = items.filter(|item| matches!(item.type_.as_str(), "Container" | "Pod"));
        let keep = ours.map(|item| Limit {
            kind: item.type_.clone(),
            max: amounts(item.max.as_ref()),
            min: amounts(item.min.as_ref()),
        });
        Self(keep.collect())
    }

    /// Most of a resource that one worker may have.
    pub(super) fn max(&self, resource: &str) -> Option<u64> {
        self.0.iter().filter_map(|limit| limit.max.get(resource).copied()).min()
    }

    /// Why it never admits the worker: a limit above the most, or a request below the least.
    pub(super) fn refuses(&self, name: &str, demand: &Demand) -> Option<String> {
        self.0.iter().find_map(|Limit { kind, max, min }| {
            let above = max.iter().find_map(|(resource, most)| {
                let (_, limit) = demand.bounded(resource).filter(|(_, limit)| limit > most)?;
                let (limit, most) = (show(resource, limit), show(resource, *most));
                Some(format!("{resource} limit: {limit} wanted, limit range {name:?} allows {most} for a {kind}"))
            });
            let below = || {
                min.iter().find_map(|(resource, least)| {
                    let (request, _) = demand.bounded(resource).filter(|(r, _)| r < least)?;
                    let (request, least) = (show(resource, request), show(resource, *least));
                    Some(format!("{resource} request: {request} wanted, limit range {name:?} demands {least} of a {kind}"))
                })
            };
            above.or_else(below)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn amounts_are_shown_as_they_are_written() {
        for (resource, amount, text) in [
            ("cpu", 500, "500m"),
            ("requests.cpu", 2000, "2"),
            ("memory", 3 << 30, "3Gi"),
            ("limits.memory", 1536 << 20, "1536Mi"),
            ("memory", 1001, "1001"),
            ("memory", 0, "0"),
            ("nvidia.com/gpu", 2, "2"),
            ("pods", 1024, "1024"),
        ] {
            assert_eq!(show(resource, amount), text);
        }
    }

    #[test]
    fn only_a_quota_that_surely_counts_workers_bounds() {
        let config = serde_json::from_value(json!({"priority_class": "batch"})).unwrap();
        let class = Placement::of(&config);
        let scoped = |values: &[&str], operator: &str| {
            json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": values}]}})
        };
        for (spec, plain, with_class) in [
            (json!({}), true, true),
            (json!({"scopes": ["NotBestEffort"]}), true, true),
            (json!({"scopes": ["BestEffort"]}), false, false),
            (json!({"scopes": ["Terminating"]}), false, false),
            (scoped(&["batch"], "In"), false, true),
            (scoped(&["other"], "In"), false, false),
            (scoped(&["other"], "NotIn"), false, true),
        ] {
            let quota: ResourceQuota =
                serde_json::from_value::<Value>(json!({"metadata": {}, "spec": spec}))
                    .and_then(serde_json::from_value)
                    .unwrap();
            assert_eq!(Quota::read(&quota, &Placement::default()).is_some(), plain, "{spec}");
            assert_eq!(Quota::read(&quota, &class).is_some(), with_class, "{spec}");
        }
    }
}

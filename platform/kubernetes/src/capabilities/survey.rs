//! The provider's rules for objects that somebody else has read: for who asks whether a cluster is fit
//! for workers before there is a provider. Pure functions.

use hodei_core::spec::Resources;
use k8s_openapi::api::core::v1::{LimitRange, Node as ApiNode, ResourceQuota};
use kube::ResourceExt;

use super::{
    bounds::{Demand, Limits, Quota},
    node::Node,
    placement::Placement,
};
use crate::config::KubernetesConfig;

/// What the bounds of a namespace leave for workers that ask for nothing of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headroom {
    /// Why a limit range never admits one.
    pub limit_range: Option<String>,
    /// Why a quota never admits one.
    pub quota: Option<String>,
    /// Why a quota does not admit one now.
    pub used_up: Option<String>,
    /// How many more the quotas admit; `None`: none of them counts workers.
    pub workers: Option<u64>,
}

/// What these quotas and limit ranges leave for workers of `config`.
#[must_use]
pub fn headroom(
    config: &KubernetesConfig,
    quotas: &[ResourceQuota],
    ranges: &[LimitRange],
) -> Headroom {
    let demand = Demand::of(config, &Resources::default());
    let placement = Placement::of(config);
    let quotas: Vec<_> = quotas
        .iter()
        .filter_map(|quota| Some((quota.name_any(), Quota::read(quota, &placement)?)))
        .collect();
    let by_quota = |refuses: fn(&Quota, &str, &Demand) -> Option<String>| {
        quotas.iter().find_map(|(name, quota)| refuses(quota, name, &demand))
    };
    let refuses = |range: &LimitRange| Limits::read(range).refuses(&range.name_any(), &demand);
    Headroom {
        limit_range: ranges.iter().find_map(refuses),
        quota: by_quota(Quota::refuses),
        used_up: by_quota(Quota::is_used_up),
        workers: quotas.iter().filter_map(|(_, quota)| quota.room(&demand)).min(),
    }
}

/// Why a node takes no worker of `config`, ever or now; `None` if it does.
#[must_use]
pub fn why_closed(config: &KubernetesConfig, node: &ApiNode) -> Option<String> {
    let node = Node::read(node, &Placement::of(config));
    let barred = node.barred.map(|barred| barred.to_string());
    barred.or_else(|| node.closed.map(|closed| closed.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn quota(hard: Value, used: Value) -> ResourceQuota {
        serde_json::from_value(json!({"metadata": {"name": "q"},
            "spec": {"hard": hard}, "status": {"hard": hard, "used": used}}))
        .unwrap()
    }

    fn range(item: Value) -> LimitRange {
        serde_json::from_value(json!({"metadata": {"name": "r"}, "spec": {"limits": [item]}}))
            .unwrap()
    }

    /// A default worker asks for 500m and 1Gi, and may use 2 and 4Gi.
    #[test]
    fn the_scarcest_bound_says_how_many_more_there_may_be() {
        let config = KubernetesConfig::default();
        let of = |quotas: &[ResourceQuota]| headroom(&config, quotas, &[]);
        assert_eq!(of(&[]).workers, None);
        for (hard, used, workers, quota_says, used_up_says) in [
            (json!({"pods": "200"}), json!({"pods": "3"}), Some(197), None, None),
            (
                json!({"pods": "20", "limits.cpu": "10"}),
                json!({"limits.cpu": "1"}),
                Some(4),
                None,
                None,
            ),
            (json!({"services": "0"}), json!({}), None, None, None),
            (json!({"pods": "2"}), json!({"pods": "2"}), Some(0), None, Some("has 0 of 2 left")),
            (
                json!({"requests.memory": "512Mi"}),
                json!({}),
                Some(0),
                Some("allows 512Mi in all"),
                Some("has 512Mi"),
            ),
        ] {
            let found =
                of(&[quota(hard.clone(), used), quota(json!({"configmaps": "1"}), json!({}))]);
            assert_eq!(found.workers, workers, "{hard}");
            let says = |text: &Option<String>, part: Option<&str>| match (text, part) {
                (Some(text), Some(part)) => text.contains(part),
                (text, part) => text.is_none() && part.is_none(),
            };
            assert!(says(&found.quota, quota_says), "{hard}: {found:?}");
            assert!(says(&found.used_up, used_up_says), "{hard}: {found:?}");
        }
    }

    #[test]
    fn a_limit_range_that_never_admits_a_worker_is_named() {
        let config = KubernetesConfig::default();
        let of = |item| headroom(&config, &[], &[range(item)]).limit_range;
        assert_eq!(of(json!({"type": "Container", "max": {"cpu": "4"}})), None);
        let refused = of(json!({"type": "Container", "max": {"cpu": "1"}})).unwrap();
        assert_eq!(refused, "cpu limit: 2 wanted, limit range \"r\" allows 1 for a Container");
    }

    #[test]
    fn a_node_says_why_it_takes_no_worker() {
        let node = |spec: Value, ready: &str| -> ApiNode {
            let conditions = json!([{"type": "Ready", "status": ready}]);
            let status = json!({"conditions": conditions});
            serde_json::from_value(
                json!({"metadata": {"name": "n"}, "spec": spec, "status": status}),
            )
            .unwrap()
        };
        let taints = json!({"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]});
        let config = KubernetesConfig::default();
        for (spec, ready, why) in [
            (json!({}), "True", None),
            (json!({}), "False", Some("not ready")),
            (json!({"unschedulable": true}), "True", Some("cordoned")),
            (taints.clone(), "True", Some("with the taint gpu=yes:NoSchedule")),
        ] {
            assert_eq!(why_closed(&config, &node(spec, ready)).as_deref(), why);
        }
        let tolerations = vec!["gpu=yes:NoSchedule".parse().unwrap()];
        let config = KubernetesConfig { tolerations, ..config };
        assert_eq!(why_closed(&config, &node(taints, "True")), None);
    }
}

//! Which nodes the provider's own settings let a worker on to: node selector, required node affinity
//! and tolerations, by the rules of the scheduler.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Taint};

use crate::config::{KubernetesConfig, KubernetesToleration, TolerationOperator};

/// What of a configuration decides about nodes and quotas.
#[derive(Debug, Clone, Default)]
pub(super) struct Placement {
    selector: BTreeMap<String, String>,
    affinity: Option<Vec<NodeSelectorTerm>>,
    tolerations: Vec<KubernetesToleration>,
    pub(super) priority_class: Option<String>,
}

impl Placement {
    pub(super) fn of(config: &KubernetesConfig) -> Self {
        let by_node = config.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required =
            by_node.and_then(|by| by.required_during_scheduling_ignored_during_execution.as_ref());
        Self {
            selector: config.node_selector.clone(),
            affinity: required.map(|required| required.node_selector_terms.clone()),
            tolerations: config.tolerations.clone(),
            priority_class: config.priority_class.clone(),
        }
    }

    /// The first label of the node selector that the node lacks.
    pub(super) fn missing_label(&self, node: &Node) -> Option<(&String, &String)> {
        let labels = node.metadata.labels.as_ref();
        let found = |key: &String| labels.and_then(|labels| labels.get(key));
        self.selector.iter().find(|(key, value)| found(key) != Some(*value))
    }

    /// Whether one term of the required node affinity holds. A term without rules never does.
    pub(super) fn has_affinity_to(&self, node: &Node) -> bool {
        let Some(terms) = &self.affinity else { return true };
        let holds = |term: &NodeSelectorTerm| {
            let labels = term.match_expressions.iter().flatten();
            let fields = term.match_fields.iter().flatten();
            let name = |key: &str| node.metadata.name.as_ref().filter(|_| key == "metadata.name");
            let label = |key: &str| node.metadata.labels.as_ref()?.get(key);
            let empty = labels.clone().next().is_none() && fields.clone().next().is_none();
            !empty
                && labels.clone().all(|rule| meets(rule, label(&rule.key)))
                && fields.clone().all(|rule| meets(rule, name(&rule.key)))
        };
        terms.iter().any(holds)
    }

    /// Whether a worker may be where this taint is.
    pub(super) fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|toleration| {
            let value = taint.value.as_deref().unwrap_or_default();
            let by_effect = toleration.effect.is_none_or(|effect| effect.as_str() == taint.effect);
            let by_key = match toleration.key.as_deref() {
                None | Some("") => true,
                Some(key) => key == taint.key,
            };
            let by_value = match toleration.operator {
                TolerationOperator::Exists => true,
                TolerationOperator::Equal => {
                    toleration.value.as_deref().unwrap_or_default() == value
                }
            };
            by_effect && by_key && by_value
        })
    }
}

fn meets(rule: &NodeSelectorRequirement, found: Option<&String>) -> bool {
    let values = rule.values.as_deref().unwrap_or_default();
    let number = |text: &String| text.parse::<i64>().ok();
    let compared = || Some(number(found?)?.cmp(&number(values.first()?)?));
    match rule.operator.as_str() {
        "In" => found.is_some_and(|found| values.contains(found)),
        "NotIn" => found.is_none_or(|found| !values.contains(found)),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => compared() == Some(std::cmp::Ordering::Greater),
        "Lt" => compared() == Some(std::cmp::Ordering::Less),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(labels: Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n", "labels": labels}})).unwrap()
    }

    fn affinity(terms: Value) -> Placement {
        Placement::of(
            &serde_json::from_value(json!({"affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}))
            .unwrap(),
        )
    }

    #[test]
    fn the_operators_of_node_affinity() {
        let node = node(json!({"disk": "ssd", "cores": "16"}));
        for (operator, key, values, holds) in [
            ("In", "disk", json!(["hdd", "ssd"]), true),
            ("In", "disk", json!(["hdd"]), false),
            ("In", "zone", json!(["a"]), false),
            ("NotIn", "disk", json!(["ssd"]), false),
            ("NotIn", "zone", json!(["a"]), true),
            ("Exists", "disk", json!([]), true),
            ("DoesNotExist", "disk", json!([]), false),
            ("Gt", "cores", json!(["8"]), true),
            ("Gt", "cores", json!(["16"]), false),
            ("Lt", "cores", json!(["32"]), true),
            ("Lt", "disk", json!(["32"]), false),
            ("Near", "disk", json!(["ssd"]), false),
        ] {
            let rule = json!({"key": key, "operator": operator, "values": values});
            let placement = affinity(json!([{"matchExpressions": [rule.clone()]}]));
            assert_eq!(placement.has_affinity_to(&node), holds, "{rule}");
        }
    }

    #[test]
    fn one_term_must_hold_and_an_empty_one_never_does() {
        let there = node(json!({"disk": "ssd"}));
        let by_name = json!({"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": ["n"]}]});
        let other = json!({"matchExpressions": [{"key": "gpu", "operator": "Exists"}]});
        assert!(affinity(json!([other, by_name])).has_affinity_to(&there));
        assert!(!affinity(json!([other])).has_affinity_to(&there));
        assert!(!affinity(json!([{}])).has_affinity_to(&there));
        assert!(!affinity(json!([])).has_affinity_to(&there));
        assert!(Placement::default().has_affinity_to(&there));
    }

    #[test]
    fn tolerations_as_the_scheduler_reads_them() {
        let taint = |key: &str, value: &str, effect: &str| Taint {
            key: key.into(),
            value: Some(value.into()),
            effect: effect.into(),
            time_added: None,
        };
        for (toleration, taint, expected) in [
            (json!({"key": "gpu", "operator": "Exists"}), taint("gpu", "a", "NoExecute"), true),
            (json!({"operator": "Exists"}), taint("gpu", "a", "NoSchedule"), true),
            (json!({"key": "gpu", "value": "a"}), taint("gpu", "a", "NoSchedule"), true),
            (json!({"key": "gpu", "value": "b"}), taint("gpu", "a", "NoSchedule"), false),
            (
                json!({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}),
                taint("gpu", "a", "NoExecute"),
                false,
            ),
            (json!({"key": "cpu", "operator": "Exists"}), taint("gpu", "", "NoSchedule"), false),
        ] {
            let config = json!({"tolerations": [toleration.clone()]});
            let placement = Placement::of(&serde_json::from_value(config).unwrap());
            assert_eq!(placement.tolerates(&taint), expected, "{toleration} {taint:?}");
        }
    }
}

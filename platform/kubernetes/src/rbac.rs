//! The permissions this crate uses, as data. A test keeps `deploy/kubernetes/rbac.yaml` equal to it,
//! and the health check asks for exactly these.

/// Where a permission is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In the workers' namespace.
    Namespace,
    /// In the whole cluster. Without it the provider works, and knows less about the nodes.
    Cluster,
}

/// One rule of a Role or ClusterRole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Where it applies.
    pub scope: Scope,
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The resource, with its subresource.
    pub resource: &'static str,
    /// What is done with it.
    pub verbs: &'static [&'static str],
}

impl Rule {
    /// Whether the provider does its work without it, and tells less.
    #[must_use]
    pub fn is_optional(&self) -> bool {
        self.scope == Scope::Cluster || self.resource == "events"
    }
}

/// Everything the provider calls, and nothing else.
///
/// Secrets can be made and removed, never read: not even the provider can get a password back.
pub const REQUIRED_RULES: &[Rule] = &[
    Rule {
        scope: Scope::Namespace,
        group: "",
        resource: "pods",
        verbs: &["create", "delete", "get", "list", "watch"],
    },
    Rule { scope: Scope::Namespace, group: "", resource: "pods/log", verbs: &["get"] },
    Rule { scope: Scope::Namespace, group: "", resource: "secrets", verbs: &["create", "delete"] },
    Rule { scope: Scope::Namespace, group: "", resource: "events", verbs: &["list"] },
    Rule { scope: Scope::Namespace, group: "", resource: "limitranges", verbs: &["list", "watch"] },
    Rule {
        scope: Scope::Namespace,
        group: "",
        resource: "resourcequotas",
        verbs: &["list", "watch"],
    },
    Rule { scope: Scope::Cluster, group: "", resource: "nodes", verbs: &["list", "watch"] },
];

#[cfg(test)]
mod tests {
    use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
    use serde::de::DeserializeOwned;

    use super::*;

    /// The documents of one kind in a manifest.
    fn documents<T: DeserializeOwned>(text: &str, kind: &str) -> Vec<T> {
        let of_kind = format!("\nkind: {kind}\n");
        text.split("\n---\n")
            .filter(|document| document.contains(&of_kind))
            .map(|document| serde_saphyr::from_str(document).unwrap())
            .collect()
    }

    fn manifest(name: &str) -> String {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/kubernetes/");
        format!("\n{}", std::fs::read_to_string(format!("{root}{name}")).unwrap())
    }

    fn granted(rules: impl IntoIterator<Item = PolicyRule>) -> Vec<(String, String, String)> {
        let mut all = Vec::new();
        for rule in rules {
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    for verb in &rule.verbs {
                        all.push((group.clone(), resource.clone(), verb.clone()));
                    }
                }
            }
        }
        all.sort();
        all
    }

    fn required(scope: Scope) -> Vec<(String, String, String)> {
        let rules = REQUIRED_RULES.iter().filter(|rule| rule.scope == scope);
        let each = rules.flat_map(|rule| {
            let triple =
                |verb: &&str| (rule.group.to_owned(), rule.resource.to_owned(), (*verb).to_owned());
            rule.verbs.iter().map(triple)
        });
        let mut all: Vec<_> = each.collect();
        all.sort();
        all
    }

    #[test]
    fn the_manifests_grant_what_the_code_needs_and_no_more() {
        for name in ["rbac.yaml", "rbac-test.yaml"] {
            let roles: Vec<Role> = documents(&manifest(name), "Role");
            let rules = roles.into_iter().flat_map(|role| role.rules.unwrap_or_default());
            assert_eq!(granted(rules), required(Scope::Namespace), "{name}");
        }
        let roles: Vec<ClusterRole> = documents(&manifest("rbac.yaml"), "ClusterRole");
        let rules = roles.into_iter().flat_map(|role| role.rules.unwrap_or_default());
        assert_eq!(granted(rules), required(Scope::Cluster));
    }
}

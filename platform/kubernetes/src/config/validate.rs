//! The rules of a configuration. All mistakes are told at once, each with its field and the
//! environment variable it may have come from.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use hodei_core::{
    id::is_dns_label,
    quantity::{parse_bytes, parse_cpu_millis},
};

use super::{KubernetesConfig, env::SETTINGS};
use crate::names;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The field, as the REST API spells it.
    pub field: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = self.field.split(['[', '.']).next().unwrap_or_default();
        match SETTINGS.iter().find(|setting| setting.field == plain) {
            Some(setting) => write!(f, "{} ({}): {}", self.field, setting.variable, self.problem),
            None => write!(f, "{}: {}", self.field, self.problem),
        }
    }
}

/// All mistakes of one configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct InvalidConfig(pub Vec<ConfigProblem>);

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

/// Longest grace period, in seconds: a day.
const MAX_GRACE_SECONDS: u32 = 24 * 3600;

/// Most requests a second, and at once; above it there is no limit that means anything.
const MAX_REQUESTS: u32 = 100_000;

#[derive(Default)]
struct Findings(Vec<ConfigProblem>);

impl Findings {
    fn require(&mut self, good: bool, field: impl Into<String>, problem: impl FnOnce() -> String) {
        if !good {
            self.0.push(ConfigProblem { field: field.into(), problem: problem() });
        }
    }
}

impl KubernetesConfig {
    /// Checks every rule.
    ///
    /// # Errors
    /// Every mistake, in the order of the fields.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let mut found = Findings::default();
        found.require(is_dns_label(&self.namespace), "namespace", || {
            format!("{:?} is not a DNS-1123 label (a-z, 0-9, '-', at most 63)", self.namespace)
        });
        for (field, path) in [("kubeconfig", &self.kubeconfig), ("context", &self.context)] {
            let empty = path.as_deref().is_some_and(|text| text.trim().is_empty());
            found.require(!empty, field, || "is empty; leave it out for the default".to_owned());
        }
        check_subdomain("service_account", &self.service_account, &mut found);
        found.require(is_image(&self.image), "image", || {
            format!("{:?} is not an image name", self.image)
        });
        for (index, name) in self.image_pull_secrets.iter().enumerate() {
            check_subdomain(&format!("image_pull_secrets[{index}]"), name, &mut found);
        }
        self.validate_quantities(&mut found);
        self.validate_extended(&mut found);
        check_labels("node_selector", &self.node_selector, &mut found);
        for (index, toleration) in self.tolerations.iter().enumerate() {
            if let Err(error) = toleration.validate() {
                found.require(false, format!("tolerations[{index}]"), || error.to_string());
            }
        }
        self.validate_hosts(&mut found);
        self.validate_volumes(&mut found);
        found.require(
            self.grace_period_seconds <= MAX_GRACE_SECONDS,
            "grace_period_seconds",
            || format!("{} is more than {MAX_GRACE_SECONDS}", self.grace_period_seconds),
        );
        found.require(self.startup_timeout_seconds > 0, "startup_timeout_seconds", || {
            "must be at least 1".to_owned()
        });
        for (field, number) in [
            ("api_requests_per_second", self.api_requests_per_second),
            ("api_burst", self.api_burst),
        ] {
            found.require((1..=MAX_REQUESTS).contains(&number), field, || {
                format!("{number} is not from 1 to {MAX_REQUESTS}")
            });
        }
        check_labels("labels", &self.labels, &mut found);
        for key in self.labels.keys() {
            found.require(!names::is_reserved_label(key), format!("labels[{key:?}]"), || {
                "is one of the provider's own labels".to_owned()
            });
        }
        for key in self.annotations.keys() {
            found.require(names::is_label_key(key), format!("annotations[{key:?}]"), || {
                "is not an annotation key".to_owned()
            });
        }
        for (field, class) in
            [("priority_class", &self.priority_class), ("runtime_class", &self.runtime_class)]
        {
            if let Some(class) = class {
                check_subdomain(field, class, &mut found);
            }
        }
        if found.0.is_empty() { Ok(()) } else { Err(InvalidConfig(found.0)) }
    }

    fn validate_quantities(&self, found: &mut Findings) {
        let mut quantity = |field, text: &str, parse: Parse| match parse(text) {
            Ok(value) => Some(value),
            Err(problem) => {
                found.require(false, field, || problem);
                None
            }
        };
        let cpu: Parse = |text| parse_cpu_millis(text).map_err(|error| error.to_string());
        let memory: Parse = |text| parse_bytes(text).map_err(|error| error.to_string());
        let pairs = [
            (
                "default_cpu_request",
                quantity("default_cpu_request", &self.default_cpu_request, cpu),
                quantity("default_cpu_limit", &self.default_cpu_limit, cpu),
            ),
            (
                "default_memory_request",
                quantity("default_memory_request", &self.default_memory_request, memory),
                quantity("default_memory_limit", &self.default_memory_limit, memory),
            ),
        ];
        quantity("workspace_size", &self.workspace_size, memory);
        quantity("tmp_size", &self.tmp_size, memory);
        for (field, request, limit) in pairs {
            if let (Some(request), Some(limit)) = (request, limit) {
                found.require(request <= limit, field, || "is more than its limit".to_owned());
            }
        }
    }

    /// Extended resources have a domain that is not the cluster's own, and are counted.
    fn validate_extended(&self, found: &mut Findings) {
        for (name, count) in &self.extended_resources {
            let domain = name.split_once('/').map_or("", |(domain, _)| domain);
            let own = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
            let good = !domain.is_empty()
                && !own
                && !domain.starts_with("requests.")
                && names::is_label_key(name);
            let field = format!("extended_resources[{name:?}]");
            found.require(good, field.clone(), || {
                "is not the name of an extended resource, as nvidia.com/gpu".to_owned()
            });
            found.require(count.parse::<u32>().is_ok_and(|count| count > 0), field, || {
                format!("{count:?} is not a whole number, 1 or more")
            });
        }
    }

    fn validate_hosts(&self, found: &mut Findings) {
        for (index, alias) in self.host_aliases.iter().enumerate() {
            let field = format!("host_aliases[{index}]");
            found.require(alias.ip.parse::<IpAddr>().is_ok(), format!("{field}.ip"), || {
                format!("{:?} is not an IP address", alias.ip)
            });
            let field = format!("{field}.hostnames");
            found.require(!alias.hostnames.is_empty(), field.clone(), || "is empty".to_owned());
            for name in &alias.hostnames {
                check_subdomain(&field, name, found);
            }
        }
    }

    fn validate_volumes(&self, found: &mut Findings) {
        for (index, volume) in self.volumes.iter().enumerate() {
            let taken = names::OWN_VOLUMES.contains(&volume.name.as_str());
            found.require(!taken, format!("volumes[{index}].name"), || {
                format!("{:?} is one of the provider's own volumes", volume.name)
            });
        }
        for (index, mount) in self.volume_mounts.iter().enumerate() {
            let field = format!("volume_mounts[{index}]");
            let known = self.volumes.iter().any(|volume| volume.name == mount.name);
            found.require(known, format!("{field}.name"), || {
                format!("no volume is called {:?}", mount.name)
            });
            let taken = names::OWN_MOUNTS.contains(&mount.mount_path.trim_end_matches('/'));
            found.require(!taken, format!("{field}.mountPath"), || {
                format!("{:?} is one of the provider's own mounts", mount.mount_path)
            });
        }
    }
}

type Parse = fn(&str) -> Result<u64, String>;

fn check_subdomain(field: &str, text: &str, found: &mut Findings) {
    found.require(names::is_dns_subdomain(text), field, || {
        format!("{text:?} is not a DNS-1123 subdomain (a-z, 0-9, '-', '.', at most 253)")
    });
}

fn check_labels(field: &str, labels: &BTreeMap<String, String>, found: &mut Findings) {
    for (key, value) in labels {
        let good = names::is_label_key(key) && names::is_label_value(value);
        found.require(good, format!("{field}[{key:?}]"), || {
            format!("with the value {value:?} is not a Kubernetes label")
        });
    }
}

fn is_image(text: &str) -> bool {
    (1..=1024).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HostAlias;

    fn fields(change: impl FnOnce(&mut KubernetesConfig)) -> Vec<String> {
        let mut config = KubernetesConfig::default();
        change(&mut config);
        let problems = config.validate().err().map(|invalid| invalid.0).unwrap_or_default();
        problems.into_iter().map(|problem| problem.field).collect()
    }

    #[test]
    fn each_rule_names_its_field() {
        type Change = fn(&mut KubernetesConfig);
        let cases: &[(&str, Change)] = &[
            ("namespace", |c| c.namespace = "Team_A".into()),
            ("kubeconfig", |c| c.kubeconfig = Some(" ".into())),
            ("service_account", |c| c.service_account = String::new()),
            ("image", |c| c.image = "a b".into()),
            ("image_pull_secrets[0]", |c| c.image_pull_secrets = vec!["-".into()]),
            ("default_cpu_request", |c| c.default_cpu_request = "3".into()),
            ("default_memory_limit", |c| c.default_memory_limit = "4GB".into()),
            ("workspace_size", |c| c.workspace_size = "big".into()),
            ("extended_resources[\"gpu\"]", |c| {
                _ = c.extended_resources.insert("gpu".into(), "1".into());
            }),
            ("extended_resources[\"kubernetes.io/x\"]", |c| {
                _ = c.extended_resources.insert("kubernetes.io/x".into(), "1".into());
            }),
            ("extended_resources[\"nvidia.com/gpu\"]", |c| {
                _ = c.extended_resources.insert("nvidia.com/gpu".into(), "500m".into());
            }),
            ("node_selector[\"a b\"]", |c| _ = c.node_selector.insert("a b".into(), "".into())),
            ("tolerations[0]", |c| {
                c.tolerations = serde_json::from_str(r#"[{"value": "x"}]"#).unwrap();
            }),
            ("host_aliases[0].ip", |c| {
                c.host_aliases = vec![HostAlias { ip: "x".into(), hostnames: vec!["a".into()] }];
            }),
            ("volumes[0].name", |c| {
                c.volumes = serde_json::from_str(r#"[{"name": "tmp"}]"#).unwrap();
            }),
            ("volume_mounts[0].name", |c| {
                c.volume_mounts =
                    serde_json::from_str(r#"[{"name": "a", "mountPath": "/a"}]"#).unwrap();
            }),
            ("grace_period_seconds", |c| c.grace_period_seconds = u32::MAX),
            ("startup_timeout_seconds", |c| c.startup_timeout_seconds = 0),
            ("api_requests_per_second", |c| c.api_requests_per_second = 0),
            ("api_burst", |c| c.api_burst = u32::MAX),
            ("labels[\"app\"]", |c| _ = c.labels.insert("app".into(), "x".into())),
            ("labels[\"hodei.io/job-id\"]", |c| {
                _ = c.labels.insert("hodei.io/job-id".into(), "x".into());
            }),
            ("annotations[\"/\"]", |c| _ = c.annotations.insert("/".into(), "x".into())),
            ("priority_class", |c| c.priority_class = Some("A".into())),
        ];
        for (field, change) in cases {
            assert_eq!(fields(change), [*field]);
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once_with_their_variables() {
        let config = KubernetesConfig {
            namespace: "A".into(),
            default_cpu_limit: "x".into(),
            startup_timeout_seconds: 0,
            ..KubernetesConfig::default()
        };
        let text = config.validate().unwrap_err().to_string();
        for part in [
            "namespace (HODEI_K8S_NAMESPACE)",
            "default_cpu_limit (HODEI_K8S_DEFAULT_CPU_LIMIT)",
            "startup_timeout_seconds (HODEI_K8S_STARTUP_TIMEOUT_SECONDS)",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}

//! A configuration from environment variables. The environment is handed in, never read here, so
//! that a test needs none.

use std::{collections::BTreeMap, str::FromStr};

use super::{
    HostAlias, ImagePullPolicy, InvalidConfig, KubernetesConfig, KubernetesToleration,
    validate::ConfigProblem,
};

/// One variable that [`KubernetesConfig::from_env`] reads.
#[derive(Debug)]
pub struct Setting {
    /// The variable.
    pub variable: &'static str,
    /// The field it sets.
    pub field: &'static str,
    /// What may be written there.
    pub form: &'static str,
    read: fn(&mut KubernetesConfig, &str) -> Result<(), String>,
}

/// Every variable, in the order of the fields; the table in the documentation is made from it.
pub const SETTINGS: &[Setting] = &[
    Setting {
        variable: "HODEI_K8S_NAMESPACE",
        field: "namespace",
        form: "a DNS-1123 label",
        read: |config, text| text_into(&mut config.namespace, text),
    },
    Setting {
        variable: "HODEI_K8S_KUBECONFIG",
        field: "kubeconfig",
        form: "a path",
        read: |config, text| parse_some(&mut config.kubeconfig, text),
    },
    Setting {
        variable: "HODEI_K8S_CONTEXT",
        field: "context",
        form: "a context of the kubeconfig",
        read: |config, text| parse_some(&mut config.context, text),
    },
    Setting {
        variable: "HODEI_K8S_SERVICE_ACCOUNT",
        field: "service_account",
        form: "a service account",
        read: |config, text| text_into(&mut config.service_account, text),
    },
    Setting {
        variable: "HODEI_WORKER_IMAGE",
        field: "image",
        form: "an image name",
        read: |config, text| text_into(&mut config.image, text),
    },
    Setting {
        variable: "HODEI_K8S_IMAGE_PULL_POLICY",
        field: "image_pull_policy",
        form: "Always, IfNotPresent or Never",
        read: |config, text| {
            config.image_pull_policy = match text {
                "Always" => ImagePullPolicy::Always,
                "IfNotPresent" => ImagePullPolicy::IfNotPresent,
                "Never" => ImagePullPolicy::Never,
                other => return Err(format!("{other:?} is not Always, IfNotPresent or Never")),
            };
            Ok(())
        },
    },
    Setting {
        variable: "HODEI_K8S_IMAGE_PULL_SECRET",
        field: "image_pull_secrets",
        form: "names of Secrets, separated by commas",
        read: |config, text| {
            config.image_pull_secrets = list(text).map(str::to_owned).collect();
            Ok(())
        },
    },
    Setting {
        variable: "HODEI_K8S_DEFAULT_CPU_REQUEST",
        field: "default_cpu_request",
        form: "a quantity: 500m, 2",
        read: |config, text| text_into(&mut config.default_cpu_request, text),
    },
    Setting {
        variable: "HODEI_K8S_DEFAULT_MEMORY_REQUEST",
        field: "default_memory_request",
        form: "a quantity: 128Mi, 1Gi",
        read: |config, text| text_into(&mut config.default_memory_request, text),
    },
    Setting {
        variable: "HODEI_K8S_DEFAULT_CPU_LIMIT",
        field: "default_cpu_limit",
        form: "a quantity: 500m, 2",
        read: |config, text| text_into(&mut config.default_cpu_limit, text),
    },
    Setting {
        variable: "HODEI_K8S_DEFAULT_MEMORY_LIMIT",
        field: "default_memory_limit",
        form: "a quantity: 128Mi, 1Gi",
        read: |config, text| text_into(&mut config.default_memory_limit, text),
    },
    Setting {
        variable: "HODEI_K8S_NODE_SELECTOR",
        field: "node_selector",
        form: "key=value, separated by commas",
        read: |config, text| {
            config.node_selector = list(text)
                .map(|pair| {
                    let (key, value) =
                        pair.split_once('=').ok_or_else(|| format!("{pair:?} is not key=value"))?;
                    Ok((key.trim().to_owned(), value.trim().to_owned()))
                })
                .collect::<Result<_, String>>()?;
            Ok(())
        },
    },
    Setting {
        variable: "HODEI_K8S_TOLERATIONS",
        field: "tolerations",
        form: "key[=value][:effect[:seconds]], separated by commas",
        read: |config, text| {
            let parse = |one: &str| one.parse::<KubernetesToleration>().map_err(|e| e.to_string());
            config.tolerations = list(text).map(parse).collect::<Result<_, _>>()?;
            Ok(())
        },
    },
    Setting {
        variable: "HODEI_K8S_HOST_ALIASES",
        field: "host_aliases",
        form: "name=address, separated by commas",
        read: |config, text| {
            config.host_aliases = host_aliases(text)?;
            Ok(())
        },
    },
    Setting {
        variable: "HODEI_K8S_GRACE_PERIOD_SECONDS",
        field: "grace_period_seconds",
        form: "seconds",
        read: |config, text| seconds(text).map(|value| config.grace_period_seconds = value),
    },
    Setting {
        variable: "HODEI_K8S_STARTUP_TIMEOUT_SECONDS",
        field: "startup_timeout_seconds",
        form: "seconds",
        read: |config, text| seconds(text).map(|value| config.startup_timeout_seconds = value),
    },
    Setting {
        variable: "HODEI_K8S_TTL_SECONDS_AFTER_FINISHED",
        field: "ttl_seconds_after_finished",
        form: "seconds",
        read: |config, text| {
            config.ttl_seconds_after_finished = Some(seconds(text)?);
            Ok(())
        },
    },
    Setting {
        variable: "HODEI_K8S_API_REQUESTS_PER_SECOND",
        field: "api_requests_per_second",
        form: "a whole number, 1 or more",
        read: |config, text| number(text).map(|value| config.api_requests_per_second = value),
    },
    Setting {
        variable: "HODEI_K8S_API_BURST",
        field: "api_burst",
        form: "a whole number, 1 or more",
        read: |config, text| number(text).map(|value| config.api_burst = value),
    },
];

/// The canonical switch and the older name for it.
const ENABLED: [&str; 2] = ["HODEI_K8S_ENABLED", "HODEI_KUBERNETES_ENABLED"];

/// Whether the environment asks for a Kubernetes provider (`1`, `true`, `yes`).
pub fn is_enabled(lookup: impl Fn(&str) -> Option<String>) -> bool {
    let [canonical, older] = ENABLED;
    let value = lookup(canonical).or_else(|| {
        let value = lookup(older)?;
        tracing::warn!("{older} is deprecated; write {canonical}");
        Some(value)
    });
    value.is_some_and(|text| matches!(text.trim(), "1" | "true" | "yes"))
}

impl KubernetesConfig {
    /// The defaults with what the environment says; a variable that is empty says nothing.
    ///
    /// # Errors
    /// Every mistake, each with its field and variable.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidConfig> {
        let mut config = Self::default();
        let mut problems = Vec::new();
        for setting in SETTINGS {
            let Some(text) = lookup(setting.variable) else { continue };
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            if let Err(problem) = (setting.read)(&mut config, text) {
                problems.push(ConfigProblem { field: setting.field.to_owned(), problem });
            }
        }
        if let Err(InvalidConfig(further)) = config.validate() {
            problems.extend(further);
        }
        if problems.is_empty() { Ok(config) } else { Err(InvalidConfig(problems)) }
    }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn text_into(field: &mut String, text: &str) -> Result<(), String> {
    text.clone_into(field);
    Ok(())
}

fn parse_some<T: FromStr>(field: &mut Option<T>, text: &str) -> Result<(), String> {
    let value = text.parse().map_err(|_| format!("{text:?} is not understood"))?;
    *field = Some(value);
    Ok(())
}

fn seconds(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("{text:?} is not a whole number of seconds, 0 or more"))
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("{text:?} is not a whole number"))
}

fn host_aliases(text: &str) -> Result<Vec<HostAlias>, String> {
    let mut by_address: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for pair in list(text) {
        let (name, address) =
            pair.split_once('=').ok_or_else(|| format!("{pair:?} is not name=address"))?;
        by_address.entry(address.trim()).or_default().push(name.trim().to_owned());
    }
    let alias = |(ip, hostnames): (&str, _)| HostAlias { ip: ip.to_owned(), hostnames };
    Ok(by_address.into_iter().map(alias).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Result<KubernetesConfig, InvalidConfig> {
        let map: BTreeMap<_, _> = pairs.iter().copied().collect();
        KubernetesConfig::from_env(|name| map.get(name).map(|text| (*text).to_owned()))
    }

    #[test]
    fn nothing_set_is_the_default() {
        assert_eq!(from(&[]).unwrap(), KubernetesConfig::default());
        assert_eq!(from(&[("HODEI_K8S_NAMESPACE", "")]).unwrap(), KubernetesConfig::default());
    }

    #[test]
    fn every_variable_sets_its_field() {
        for setting in SETTINGS {
            let sample = match setting.field {
                "image_pull_policy" => "Never",
                "default_cpu_request" | "default_cpu_limit" => "700m",
                "default_memory_request" | "default_memory_limit" => "2Gi",
                "node_selector" => "disk=ssd, zone=a",
                "tolerations" => "gpu=true:NoSchedule,spot",
                "host_aliases" => "host.docker.internal=172.18.0.1,db=fd00::1",
                "api_requests_per_second" | "api_burst" => "7",
                field if field.ends_with("_seconds") || field.starts_with("ttl") => "7",
                _ => "other",
            };
            let config =
                serde_json::to_value(from(&[(setting.variable, sample)]).unwrap()).unwrap();
            let default = serde_json::to_value(KubernetesConfig::default()).unwrap();
            let changed: Vec<_> =
                config.as_object().unwrap().iter().filter(|(k, v)| default[k] != **v).collect();
            assert_eq!(changed.len(), 1, "{}: {changed:?}", setting.variable);
            assert_eq!(changed[0].0, setting.field);
        }
    }

    /// The table of `deploy/kubernetes/README.md`.
    fn make_table() -> String {
        let defaults = serde_json::to_value(KubernetesConfig::default()).unwrap();
        let mut table = "| variable | field | form | default |\n|---|---|---|---|\n".to_owned();
        for Setting { variable, field, form, .. } in SETTINGS {
            let default = match &defaults[field] {
                serde_json::Value::Null => "–".to_owned(),
                serde_json::Value::String(text) => format!("`{text}`"),
                serde_json::Value::Array(_) | serde_json::Value::Object(_) => "none".to_owned(),
                other => format!("`{other}`"),
            };
            table += &format!("| `{variable}` | `{field}` | {form} | {default} |\n");
        }
        table
    }

    #[test]
    fn the_readme_has_the_table_of_settings() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/kubernetes/README.md");
        let readme = std::fs::read_to_string(path).unwrap();
        let table = make_table();
        assert!(readme.contains(&table), "put this into deploy/kubernetes/README.md:\n{table}");
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let error = from(&[
            ("HODEI_K8S_GRACE_PERIOD_SECONDS", "-1"),
            ("HODEI_K8S_TOLERATIONS", "a:Never"),
            ("HODEI_K8S_NAMESPACE", "Bad"),
        ])
        .unwrap_err();
        assert_eq!(error.0.len(), 3, "{error}");
        assert!(error.to_string().contains("(HODEI_K8S_TOLERATIONS)"), "{error}");
    }

    #[test]
    fn the_older_switch_is_still_understood() {
        assert!(is_enabled(|name| (name == "HODEI_K8S_ENABLED").then(|| "1".into())));
        assert!(is_enabled(|name| (name == "HODEI_KUBERNETES_ENABLED").then(|| "true".into())));
        assert!(!is_enabled(|_| None));
        assert!(!is_enabled(|name| (name == "HODEI_K8S_ENABLED").then(|| "0".into())));
    }
}

#[cfg(test)]
mod outside_input {
    use proptest::{collection::btree_map, prelude::*};

    use super::*;

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "[a-z0-9-]{0,12}",
            "-?[0-9.]{1,12}(m|Mi|Gi)?",
            "([a-z./]{0,6}(=|:)[a-z0-9.:]{0,6},? ?){0,3}",
            prop::sample::select(vec!["Never", "0", "a=b", "gpu:NoSchedule", "h=fd00::1"])
                .prop_map(str::to_owned),
        ]
    }

    proptest! {
        #[test]
        fn any_environment_is_a_configuration_or_its_variables_are_named(
            given in btree_map(0..SETTINGS.len(), text(), 0..6),
        ) {
            let of = |name: &str| {
                let index = SETTINGS.iter().position(|setting| setting.variable == name)?;
                given.get(&index).cloned()
            };
            match KubernetesConfig::from_env(of) {
                Ok(config) => {
                    prop_assert_eq!(config.validate(), Ok(()));
                    let written = serde_json::to_value(&config).unwrap();
                    let again: KubernetesConfig = serde_json::from_value(written).unwrap();
                    prop_assert_eq!(again, config);
                }
                Err(InvalidConfig(problems)) => {
                    prop_assert!(!problems.is_empty());
                    for problem in problems {
                        let text = problem.to_string();
                        let mut variables = given.keys().map(|index| SETTINGS[*index].variable);
                        // A request above the limit is told of the request, whichever was given.
                        let named = variables.any(|name| text.contains(name)) || text.contains("_REQUEST)");
                        prop_assert!(named, "{text} of {given:?}");
                    }
                }
            }
        }

        #[test]
        fn the_switch_is_on_by_its_words_only(text in prop_oneof![any::<String>(), " ?(1|0|true|yes|no) ?"]) {
            let on = is_enabled(|name| (name == ENABLED[0]).then(|| text.clone()));
            prop_assert_eq!(on, ["1", "true", "yes"].contains(&text.trim()));
        }
    }
}

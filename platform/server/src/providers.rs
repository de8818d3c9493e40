//! The one place that names an adapter: stored settings to providers.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::{id::ProviderId, provider::WorkerProvider};
use hodei_kubernetes::{KubernetesConfig, KubernetesProvider};
use serde_json::Value;

use crate::registry::{ConnectError, ProviderFactory};

/// The adapters this build has.
#[derive(Debug, Clone, Copy, Default)]
pub struct BuiltIn;

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Whether the environment asks for a Kubernetes provider, by the name of today or the one of before.
#[must_use]
pub fn kubernetes_enabled() -> bool {
    hodei_kubernetes::is_enabled(variable)
}

#[async_trait]
impl ProviderFactory for BuiltIn {
    async fn connect(
        &self,
        id: &ProviderId,
        kind: &str,
        config: Option<&Value>,
    ) -> Result<Arc<dyn WorkerProvider>, ConnectError> {
        if kind != "kubernetes" {
            return Err(ConnectError::UnknownKind(kind.chars().take(64).collect()));
        }
        let config: KubernetesConfig = match config {
            Some(config) => serde_json::from_value(config.clone())
                .map_err(|error| ConnectError::Config(error.to_string()))?,
            None => KubernetesConfig::from_env(variable)
                .map_err(|error| ConnectError::Config(error.to_string()))?,
        };
        config.validate().map_err(|error| ConnectError::Config(error.to_string()))?;
        Ok(Arc::new(KubernetesProvider::connect(id.clone(), config).await?))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn unknown_types_and_settings_are_refused_with_their_names() {
        let id: ProviderId = "p".parse().unwrap();
        for (kind, config, part) in [
            ("docker", json!({}), "docker"),
            ("kubernetes", json!({"namespaze": "x"}), "namespaze"),
        ] {
            let error = BuiltIn.connect(&id, kind, Some(&config)).await.err().unwrap();
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}

#[cfg(test)]
mod outside_input {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::outside_input_slow::any_json;

    proptest! {
        #[test]
        fn settings_of_kubernetes_survive_json_or_are_refused_by_field(
            field in prop::sample::select(vec![
                "namespace", "image", "default_cpu_request", "node_selector", "tolerations", "labels",
                "host_aliases", "volumes", "grace_period_seconds", "api_burst", "extended_resources",
                "affinity", "workspace_size", "restart_policy", "unknown",
            ]),
            value in any_json(),
        ) {
            let given = json!({field: value});
            let Ok(config) = serde_json::from_value::<KubernetesConfig>(given) else { return Ok(()) };
            prop_assert!(field != "unknown");
            let again = serde_json::to_value(&config).unwrap();
            let again: KubernetesConfig = serde_json::from_value(again).unwrap();
            prop_assert_eq!(&again, &config);
            if let Err(invalid) = config.validate() {
                let text = invalid.to_string();
                prop_assert!(text.contains(field.trim_end_matches('s')), "{field}: {text}");
            }
        }
    }
}

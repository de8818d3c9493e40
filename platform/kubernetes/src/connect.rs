//! How the cluster is reached: a kubeconfig (with merged `KUBECONFIG`, contexts and credential
//! plug-ins, all of which kube does) or the service account of the pod we run in.

use std::{sync::Once, time::Duration};

use hodei_core::{
    failure::{Failure, FailureCause},
    id::ProviderId,
    provider::ProviderError,
};
use kube::{
    Client, Config,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use crate::{api::describe, config::KubernetesConfig, watch::WATCH_SECONDS};

/// Longest time for a connection to be made, TLS included.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the API server is, for telling what is broken when it does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Through a proxy, the name and the port of the server say nothing about the way.
    pub(crate) proxied: bool,
}

/// Chooses the TLS implementation once for the process; one that is chosen already stays.
fn install_tls() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// A client for the configured cluster. No request is made.
pub(crate) async fn connect(
    provider: &ProviderId,
    config: &KubernetesConfig,
) -> Result<(Client, Endpoint), ProviderError> {
    install_tls();
    let fail = |message: String| ProviderError {
        operation: "connect",
        subject: format!("provider {provider}"),
        failure: Failure { cause: FailureCause::ApiUnavailable, message },
        retry_after: None,
        source: None,
    };
    let mut cluster = load(config).await.map_err(fail)?;
    cluster.connect_timeout = Some(CONNECT_TIMEOUT);
    // A list that stalls half-way is given up; a watch is silent no longer than it lasts.
    cluster.read_timeout = Some(Duration::from_secs(u64::from(WATCH_SECONDS) + 30));
    cluster.reset_reader_on_write = true;
    // Retries are those of `api::retry`, which knows what may be repeated.
    cluster.default_retry = false;
    let endpoint = endpoint_of(&cluster);
    let client = ClientBuilder::try_from(cluster).map_err(|error| fail(describe(&error)))?.build();
    tracing::info!(provider_id = %provider, host = %endpoint.host, port = endpoint.port,
        namespace = %config.namespace, "using the Kubernetes API");
    Ok((client, endpoint))
}

async fn load(config: &KubernetesConfig) -> Result<Config, String> {
    let options = KubeConfigOptions { context: config.context.clone(), cluster: None, user: None };
    if let Some(path) = &config.kubeconfig {
        let file = Kubeconfig::read_from(path)
            .map_err(|error| format!("kubeconfig {path:?}: {}", problem_of(&error)))?;
        return Config::from_custom_kubeconfig(file, &options)
            .await
            .map_err(|error| format!("kubeconfig {path:?}: {}", problem_of(&error)));
    }
    let by_file = match Config::from_kubeconfig(&options).await {
        Ok(found) => return Ok(found),
        Err(error) => problem_of(&error),
    };
    // A context was asked for: the cluster around us is not it.
    if let Some(context) = &config.context {
        return Err(format!("context {context:?}: {by_file}"));
    }
    Config::incluster().map_err(|error| {
        format!("no kubeconfig ({by_file}) and not in a cluster ({})", describe(&error))
    })
}

/// What is wrong with a kubeconfig. Of a text that is none only the place is told: the parser would show
/// what is written there, which may be a credential.
fn problem_of(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(error) => match error.location() {
            Some(at) => format!("not understood at line {}, column {}", at.line(), at.column()),
            None => "not understood".to_owned(),
        },
        other => describe(other),
    }
}

fn endpoint_of(cluster: &Config) -> Endpoint {
    let url = &cluster.cluster_url;
    let by_scheme = if url.scheme_str() == Some("http") { 80 } else { 443 };
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    Endpoint {
        host: host.to_owned(),
        port: url.port_u16().unwrap_or(by_scheme),
        proxied: cluster.proxy_url.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::provider_id;

    async fn connect_error(config: KubernetesConfig) -> String {
        let error = connect(&provider_id(), &config).await.err().unwrap();
        assert_eq!(error.cause(), FailureCause::ApiUnavailable);
        error.to_string()
    }

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named() {
        let config = KubernetesConfig::builder().kubeconfig("/no/such/file".to_owned()).build();
        let text = connect_error(config.unwrap()).await;
        assert!(text.contains("/no/such/file"), "{text}");
    }

    #[tokio::test]
    async fn a_credential_in_the_wrong_place_is_not_repeated() {
        let good = include_str!("testing/kubeconfig.yaml");
        for user in ["s3cret", "{token: [s3cret]}", "{token: s3cret", "{username: \"s3cret}"] {
            let file = tempfile::NamedTempFile::new().unwrap();
            let text = good.replace("user: {}", &format!("user: {user}"));
            std::fs::write(file.path(), text).unwrap();
            let path = file.path().to_str().unwrap().to_owned();
            let text =
                connect_error(KubernetesConfig::builder().kubeconfig(path).build().unwrap()).await;
            assert!(text.contains("at line 1") && !text.contains("s3cret"), "{text}");
        }
    }

    #[tokio::test]
    async fn an_unknown_context_is_named() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/testing/kubeconfig.yaml");
        let config = KubernetesConfig::builder()
            .kubeconfig(path.to_owned())
            .context("nowhere".to_owned())
            .build();
        let text = connect_error(config.unwrap()).await;
        assert!(text.contains("nowhere"), "{text}");
    }

    #[tokio::test]
    async fn the_chosen_context_gives_the_endpoint() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/testing/kubeconfig.yaml");
        for (context, expected) in [(None, ("127.0.0.1", 6443)), (Some("two"), ("::1", 443))] {
            let config = KubernetesConfig::builder()
                .kubeconfig(path.to_owned())
                .context(context.map(str::to_owned))
                .build()
                .unwrap();
            let (_, endpoint) = connect(&provider_id(), &config).await.unwrap();
            assert_eq!((endpoint.host.as_str(), endpoint.port), expected);
        }
    }
}

#[cfg(test)]
mod outside_input {
    use std::io::Write as _;

    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    const TOKEN: &str = "s3cret-t0ken-of-the-operator";

    fn kubeconfig() -> String {
        let good = include_str!("testing/kubeconfig.yaml");
        good.replace("user: {}", &format!("user: {{token: {TOKEN}}}"))
    }

    /// Loads a kubeconfig of these bytes; the error, if there is one, and the file's name.
    fn load_from(bytes: &[u8]) -> (Option<String>, String) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let config = KubernetesConfig { kubeconfig: Some(path.clone()), ..Default::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        (runtime.block_on(load(&config)).err(), path)
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_kubeconfig_or_a_failure_that_names_the_file(bytes in vec(any::<u8>(), 0..300)) {
            let (error, path) = load_from(&bytes);
            prop_assert!(error.is_none_or(|error| error.contains(&path)));
        }

        #[test]
        fn a_damaged_kubeconfig_is_named_and_its_token_is_not_repeated(
            damages in vec((any::<Index>(), any::<u8>(), 0_u8..3), 1..4),
        ) {
            let text = kubeconfig();
            let secret = text.find(TOKEN).unwrap();
            let secret = secret..secret + TOKEN.len();
            let mut bytes = text.into_bytes();
            for (place, byte, kind) in damages {
                let at = place.index(bytes.len());
                // What is not the token any more may be told.
                if at < secret.end {
                    bytes[at] = if secret.contains(&at) { bytes[at] } else { byte };
                } else if kind == 0 {
                    bytes.truncate(at);
                } else {
                    bytes[at] = byte;
                }
            }
            let (error, path) = load_from(&bytes);
            if let Some(error) = error {
                prop_assert!(error.contains(&path), "{error}");
                prop_assert!(!error.contains(TOKEN), "{error}");
            }
        }
    }
}

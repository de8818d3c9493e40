//! Asking an API server that may refuse, be silent or not be there: each answer comes within a
//! deadline, and what is refused is kept in the server's own words.

use std::error::Error as StdError;
use std::path::Path;
use std::time::Duration;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

/// Longest time for a connection to be made, TLS included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Longest time for one answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// Why there is no answer that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// HTTP 401: who asks is not known.
    Unknown(String),
    /// HTTP 403, by the authorizer or by admission.
    Forbidden(String),
    /// HTTP 404.
    NotFound(String),
    /// Anything else that the server says.
    Said(String),
    /// It says nothing, or cannot be reached.
    Silent(String),
}

impl Refused {
    /// Whether what was asked for was surely not done.
    pub(super) const fn is_certain(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Forbidden(_) | Self::NotFound(_))
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown(words)
            | Self::Forbidden(words)
            | Self::NotFound(words)
            | Self::Said(words)
            | Self::Silent(words) => f.write_str(words),
        }
    }
}

impl From<kube::Error> for Refused {
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = error else { return Self::Silent(chain(&error)) };
        let words =
            if status.message.is_empty() { status.reason.clone() } else { status.message.clone() };
        match status.code {
            401 => Self::Unknown(words),
            403 => Self::Forbidden(words),
            404 => Self::NotFound(words),
            code => Self::Said(format!("{words} (HTTP {code})")),
        }
    }
}

/// One answer, within its deadline.
pub(super) async fn ask<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Refused> {
    match tokio::time::timeout(ANSWER_DEADLINE, call).await {
        Ok(answer) => answer.map_err(Refused::from),
        Err(_) => Err(Refused::Silent(format!("no answer in {} s", ANSWER_DEADLINE.as_secs()))),
    }
}

/// The words of an error and of its causes, each once.
fn chain(error: &dyn StdError) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = error.source();
    }
    words
}

/// A client, and the name of the context that it uses. Nothing is asked yet.
///
/// # Errors
/// In words: the kubeconfig cannot be read, is none, or lacks the context.
pub(super) async fn connect(
    kubeconfig: &Path,
    context: Option<&str>,
    user: Option<&str>,
) -> Result<(Client, String), String> {
    // A second installation of the same provider is refused, and of no consequence.
    let _already = rustls::crypto::ring::default_provider().install_default();
    let file = Kubeconfig::read_from(kubeconfig).map_err(|error| problem(&error))?;
    let context = context.map(str::to_owned).or_else(|| file.current_context.clone());
    let context = context.filter(|name| !name.is_empty()).ok_or("it has no current context")?;
    let options = KubeConfigOptions { context: Some(context.clone()), ..Default::default() };
    let config = kube::Config::from_custom_kubeconfig(file, &options).await;
    let mut config = config.map_err(|error| problem(&error))?;
    config.connect_timeout = Some(CONNECT_DEADLINE);
    config.read_timeout = Some(ANSWER_DEADLINE);
    // What is refused is to be told, not tried again.
    config.default_retry = false;
    if let Some(user) = user {
        config.auth_info.impersonate = Some(user.to_owned());
    }
    Client::try_from(config).map(|client| (client, context)).map_err(|error| chain(&error))
}

/// What is wrong with a kubeconfig. A parser would show what is written there, which may be a
/// credential.
fn problem(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(cause, _) => cause.to_string(),
        KubeconfigError::CurrentContextNotSet | KubeconfigError::LoadContext(_) => {
            "it has no such context".to_owned()
        }
        KubeconfigError::LoadClusterOfContext(_) => {
            "the cluster of the context is not in it".to_owned()
        }
        _ => "it is no kubeconfig that can be used".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_wrong_with_a_kubeconfig_is_said_and_its_content_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        let good = "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n\
            users: [{name: u, user: {}}]\n\
            contexts: [{name: k, context: {cluster: c, user: u}}]\ncurrent-context: k\n";
        for (text, context, says) in [
            (None, None, "No such file"),
            (Some("s3cret: [".to_owned()), None, "it is no kubeconfig"),
            (Some(good.to_owned()), Some("other"), "it has no such context"),
            (Some(good.replace("current-context: k\n", "")), None, "it has no current context"),
            (Some(good.replace("cluster: c,", "cluster: x,")), None, "the cluster of the context"),
        ] {
            drop(std::fs::remove_file(&file));
            if let Some(text) = &text {
                std::fs::write(&file, text).unwrap();
            }
            let Err(error) = connect(&file, context, None).await else {
                panic!("{says}");
            };
            assert!(error.contains(says) && !error.contains("s3cret"), "{error}");
        }
        std::fs::write(&file, good).unwrap();
        let (client, context) = connect(&file, None, Some("jane")).await.unwrap();
        assert_eq!(context, "k");
        let refused = ask(client.apiserver_version()).await.unwrap_err();
        assert!(
            matches!(&refused, Refused::Silent(words) if words.contains("refused")),
            "{refused}"
        );
    }
}

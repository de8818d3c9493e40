//! The server over REST: JSON in, JSON or problem+json (RFC 9457) out.

use std::time::Duration;

use reqwest::{Client, Method, Url};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    context::Context,
    failure::{Failure, describe},
};

/// One call, at most: adding a provider may include connecting to its cluster.
const CALL: Duration = Duration::from_secs(60);
/// Largest part of an answer that is no problem+json and is shown.
const MOST_SHOWN: usize = 500;

/// The REST side of a server.
pub(crate) struct Rest {
    client: Client,
    base: Url,
    token: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
}

impl Rest {
    pub(crate) fn new(context: &Context) -> Result<Self, Failure> {
        let address = &context.rest.value;
        let refuse = |problem: String| Failure::Local {
            what: format!("the REST address {address:?} cannot be used: {problem}"),
            help: format!(
                "It comes from: {}. An example: http://127.0.0.1:8080",
                context.rest.source
            ),
        };
        let mut base: Url = address.parse().map_err(|error| refuse(describe(&error)))?;
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let mut client = Client::builder().timeout(CALL).connect_timeout(Duration::from_secs(5));
        // Without https no system certificates are needed, which a bare machine may not have.
        match (base.scheme(), context.ca_pem()?) {
            ("https", None) => {}
            (_, pem) => {
                let certificates = reqwest::Certificate::from_pem_bundle(&pem.unwrap_or_default());
                client = client.tls_certs_only(certificates.map_err(|e| refuse(describe(&e)))?);
            }
        }
        // A proxy is for the world outside.
        if matches!(base.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| refuse(describe(&error)))?;
        Ok(Self { client, base, token: context.token()? })
    }

    pub(crate) async fn get(&self, path: &[&str]) -> Result<Value, Failure> {
        self.call(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &[&str], body: &Value) -> Result<Value, Failure> {
        self.call(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &[&str]) -> Result<Value, Failure> {
        self.call(Method::DELETE, path, None).await
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("api").extend(path);
        }
        let mut request = self.client.request(method, url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let lost = |error: reqwest::Error| Failure::Unreachable {
            address: self.base.to_string(),
            cause: describe(&error.without_url()),
        };
        let response = request.send().await.map_err(lost)?;
        let status = response.status();
        let text = response.text().await.map_err(lost)?;
        if status.is_success() {
            if text.trim().is_empty() {
                return Ok(Value::Null);
            }
            return serde_json::from_str(&text).map_err(|error| self.not_understood(&error));
        }
        let problem: Problem = serde_json::from_str(&text).unwrap_or_default();
        let reason = status.canonical_reason().unwrap_or("the server refused");
        let detail = problem.detail.or_else(|| match &problem.title {
            Some(_) => None,
            None => Some(text.trim().chars().take(MOST_SHOWN).collect())
                .filter(|t: &String| !t.is_empty()),
        });
        Err(Failure::Problem {
            title: problem.title.unwrap_or_else(|| reason.to_owned()),
            detail,
            status: status.as_u16(),
            help: what_to_do(status.as_u16()).to_owned(),
        })
    }

    fn not_understood(&self, error: &serde_json::Error) -> Failure {
        Failure::Local {
            what: format!("the answer of {} is not understood: {error}", self.base),
            help: "Is this the REST address of a Hodei server? `hodei context show` shows it."
                .to_owned(),
        }
    }
}

fn what_to_do(status: u16) -> &'static str {
    match status {
        400 | 422 => "Correct what is named above; `hodei provider add --help` has examples.",
        401 | 403 => crate::failure::OTHER_TOKEN,
        404 => {
            "`hodei provider list` shows the providers there are. If the whole address is wrong, \
                `hodei context show` says where it comes from."
        }
        409 => "`hodei provider list` shows what is there already; remove it first to replace it.",
        429 => "Too many calls at once; try again in a moment.",
        _ => "If it stays like this, the server's log says more.",
    }
}

//! The server over REST: JSON in, JSON or problem+json (RFC 9457) out.

use std::time::Duration;

use reqwest::{Client, Method, Response, StatusCode, Url, header::RETRY_AFTER};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    context::Context,
    failure::{Failure, describe},
    patience::Throttled,
    view,
};

/// One call, at most: adding a provider may include connecting to its cluster.
const CALL: Duration = Duration::from_secs(60);
/// Most entries of one page.
const PAGE: &str = "500";
/// Most pages of one list: a server that never ends one must not keep us.
const PAGES: usize = 1000;
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
        self.call(Method::GET, path, &[], None).await
    }

    /// Every entry of a list, page by page, as `{name: [entry, …]}`.
    pub(crate) async fn list(&self, name: &str) -> Result<Value, Failure> {
        let (mut entries, mut token) = (Vec::new(), String::new());
        for _ in 0..PAGES {
            let query = [("page_size", PAGE), ("page_token", token.as_str())];
            let mut page = self.call(Method::GET, &[name], &query, None).await?;
            if let Some(Value::Array(more)) = page.get_mut(name).map(Value::take) {
                entries.extend(more);
            }
            match page.get("next_page_token").and_then(Value::as_str) {
                Some(next) if !next.is_empty() && next != token => token = next.to_owned(),
                _ => break,
            }
        }
        Ok(json!({ name: entries }))
    }

    pub(crate) async fn post(&self, path: &[&str], body: &Value) -> Result<Value, Failure> {
        self.call(Method::POST, path, &[], Some(body)).await
    }

    pub(crate) async fn put(&self, path: &[&str], body: &Value) -> Result<Value, Failure> {
        self.call(Method::PUT, path, &[], Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &[&str]) -> Result<Value, Failure> {
        self.call(Method::DELETE, path, &[], None).await
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("api").extend(path);
        }
        let mut throttled = Throttled::new();
        let lost = |error: reqwest::Error| Failure::Unreachable {
            address: self.base.to_string(),
            cause: describe(&error.without_url()),
        };
        let response = loop {
            let mut request = self.client.request(method.clone(), url.clone()).query(query);
            if let Some(token) = &self.token {
                request = request.bearer_auth(token);
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            let response = request.send().await.map_err(lost)?;
            // What was refused for its number was not begun: it may be sent again.
            let again = response.status() == StatusCode::TOO_MANY_REQUESTS
                && throttled.wait(retry_after(&response)).await;
            if !again {
                break response;
            }
        };
        let status = response.status();
        let text = response.text().await.map_err(lost)?;
        if status.is_success() {
            if text.trim().is_empty() {
                return Ok(Value::Null);
            }
            return serde_json::from_str(&text).map_err(|error| self.not_understood(&error));
        }
        Err(refusal(status, &text))
    }

    fn not_understood(&self, error: &serde_json::Error) -> Failure {
        Failure::Local {
            what: format!("the answer of {} is not understood: {error}", self.base),
            help: "Is this the REST address of a Hodei server? `hodei context show` shows it."
                .to_owned(),
        }
    }
}

/// How long the server asks to wait, where it says so in seconds.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn refusal(status: StatusCode, text: &str) -> Failure {
    let problem: Problem = serde_json::from_str(text).unwrap_or_default();
    let plain = |text: String| view::plain(&text);
    let reason = status.canonical_reason().unwrap_or("the server refused");
    let detail = problem.detail.or_else(|| match &problem.title {
        Some(_) => None,
        None => {
            Some(text.trim().chars().take(MOST_SHOWN).collect()).filter(|t: &String| !t.is_empty())
        }
    });
    Failure::Problem {
        title: problem.title.map_or_else(|| reason.to_owned(), plain),
        detail: detail.map(plain),
        status: status.as_u16(),
        help: what_to_do(status.as_u16()).to_owned(),
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

#[cfg(test)]
mod outside_input {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn problem() -> impl Strategy<Value = String> {
        let text = || option::of(prop_oneof![any::<String>(), "[a\\x1b\u{9b}]{0,5}"]);
        (text(), text(), any::<Option<u16>>()).prop_map(|(title, detail, status)| {
            json!({"title": title, "detail": detail, "status": status}).to_string()
        })
    }

    proptest! {
        #[test]
        fn any_refusal_is_told_with_its_status_in_bounds_and_as_plain_text(
            status in 300_u16..1000,
            text in prop_oneof![
                any::<String>(), problem(), vec(any::<char>(), 0..2000).prop_map(|all| all.into_iter().collect()),
            ],
        ) {
            let failure = refusal(StatusCode::from_u16(status).unwrap(), &text);
            let told = failure.to_string();
            prop_assert!(told.contains(&format!("({status})")), "{told:?}");
            prop_assert!(told.chars().all(|c| c == '\n' || !c.is_control()), "{told:?}");
            let is_problem = serde_json::from_str::<Problem>(&text).is_ok();
            prop_assert!(is_problem || told.chars().count() <= MOST_SHOWN + 100);
        }
    }
}

//! The API server's own audit log: the requests that an account really made, whatever the client
//! says of itself.
//!
//! The policy in deploy/kind/audit-policy.yaml keeps it to service accounts outside the system's
//! namespaces, at level Metadata. It is read from the node's disk, where it is written before the
//! answer is sent.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cluster::KindCluster;
use crate::cluster::config::AUDIT_LOG_DIR;
use crate::engine::docker;
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::progress::Progress;

/// One request, as the API server saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApiRequest {
    /// When it arrived.
    pub time: Timestamp,
    /// `create`, `watch`, …
    pub verb: String,
    /// `pods`; empty for a path such as `/version`.
    pub resource: String,
    /// `log`, …; mostly empty.
    pub subresource: String,
    /// Empty for what belongs to the cluster.
    pub namespace: String,
    /// Empty for a list.
    pub name: String,
    /// The HTTP status of the answer.
    pub code: u16,
    /// Who.
    pub user: String,
    /// What the client calls itself.
    pub user_agent: String,
}

/// The requests of one account since a moment, in the order of arrival. A request that is still
/// being answered is not there yet, except for a watch, which is there once it is accepted.
///
/// # Errors
/// The node's log cannot be read: the cluster was not made by this harness.
pub async fn requests(
    cluster: &KindCluster,
    user: &str,
    since: Timestamp,
) -> Result<Vec<ApiRequest>> {
    let subject = || format!("the audit log of {}", cluster.name);
    let node = cluster.control_plane().ok_or_else(|| {
        HarnessError::new(FailureClass::Harness, "read", subject(), "there is no control plane")
    })?;
    // Filtered on the node: the log is of all cases. Nothing found is no failure.
    let script =
        "cd \"$1\" && { grep -hF -- \"\\\"username\\\":\\\"$2\\\"\" audit*.log || [ $? -eq 1 ]; }";
    let command = docker(["exec", node, "sh", "-c", script, "sh", AUDIT_LOG_DIR, user]);
    let output = command.run(&Progress::silent().unlisted()).await;
    let output = output.infrastructure("read", subject())?;
    Ok(parse(&output.stdout, user, since))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    #[serde(rename = "auditID")]
    id: String,
    verb: String,
    user: User,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    object_ref: ObjectRef,
    #[serde(default)]
    response_status: Option<ResponseStatus>,
    request_received_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ObjectRef {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: u16,
}

/// A watch is logged when it begins and when it ends, under one id; it is one request. A line that
/// is just being written, or that was torn by the API server's end, is passed over.
fn parse(log: &str, user: &str, since: Timestamp) -> Vec<ApiRequest> {
    let events = log.lines().filter_map(|line| serde_json::from_str::<Event>(line).ok());
    let mut seen = std::collections::BTreeSet::new();
    let mut requests: Vec<_> = events
        .filter(|event| event.user.username == user && event.request_received_timestamp >= since)
        .filter(|event| seen.insert(event.id.clone()))
        .map(|event| ApiRequest {
            time: event.request_received_timestamp,
            verb: event.verb,
            resource: event.object_ref.resource,
            subresource: event.object_ref.subresource,
            namespace: event.object_ref.namespace,
            name: event.object_ref.name,
            code: event.response_status.map_or(0, |status| status.code),
            user: event.user.username,
            user_agent: event.user_agent,
        })
        .collect();
    requests.sort_by_key(|request| request.time);
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, user: &str, stage: &str, verb: &str, at: &str) -> String {
        serde_json::json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata",
            "auditID": id, "stage": stage, "requestURI": "/api/v1/namespaces/n/pods", "verb": verb,
            "user": {"username": user, "groups": ["system:serviceaccounts"]},
            "sourceIPs": ["172.18.0.1"], "userAgent": "hodei-server",
            "objectRef": {"resource": "pods", "namespace": "n", "apiVersion": "v1"},
            "responseStatus": {"metadata": {}, "code": 200},
            "requestReceivedTimestamp": at, "stageTimestamp": at,
        })
        .to_string()
    }

    #[test]
    fn a_request_is_one_however_often_it_is_logged() {
        let (early, late) = ("2026-01-01T00:00:01.000000Z", "2026-01-01T00:00:05.000000Z");
        let log = [
            line("3", "me", "ResponseComplete", "list", late),
            line("1", "me", "ResponseComplete", "get", early),
            line("2", "me", "ResponseStarted", "watch", "2026-01-01T00:00:04.000000Z"),
            line("2", "me", "ResponseComplete", "watch", "2026-01-01T00:00:04.000000Z"),
            line("4", "other", "ResponseComplete", "create", late),
            line("5", "me", "ResponseComplete", "create", late)[..80].to_owned(),
        ]
        .join("\n");
        let since = "2026-01-01T00:00:02Z".parse().unwrap();
        let found = parse(&log, "me", since);
        let verbs: Vec<_> = found.iter().map(|request| request.verb.as_str()).collect();
        assert_eq!(verbs, ["watch", "list"]);
        assert_eq!((found[0].resource.as_str(), found[0].code), ("pods", 200));
    }
}

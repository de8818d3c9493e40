//! What a request asks of the Kubernetes API, read from its method and path as the API server
//! itself reads them.

use http::{Method, Uri};
use serde::Serialize;

/// A request in the API server's own terms.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ApiCall {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for a
    /// path that names no resource, the method in lower case.
    pub verb: String,
    /// `pods`; empty for a path such as `/version`.
    pub resource: String,
    /// `log`, `eviction`, …; mostly empty.
    pub subresource: String,
    /// Empty for what belongs to the cluster.
    pub namespace: String,
    /// Empty for a list or a create.
    pub name: String,
    /// Nothing comes of it: it only asks whether it would be carried out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

impl ApiCall {
    /// Reads a request line.
    #[must_use]
    pub fn parse(method: &Method, uri: &Uri) -> Self {
        let lower = method.as_str().to_lowercase();
        let mut parts = uri.path().split('/').filter(|part| !part.is_empty());
        let known = match parts.next() {
            Some("api") => parts.next().is_some(),
            Some("apis") => parts.next().is_some() && parts.next().is_some(),
            _ => false,
        };
        let parts: Vec<&str> = parts.collect();
        if !known || parts.is_empty() {
            return Self { verb: lower, ..Self::default() };
        }
        let (namespace, rest) = match parts.as_slice() {
            // These two belong to the namespace itself.
            ["namespaces", name, "status" | "finalize"] => (*name, parts.as_slice()),
            ["namespaces", name, rest @ ..] if !rest.is_empty() => (*name, rest),
            ["namespaces", name] => (*name, parts.as_slice()),
            rest => ("", rest),
        };
        let part = |index: usize| rest.get(index).copied().unwrap_or_default().to_owned();
        let (resource, name, subresource) = (part(0), part(1), part(2));
        let asks = |wanted: &[&str]| {
            uri.query().is_some_and(|query| query.split('&').any(|pair| wanted.contains(&pair)))
        };
        let watched = asks(&["watch=true", "watch=1", "watch"]);
        let dry_run = asks(&["dryRun=All"]);
        let verb = match *method {
            Method::GET if watched => "watch",
            Method::GET if name.is_empty() => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::DELETE if name.is_empty() => "deletecollection",
            _ => &lower,
        };
        let (verb, namespace) = (verb.to_owned(), namespace.to_owned());
        Self { verb, namespace, resource, subresource, name, dry_run }
    }

    /// `pods` or `pods/log`.
    #[must_use]
    pub fn target(&self) -> String {
        if self.subresource.is_empty() {
            return self.resource.clone();
        }
        format!("{}/{}", self.resource, self.subresource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_the_api_server_reads_them() {
        for (method, uri, verb, target, namespace, name) in [
            ("GET", "/api/v1/namespaces/n/pods", "list", "pods", "n", ""),
            ("GET", "/api/v1/namespaces/n/pods?limit=5&watch=true", "watch", "pods", "n", ""),
            ("GET", "/api/v1/namespaces/n/pods/p", "get", "pods", "n", "p"),
            ("GET", "/api/v1/namespaces/n/pods/p/log?follow=true", "get", "pods/log", "n", "p"),
            ("POST", "/api/v1/namespaces/n/pods?", "create", "pods", "n", ""),
            ("POST", "/api/v1/namespaces/n/pods?&dryRun=All", "create", "pods", "n", ""),
            ("POST", "/api/v1/namespaces/n/pods/p/eviction", "create", "pods/eviction", "n", "p"),
            ("DELETE", "/api/v1/namespaces/n/secrets/s", "delete", "secrets", "n", "s"),
            ("DELETE", "/api/v1/namespaces/n/pods", "deletecollection", "pods", "n", ""),
            ("PATCH", "/api/v1/nodes/x", "patch", "nodes", "", "x"),
            ("PUT", "/apis/apps/v1/namespaces/n/deployments/d", "update", "deployments", "n", "d"),
            (
                "GET",
                "/apis/rbac.authorization.k8s.io/v1/clusterroles",
                "list",
                "clusterroles",
                "",
                "",
            ),
            ("GET", "/api/v1/namespaces/n", "get", "namespaces", "n", "n"),
            ("PUT", "/api/v1/namespaces/n/finalize", "update", "namespaces/finalize", "n", "n"),
            ("GET", "/api/v1/namespaces", "list", "namespaces", "", ""),
            ("GET", "/version", "get", "", "", ""),
            ("GET", "/apis/apps/v1", "get", "", "", ""),
            ("GET", "/", "get", "", "", ""),
        ] {
            let call = ApiCall::parse(&method.parse().unwrap(), &uri.parse().unwrap());
            let seen = (call.verb.as_str(), call.target(), &*call.namespace, &*call.name);
            assert_eq!(seen, (verb, target.to_owned(), namespace, name), "{method} {uri}");
            assert_eq!(call.dry_run, uri.contains("dryRun"), "{method} {uri}");
        }
    }
}

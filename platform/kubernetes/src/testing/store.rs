//! What the fake API server keeps, and how it answers.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Objects by resource and name, and the history of all for watches.
#[derive(Default)]
pub(super) struct Store {
    objects: BTreeMap<(String, String), Value>,
    history: Vec<(u64, String, &'static str, Value)>,
    version: u64,
    pub(super) keeps_deleted_pods: bool,
    pub(super) fixed: BTreeMap<String, Value>,
}

/// A request in short: verb and resource, with the mark of a dry run.
pub(super) fn kind_of(method: &str, path: &str, query: &str) -> String {
    let (resource, name) = resource_of(path);
    let verb = match (method, name) {
        ("GET", None) if parameter(query, "watch").is_some() => "WATCH",
        ("GET", None) => "LIST",
        _ => method,
    };
    let dry = if parameter(query, "dryRun").is_some() { " (dry run)" } else { "" };
    format!("{verb} {resource}{dry}")
}

pub(crate) fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// `pods` or `pods/log`, and the object's name.
fn resource_of(path: &str) -> (String, Option<String>) {
    let parts: Vec<_> = path.trim_matches('/').split('/').collect();
    let rest = match parts.iter().position(|part| *part == "namespaces") {
        Some(index) => &parts[index + 2..],
        None => &parts[if parts[0] == "apis" { 3 } else { 2 }.min(parts.len())..],
    };
    let name = rest.get(1).map(|name| (*name).to_owned());
    match rest {
        [resource, _, subresource] => (format!("{resource}/{subresource}"), name),
        [resource, ..] => ((*resource).to_owned(), name),
        [] => (path.to_owned(), None),
    }
}

fn refusal(code: u16, reason: &str, message: &str) -> (u16, String) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "reason": reason, "message": message});
    (code, status.to_string())
}

impl Store {
    pub(super) fn names(&self, resource: &str) -> Vec<String> {
        let of_resource = self.objects.keys().filter(|(kind, _)| kind == resource);
        of_resource.map(|(_, name)| name.clone()).collect()
    }

    pub(super) fn put(&mut self, resource: &str, mut object: Value) -> Value {
        self.version += 1;
        let meta = &mut object["metadata"];
        if meta["uid"].is_null() {
            meta["uid"] = json!(format!("uid-{}", self.version));
            meta["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        meta["resourceVersion"] = json!(self.version.to_string());
        let name = meta["name"].as_str().unwrap().to_owned();
        let key = (resource.to_owned(), name);
        let kind = if self.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        self.remember(resource, kind, &object);
        self.objects.insert(key, object.clone());
        object
    }

    pub(super) fn change(
        &mut self,
        resource: &str,
        name: &str,
        change: impl FnOnce(&mut Value) -> bool,
    ) {
        let mut object = self.objects[&(resource.to_owned(), name.to_owned())].clone();
        if change(&mut object) {
            self.put(resource, object);
        } else {
            self.remove(resource, name);
        }
    }

    fn remove(&mut self, resource: &str, name: &str) {
        let Some(mut object) = self.objects.remove(&(resource.to_owned(), name.to_owned())) else {
            return;
        };
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.remember(resource, "DELETED", &object);
    }

    fn remember(&mut self, resource: &str, kind: &'static str, object: &Value) {
        self.history.push((self.version, resource.to_owned(), kind, object.clone()));
    }

    pub(super) fn changes_since(&self, resource: &str, version: u64) -> String {
        let newer = self.history.iter().filter(|(at, of, ..)| *at > version && of == resource);
        newer.map(|(.., kind, new)| format!("{}\n", json!({"type": kind, "object": new}))).collect()
    }

    pub(super) fn serve(
        &mut self,
        method: &str,
        path: &str,
        query: &str,
        body: &[u8],
    ) -> (u16, String) {
        if let Some(fixed) = self.fixed.get(path) {
            return match fixed.as_str() {
                Some(text) => (200, text.to_owned()),
                None => (200, fixed.to_string()),
            };
        }
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        match (method, resource_of(path)) {
            ("POST", (resource, _)) => self.serve_create(&resource, query, body),
            ("DELETE", (resource, Some(name))) => self.serve_delete(&resource, &name, &body),
            ("GET", (resource, Some(name))) => match self.objects.get(&(resource, name)) {
                Some(object) => (200, object.to_string()),
                None => refusal(404, "NotFound", "not found"),
            },
            ("GET", (resource, None)) => {
                let items: Vec<_> =
                    self.objects.iter().filter(|((kind, _), _)| *kind == resource).collect();
                let items: Vec<_> = items.into_iter().map(|(_, object)| object).collect();
                // Version 0 would mean "any" in a watch.
                self.version = self.version.max(1);
                let version = self.version.to_string();
                (200, json!({"metadata": {"resourceVersion": version}, "items": items}).to_string())
            }
            (method, _) => refusal(405, "MethodNotAllowed", method),
        }
    }

    fn serve_create(&mut self, resource: &str, query: &str, body: Value) -> (u16, String) {
        let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if self.objects.contains_key(&(resource.to_owned(), name.clone())) {
            return refusal(409, "AlreadyExists", &format!("{resource} {name:?} already exists"));
        }
        if parameter(query, "dryRun").is_some() {
            return (201, body.to_string());
        }
        (201, self.put(resource, body).to_string())
    }

    fn serve_delete(&mut self, resource: &str, name: &str, body: &Value) -> (u16, String) {
        let Some(object) = self.objects.get(&(resource.to_owned(), name.to_owned())) else {
            return refusal(404, "NotFound", &format!("{resource} {name:?} not found"));
        };
        let wanted = &body["preconditions"]["uid"];
        if !wanted.is_null() && *wanted != object["metadata"]["uid"] {
            return refusal(409, "Conflict", "the UID in the precondition does not match");
        }
        if resource == "pods" && self.keeps_deleted_pods && body["gracePeriodSeconds"] != json!(0) {
            self.change(resource, name, |pod| {
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:01:00Z");
                true
            });
        } else {
            self.remove(resource, name);
        }
        (200, json!({"kind": "Status", "status": "Success"}).to_string())
    }
}

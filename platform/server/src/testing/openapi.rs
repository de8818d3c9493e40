//! The OpenAPI document: the one that is checked in, whole, and true of a running server.

use std::{collections::BTreeSet, fs, path::Path};

use hodei_core::spec::JobSpec;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::running::{Running, http};
use crate::rest::{document, router};

fn parsed() -> Value {
    serde_json::from_str(document()).unwrap()
}

#[test]
fn the_checked_in_document_is_the_servers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        fs::write(&path, document()).unwrap();
    }
    assert!(parsed()["openapi"].as_str().unwrap().starts_with("3.1"), "the version of OpenAPI");
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == document(),
        "docs/openapi.json is not what the code says; write it with \
         UPDATE_OPENAPI=1 cargo test -p hodei-server checked_in_document"
    );
}

/// Paths that a router has, read from what it prints of itself: it has no other list of them. Those
/// of its fallback come last, and are none of its own.
fn paths_of(printed: &str) -> BTreeSet<String> {
    let own = printed.split("fallback_router").next().unwrap();
    let texts = own.split('"').skip(1).step_by(2);
    texts.filter(|text| text.starts_with('/')).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_in_the_document_with_its_methods_and_nothing_else_is() {
    let server = Running::start(&[]).await;
    let described = parsed()["paths"].as_object().unwrap().clone();
    let served = paths_of(&format!("{:?}", router(server.server.app.clone())));
    assert_eq!(served, described.keys().cloned().collect());
    for (path, item) in described {
        let filled = path.replace("{name}", "x").replace("{id}", "x");
        let refused = http().request(Method::TRACE, server.url(&filled)).send().await.unwrap();
        assert_eq!(refused.status(), 405, "{path}");
        let allowed = refused.headers()["allow"].to_str().unwrap().to_lowercase();
        let allowed: BTreeSet<_> = allowed.split(',').filter(|name| *name != "head").collect();
        let methods: BTreeSet<_> = item.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(allowed, methods, "{path}");
    }
}

fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        _ => false,
    }
}

/// Where a value is not as its schema says.
fn mistakes(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let schema = resolve(document, schema);
    let mut found = Vec::new();
    for form in ["oneOf", "anyOf"] {
        let Some(forms) = schema[form].as_array() else { continue };
        let fits = |form: &&Value| mistakes(document, form, value, at).is_empty();
        if !forms.iter().any(|form| fits(&form)) {
            found.push(format!("{at}: {value} is of no form"));
        }
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        found.extend(mistakes(document, part, value, at));
    }
    let kinds = match &schema["type"] {
        Value::String(kind) => vec![kind.as_str()],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !kinds.is_empty() && !kinds.iter().any(|kind| is_of(kind, value)) {
        found.push(format!("{at}: {value} is none of {kinds:?}"));
    }
    if let Some(names) = schema["enum"].as_array().filter(|names| !names.contains(value)) {
        found.push(format!("{at}: {value} is none of {names:?}"));
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if value.is_object() && value.get(name).is_none() {
            found.push(format!("{at}: {name} is missing"));
        }
    }
    let none = Map::new();
    for (name, schema) in schema["properties"].as_object().unwrap_or(&none) {
        if let Some(value) = value.get(name) {
            found.extend(mistakes(document, schema, value, &format!("{at}.{name}")));
        }
    }
    let items = value.as_array().filter(|_| schema.get("items").is_some());
    for (index, item) in items.into_iter().flatten().enumerate() {
        found.extend(mistakes(document, &schema["items"], item, &format!("{at}[{index}]")));
    }
    found
}

/// Asks, and compares the answer with what the document says of it; the answer.
async fn ask(
    server: &Running,
    method: &str,
    path: &str,
    filled: &str,
    body: Option<&Value>,
    expect: u16,
) -> Value {
    let document = parsed();
    let verb = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
    let mut request = http().request(verb, server.url(filled));
    if let Some(body) = body {
        request = request.json(body);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    let text = response.text().await.unwrap();
    assert_eq!(status, expect, "{method} {filled}: {text}");
    let described = &document["paths"][path][method]["responses"][status.to_string()];
    assert!(described.is_object(), "{method} {path}: {status} is not in the document");
    let Some(content) = described["content"].as_object() else { return Value::Null };
    let kind = kind.unwrap();
    let (_, content) =
        content.iter().find(|(name, _)| kind.starts_with(*name)).unwrap_or_else(|| {
            panic!("{method} {path} {status}: {kind} is none of {:?}", content.keys())
        });
    let value: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    let found = mistakes(&document, &content["schema"], &value, "$");
    assert!(found.is_empty(), "{method} {path} {status}: {found:#?}");
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_as_the_document_says() {
    let mut server = Running::start(&[]).await;
    let id = server.submit(&JobSpec::command(["true"])).await.to_string();
    let worker = server.next_worker().await.worker.to_string();
    for path in ["/api/jobs", "/api/workers", "/api/providers", "/healthz", "/readyz", "/metrics"] {
        ask(&server, "get", path, path, None, 200).await;
    }
    ask(&server, "get", "/api/openapi.json", "/api/openapi.json", None, 200).await;
    let job = ask(&server, "get", "/api/jobs/{id}", &format!("/api/jobs/{id}"), None, 200).await;
    assert_eq!(job["attempts"].as_array().unwrap().len(), 1, "{job}");
    ask(&server, "get", "/api/providers/{name}", "/api/providers/fake", None, 200).await;
    let drain = format!("/api/workers/{worker}/drain");
    ask(&server, "post", "/api/workers/{id}/drain", &drain, None, 200).await;
    let other = json!({"type": "fake", "name": "other"});
    for expect in [201, 200] {
        ask(&server, "post", "/api/providers", "/api/providers", Some(&other), expect).await;
    }
    ask(&server, "delete", "/api/providers/{name}", "/api/providers/other", None, 204).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_problems_as_the_document_says() {
    let mut server = Running::start(&[]).await;
    server.submit(&JobSpec::command(["true"])).await;
    server.next_worker().await;
    for path in ["/api/jobs", "/api/workers", "/api/providers"] {
        for query in ["page_token=Nothing!", "page_size=501", "page_size=x", "unknown=1"] {
            ask(&server, "get", path, &format!("{path}?{query}"), None, 400).await;
        }
    }
    let none = uuid::Uuid::nil();
    ask(&server, "get", "/api/jobs/{id}", &format!("/api/jobs/{none}"), None, 404).await;
    ask(&server, "get", "/api/jobs/{id}", "/api/jobs/x", None, 422).await;
    let drain = format!("/api/workers/{none}/drain");
    ask(&server, "post", "/api/workers/{id}/drain", &drain, None, 404).await;
    for (method, status) in [("get", 404), ("delete", 404)] {
        let path = "/api/providers/{name}";
        ask(&server, method, path, "/api/providers/none", None, status).await;
    }
    ask(&server, "delete", "/api/providers/{name}", "/api/providers/fake", None, 409).await;
    for (body, status) in [
        (json!({"type": "fake", "name": "fake", "config": {"a": 1}}), 409),
        (json!({"type": "fake", "name": "x", "config": {"x": "y".repeat(300_000)}}), 413),
        (json!({"type": "docker", "name": "x"}), 422),
    ] {
        ask(&server, "post", "/api/providers", "/api/providers", Some(&body), status).await;
    }
    ask(&server, "post", "/api/providers", "/api/providers", None, 415).await;
    server.server.app.store.pool.close().await;
    for path in ["/api/jobs", "/api/workers", "/api/providers", "/readyz"] {
        ask(&server, "get", path, path, None, 503).await;
    }
}

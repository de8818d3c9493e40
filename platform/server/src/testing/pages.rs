//! Lists in pages, as a client walks through them.

use std::collections::BTreeSet;

use hodei_core::spec::JobSpec;
use serde_json::{Value, json};

use super::running::{Running, http};

async fn get(server: &Running, path: &str) -> (u16, Value) {
    let response = http().get(server.url(path)).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

/// Every page of a list, two entries each; the ids that were seen, in their order.
async fn walk(server: &Running, list: &str, id: &str) -> Vec<String> {
    let (mut seen, mut token) = (Vec::new(), String::new());
    for _ in 0..20 {
        let path = format!("/api/{list}?page_size=2&page_token={token}");
        let (status, page) = get(server, &path).await;
        assert_eq!(status, 200, "{page}");
        let entries = page[list].as_array().unwrap();
        assert!(entries.len() <= 2 && !entries.is_empty(), "{page}");
        seen.extend(entries.iter().map(|entry| entry[id].as_str().unwrap().to_owned()));
        match page["next_page_token"].as_str() {
            Some(next) => token = next.to_owned(),
            None => return seen,
        }
    }
    panic!("the pages have no end: {seen:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_entry_is_on_one_page() {
    let mut server = Running::start(&[]).await;
    for number in 1..=4 {
        let body = json!({"type": "fake", "name": format!("more-{number}")});
        assert_eq!(server.post("/api/providers", &body).await.0, 201);
    }
    for _ in 0..5 {
        server.submit(&JobSpec::command(["true"])).await;
        server.next_worker().await;
    }
    for (list, id) in [("providers", "name"), ("workers", "id"), ("jobs", "id")] {
        let seen = walk(&server, list, id).await;
        assert_eq!((seen.len(), seen.iter().collect::<BTreeSet<_>>().len()), (5, 5), "{seen:?}");
    }
    let names = walk(&server, "providers", "name").await;
    assert!(names.is_sorted(), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_that_is_not_valid_is_named() {
    let server = Running::start(&[]).await;
    for list in ["jobs", "workers", "providers"] {
        for (query, field) in [
            ("page_token=Nothing!", "page_token"),
            ("page_token=%00", "page_token"),
            ("page_size=501", "page_size"),
            ("page_size=-1", "page_size"),
            ("page_size=", "page_size"),
            ("pagesize=1", "pagesize"),
        ] {
            let (status, problem) = get(&server, &format!("/api/{list}?{query}")).await;
            assert_eq!(status, 400, "{list} {query}: {problem}");
            assert!(problem["detail"].as_str().unwrap().contains(field), "{query}: {problem}");
        }
    }
    assert_eq!(get(&server, "/api/jobs?page_token=x").await.1["field"], "page_token");
}

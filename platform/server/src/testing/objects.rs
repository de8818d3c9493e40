//! Object stores by URL: what is asked of S3, as a small server of its own sees it; and what it takes to
//! open the others.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use hodei_core::id::{AttemptKey, Epoch, JobId};
use url::Url;

use crate::logs::objects::{ObjectError, Objects, object_name};

const SECRET: &str = "s3cret-access-key";

/// Objects by path, `/bucket/name`.
type Held = Arc<Mutex<BTreeMap<String, Bytes>>>;

async fn answer(State(held): State<Held>, method: Method, uri: Uri, body: Bytes) -> Response {
    let mut held = held.lock().unwrap();
    let (path, query) = (uri.path().to_owned(), uri.query().unwrap_or_default());
    if path.starts_with("/forbidden") {
        return StatusCode::FORBIDDEN.into_response();
    }
    let xml = |name: &str, content: String| {
        format!("<?xml version=\"1.0\"?><{name}>{content}</{name}>").into_response()
    };
    match method {
        Method::PUT => {
            held.insert(path, body);
            [(header::ETAG, "\"e\"")].into_response()
        }
        Method::GET if query.contains("list-type=2") => {
            let prefix = Url::parse(&format!("http://h/?{query}")).unwrap();
            let prefix = prefix.query_pairs().find(|(name, _)| name == "prefix").unwrap().1;
            let under = format!("{path}/{prefix}");
            let entry = |key: &str| {
                let key = key.strip_prefix(&format!("{path}/"))?;
                Some(format!(
                    "<Contents><Key>{key}</Key><Size>1</Size><ETag>e</ETag>\
                     <LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                ))
            };
            let keys = held.keys().filter(|key| key.starts_with(&under));
            xml("ListBucketResult", keys.filter_map(|key| entry(key)).collect())
        }
        Method::GET => match held.get(&path) {
            Some(bytes) => {
                let modified = (header::LAST_MODIFIED, "Thu, 01 Jan 2026 00:00:00 GMT");
                ([(header::ETAG, "\"e\""), modified], bytes.clone()).into_response()
            }
            None => StatusCode::NOT_FOUND.into_response(),
        },
        Method::POST => {
            let body = String::from_utf8(body.to_vec()).unwrap();
            let keys = body.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap());
            let gone = keys.map(|key| {
                held.remove(&format!("{}/{key}", path.trim_end_matches('/')));
                format!("<Deleted><Key>{key}</Key></Deleted>")
            });
            let gone = gone.collect();
            xml("DeleteResult", gone)
        }
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

/// A place in S3, and what the server holds.
async fn start(url: &str) -> (Objects, Held) {
    let held = Held::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(held.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let variables = [
        ("AWS_ENDPOINT", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "here"),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    (Objects::open_with(&Url::parse(url).unwrap(), variables).unwrap(), held)
}

#[tokio::test]
async fn segments_live_below_the_prefix_of_an_s3_bucket() {
    let (objects, held) = start("s3://bucket/some/prefix").await;
    objects.probe().await.unwrap();
    assert!(held.lock().unwrap().is_empty(), "the probe is gone");
    let key = AttemptKey { job: JobId::new(), epoch: Epoch::FIRST };
    let (one, other) = (object_name(key, 1, 7), object_name(key, 8, 9));
    objects.put(&one, "one".into()).await.unwrap();
    objects.put(&one, "again".into()).await.unwrap();
    objects.put(&other, "other".into()).await.unwrap();
    let foreign = object_name(AttemptKey { job: JobId::new(), ..key }, 1, 7);
    objects.put(&foreign, "foreign".into()).await.unwrap();
    assert_eq!(objects.get(&one).await.unwrap(), "again");
    assert!(held.lock().unwrap().contains_key(&format!("/bucket/some/prefix/{one}")));
    objects.delete(&other).await.unwrap();
    objects.delete(&other).await.unwrap();
    let missing = objects.get(&other).await.unwrap_err();
    assert!(matches!(missing, ObjectError::Missing { .. }), "{missing}");
    assert_eq!(objects.sweep(key).await.unwrap(), 1);
    assert_eq!(objects.sweep(key).await.unwrap(), 0);
    assert_eq!(held.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_object_larger_than_any_segment_is_not_read() {
    let (objects, held) = start("s3://bucket").await;
    held.lock().unwrap().insert("/bucket/large".to_owned(), vec![0; 10 << 20].into());
    let error = objects.get("large").await.map(|bytes| bytes.len()).unwrap_err();
    assert!(matches!(error, ObjectError::TooLarge { bytes, .. } if bytes == 10 << 20), "{error}");
}

#[tokio::test]
async fn a_store_that_refuses_is_named_without_its_credentials() {
    let (objects, _held) = start("s3://forbidden/p").await;
    let error = objects.probe().await.unwrap_err().to_string();
    assert!(error.starts_with("s3://forbidden/p: "), "{error}");
    assert!(!error.contains(SECRET), "{error}");
    assert!(!format!("{objects:?}").contains(SECRET));
}

#[tokio::test]
async fn what_a_store_needs_is_asked_for_when_it_is_opened() {
    let open = |url: &str, variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        Objects::open_with(&Url::parse(url).unwrap(), variables).map(drop)
    };
    let azure = [("AZURE_STORAGE_ACCOUNT_NAME", "a"), ("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")];
    open("az://container/p", &azure).unwrap();
    open("gs://bucket/p", &[]).unwrap();
    let missing = open("az://container/p", &[]).unwrap_err().to_string();
    assert!(missing.to_lowercase().contains("account"), "{missing}");
}

//! Claiming under contention, and submission's idempotency.

use std::collections::HashSet;

use hodei_core::{id::ProviderId, secret::Secret, spec::JobSpec};
use serde_json::json;

use super::postgres::create_database;
use crate::store::{Store, StoreError, jobs::Submitted};

const JOBS: usize = 40;
const CLAIMERS: usize = 8;

async fn claim_all(store: Store, provider: ProviderId) -> Result<Vec<String>, StoreError> {
    let mut claimed = Vec::new();
    loop {
        let due = store.due_jobs(5).await?;
        if due.is_empty() {
            return Ok(claimed);
        }
        for job in due {
            let hash = Secret::generate().hash();
            if let Some(claim) = store.claim(job.id, &provider, &hash, None).await? {
                claimed.push(claim.key.to_string());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_job_is_claimed_once_by_many_claimers() {
    let database = create_database().await;
    let store = database.store().await;
    let provider: ProviderId = "p".parse().unwrap();
    store.add_provider(&provider, "fake", false, &json!({}), None).await.unwrap();
    for _ in 0..JOBS {
        store.submit(&JobSpec::command(["true"]), None, "c").await.unwrap();
    }
    let mut claimers = tokio::task::JoinSet::new();
    for _ in 0..CLAIMERS {
        // A pool of its own, as each replica has.
        claimers.spawn(claim_all(database.store().await, provider.clone()));
    }
    let claimed: Vec<_> = claimers.join_all().await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(claimed.len(), JOBS);
    assert_eq!(claimed.iter().collect::<HashSet<_>>().len(), JOBS);
    assert!(claimed.iter().all(|key| key.ends_with("#1")), "{claimed:?}");
}

#[tokio::test]
async fn nothing_is_claimed_for_a_provider_that_is_not_registered() {
    let store = create_database().await;
    let store = store.store().await;
    store.submit(&JobSpec::command(["true"]), None, "c").await.unwrap();
    let job = store.due_jobs(1).await.unwrap().remove(0);
    let hash = Secret::generate().hash();
    let claim = store.claim(job.id, &"p".parse().unwrap(), &hash, None).await.unwrap();
    assert!(claim.is_none());
    assert_eq!(store.due_jobs(1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_idempotency_key_makes_one_job() {
    let database = create_database().await;
    let store = database.store().await;
    let spec = JobSpec::command(["true"]);
    let Submitted::New(first) = store.submit(&spec, Some("key"), "c").await.unwrap() else {
        panic!("the first is new")
    };
    let again = store.submit(&spec, Some("key"), "c").await.unwrap();
    assert!(matches!(again, Submitted::Again(job) if job.id == first.id));
    let other = store.submit(&JobSpec::command(["false"]), Some("key"), "c").await.unwrap();
    assert!(matches!(other, Submitted::OtherSpec(id) if id == first.id));
    assert_eq!(store.list_jobs(&[], None, 10).await.unwrap().len(), 1);
}

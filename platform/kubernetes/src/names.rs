//! The names and labels by which this provider finds what it made, and the grammar of Kubernetes
//! names. Nothing here talks to a cluster.

use std::collections::BTreeMap;

use hodei_core::{
    id::{AttemptKey, Epoch, ProviderId, WorkerId, is_dns_label},
    provider::WorkerSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The container the agent runs in.
pub(crate) const CONTAINER: &str = "worker";
/// The key of the one-time password in its Secret.
pub(crate) const OTP_KEY: &str = "otp";
/// Where the agent may write.
pub(crate) const WORKSPACE: &str = "/workspace";
/// The names of the volumes every worker has.
pub(crate) const OWN_VOLUMES: [&str; 2] = ["workspace", "tmp"];
/// Where they are mounted.
pub(crate) const OWN_MOUNTS: [&str; 2] = [WORKSPACE, "/tmp"];

pub(crate) const APP: (&str, &str) = ("app", "hodei-jobs-worker");
pub(crate) const MANAGED: (&str, &str) = ("hodei.io/managed", "true");
pub(crate) const PROVIDER: (&str, &str) = ("hodei.io/provider", "kubernetes");
pub(crate) const PROVIDER_ID: &str = "hodei.io/provider-id";
pub(crate) const WORKER_ID: &str = "hodei.io/worker-id";
pub(crate) const ATTEMPT: &str = "hodei.io/attempt";
pub(crate) const JOB_ID: &str = "hodei.io/job-id";

const OWN_PREFIX: &str = "hodei.io/";

/// The name of a worker's pod.
#[must_use]
pub fn pod_name(worker: WorkerId) -> String {
    format!("hodei-worker-{worker}")
}

/// The name of the Secret that holds a worker's one-time password.
#[must_use]
pub fn secret_name(worker: WorkerId) -> String {
    format!("hodei-worker-{worker}-otp")
}

/// The label selector that finds every pod of one provider and no other's.
#[must_use]
pub fn selector(provider: &ProviderId) -> String {
    format!("{}={},{}={},{PROVIDER_ID}={provider}", APP.0, APP.1, MANAGED.0, MANAGED.1)
}

/// Whether a user's label would say something about ownership.
pub(crate) fn is_reserved_label(key: &str) -> bool {
    key == APP.0 || key.starts_with(OWN_PREFIX)
}

/// The labels that make a resource ours.
pub(crate) fn owner_labels(provider: &ProviderId, worker: WorkerId) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = [APP, MANAGED, PROVIDER]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    labels.insert(PROVIDER_ID.to_owned(), provider.to_string());
    labels.insert(WORKER_ID.to_owned(), worker.to_string());
    labels
}

/// All labels of a worker's pod: the operator's, the user's, then ours over both.
///
/// A user's label that Kubernetes would refuse is left out: it is kept with the job, and a label
/// that is only for display must not keep the job from running.
pub(crate) fn pod_labels(
    provider: &ProviderId,
    operator: &BTreeMap<String, String>,
    spec: &WorkerSpec,
) -> BTreeMap<String, String> {
    let fits = |(key, value): &(&String, &String)| {
        !is_reserved_label(key) && is_label_key(key) && is_label_value(value)
    };
    let given = operator.iter().chain(&spec.labels).filter(fits);
    let mut labels: BTreeMap<String, String> =
        given.map(|(key, value)| (key.clone(), value.clone())).collect();
    labels.extend(owner_labels(provider, spec.worker));
    if let Some(attempt) = spec.attempt {
        labels.insert(JOB_ID.to_owned(), attempt.job.to_string());
        labels.insert(ATTEMPT.to_owned(), attempt.epoch.to_string());
    }
    labels
}

fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str)
}

/// The worker a resource belongs to, if this provider made it.
pub(crate) fn owned_worker(meta: &ObjectMeta, provider: &ProviderId) -> Option<WorkerId> {
    let ours = label(meta, MANAGED.0) == Some(MANAGED.1)
        && label(meta, PROVIDER_ID) == Some(provider.as_str());
    if ours { label(meta, WORKER_ID)?.parse().ok() } else { None }
}

/// The attempt a resource was made for.
pub(crate) fn attempt(meta: &ObjectMeta) -> Option<AttemptKey> {
    let job = label(meta, JOB_ID)?.parse().ok()?;
    let epoch = label(meta, ATTEMPT)?.parse().ok()?;
    Some(AttemptKey { job, epoch: Epoch(epoch) })
}

/// Whether a text is a DNS-1123 subdomain, as most names of Kubernetes resources are.
pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// Whether a text is a label's or annotation's key: `[prefix/]name`.
pub(crate) fn is_label_key(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    prefix.is_none_or(is_dns_subdomain) && !name.is_empty() && is_label_value(name)
}

/// Whether a text is a label's value: empty, or up to 63 characters as Kubernetes has it.
pub(crate) fn is_label_value(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let outer = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().copied().all(inner)
        && outer(bytes.first())
        && outer(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_of_labels() {
        for good in ["a", "A.b_c-d", "example.com/x", &"x".repeat(63)] {
            assert!(is_label_key(good), "{good}");
        }
        for bad in ["", "/", "a/", "/a", "-a", "a b", "a/b/c", "A.com/x", &"x".repeat(64)] {
            assert!(!is_label_key(bad), "{bad}");
        }
        assert!(is_label_value(""));
        assert!(!is_label_value("a/b"));
    }

    #[test]
    fn the_selector_keeps_two_providers_apart() {
        let provider = "k8s-local".parse().unwrap();
        assert_eq!(
            selector(&provider),
            "app=hodei-jobs-worker,hodei.io/managed=true,hodei.io/provider-id=k8s-local"
        );
        let worker = WorkerId::new();
        let meta = |provider: &ProviderId| ObjectMeta {
            labels: Some(owner_labels(provider, worker)),
            ..ObjectMeta::default()
        };
        assert_eq!(owned_worker(&meta(&provider), &provider), Some(worker));
        assert_eq!(owned_worker(&meta(&"other".parse().unwrap()), &provider), None);
    }
}

#[cfg(test)]
mod outside_input {
    use proptest::{collection::btree_map, prelude::*};

    use super::*;

    fn key() -> impl Strategy<Value = String> {
        let own = [APP.0, MANAGED.0, PROVIDER.0, PROVIDER_ID, WORKER_ID, ATTEMPT, JOB_ID];
        prop_oneof![
            3 => prop::sample::select(own.to_vec()).prop_map(str::to_owned),
            1 => any::<String>(),
            1 => "[a-zA-Z./_-]{0,9}",
        ]
    }

    fn value() -> impl Strategy<Value = String> {
        let own = ["true", "k8s-local", "1", "0190a6f0-0000-7000-8000-000000000001"];
        prop_oneof![
            3 => prop::sample::select(own.to_vec()).prop_map(str::to_owned),
            1 => any::<String>(),
        ]
    }

    proptest! {
        #[test]
        fn only_what_is_labelled_so_is_taken_for_ours(labels in btree_map(key(), value(), 0..8)) {
            let provider: ProviderId = "k8s-local".parse().unwrap();
            let meta = ObjectMeta { labels: Some(labels.clone()), ..ObjectMeta::default() };
            let has = |key: &str, value: &str| labels.get(key).is_some_and(|found| found == value);
            if let Some(worker) = owned_worker(&meta, &provider) {
                prop_assert!(has(MANAGED.0, MANAGED.1) && has(PROVIDER_ID, "k8s-local"));
                prop_assert_eq!(labels[WORKER_ID].parse(), Ok(worker));
            }
            if let Some(found) = attempt(&meta) {
                prop_assert_eq!(labels[ATTEMPT].parse(), Ok(found.epoch.0));
            }
        }

        #[test]
        fn labels_of_a_job_never_speak_of_ownership_and_always_fit(
            given in btree_map(key(), value(), 0..8),
        ) {
            let provider: ProviderId = "other".parse().unwrap();
            let spec = WorkerSpec { labels: given, ..crate::testing::make_spec() };
            let labels = pod_labels(&provider, &BTreeMap::new(), &spec);
            let own = owner_labels(&provider, spec.worker);
            prop_assert!(own.iter().all(|(key, value)| labels.get(key) == Some(value)));
            for (key, value) in &labels {
                prop_assert!(is_label_key(key) && is_label_value(value), "{key:?} {value:?}");
                let reserved = [JOB_ID, ATTEMPT].contains(&key.as_str()) || own.contains_key(key);
                prop_assert!(reserved || !is_reserved_label(key), "{key}");
            }
        }
    }
}

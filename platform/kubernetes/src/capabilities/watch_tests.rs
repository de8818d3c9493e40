//! Against a fake API server: what the watches bring, and what is said when they bring nothing.

use hodei_core::{
    provider::{NodeCount, WorkerProvider},
    spec::Resources,
};
use serde_json::{Value, json};

use super::{node::tests::make_node, *};
use crate::{
    KubernetesConfig,
    testing::{FakeCluster, Fault},
};

const DEADLINE: Duration = Duration::from_secs(20);

fn make_cluster() -> FakeCluster {
    let cluster = FakeCluster::new();
    cluster.put("nodes", make_node("a", "3920m", "8Gi"));
    cluster.put("nodes", make_node("b", "8", "4Gi"));
    cluster
}

fn make_quota(pods: &str, used: &str) -> Value {
    json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": pods, "requests.memory": "6Gi"}},
        "status": {"used": {"pods": used}}})
}

/// Waits until what is offered has a property; each look is prompted by a change.
async fn await_offer(
    provider: &KubernetesProvider,
    what: &str,
    wanted: impl Fn(&ProviderCapabilities) -> bool,
) -> ProviderCapabilities {
    let mut changes = provider.inventory.changes();
    let mut last = None;
    let look = async {
        loop {
            let offer = provider.capabilities().await.unwrap();
            if wanted(&offer) {
                return offer;
            }
            last = Some(offer);
            changes.changed().await.unwrap();
        }
    };
    let found = tokio::time::timeout(DEADLINE, look).await;
    found.unwrap_or_else(|_| panic!("{what}; last: {last:?}"))
}

fn lists(cluster: &FakeCluster) -> usize {
    cluster.requests().iter().filter(|request| request.starts_with("LIST ")).count()
}

fn cpu(request: &str) -> Requirements {
    let resources = Resources { cpu_request: Some(request.into()), ..Resources::default() };
    Requirements { resources, ..Requirements::default() }
}

#[tokio::test]
async fn changes_are_seen_by_watch_without_a_new_list() {
    let cluster = make_cluster();
    let provider = cluster.provider(KubernetesConfig::default());
    assert!(cluster.requests().is_empty(), "nothing is watched before the first question");
    let offer = provider.capabilities().await.unwrap();
    assert_eq!((offer.max_cpu_millis, offer.max_memory_bytes), (Some(8000), Some(8 << 30)));
    assert_eq!(offer.nodes, Some(NodeCount { total: 2, admitting: 2, schedulable: 2 }));
    assert_eq!((offer.free_workers, offer.unknown.len()), (None, 0));

    cluster.put("nodes", make_node("c", "16", "2Gi"));
    await_offer(&provider, "a new node", |offer| offer.max_cpu_millis == Some(16000)).await;
    cluster.change("nodes", "c", |_| false);
    await_offer(&provider, "a node gone", |offer| offer.max_cpu_millis == Some(8000)).await;
    cluster.change("nodes", "b", |node| {
        node["spec"]["unschedulable"] = json!(true);
        true
    });
    let count = NodeCount { total: 2, admitting: 2, schedulable: 1 };
    let offer = await_offer(&provider, "a cordon", |offer| offer.nodes == Some(count)).await;
    assert_eq!(offer.max_cpu_millis, Some(8000), "a cordoned node may come back");

    cluster.put("resourcequotas", make_quota("10", "7"));
    let offer = await_offer(&provider, "a quota", |offer| offer.free_workers == Some(3)).await;
    assert_eq!(offer.max_memory_bytes, Some(6 << 30));
    cluster.put("resourcequotas", make_quota("10", "10"));
    await_offer(&provider, "a full quota", |offer| offer.free_workers == Some(0)).await;
    let item = json!({"type": "Container", "max": {"cpu": "2"}});
    cluster.put("limitranges", json!({"metadata": {"name": "l"}, "spec": {"limits": [item]}}));
    await_offer(&provider, "a limit range", |offer| offer.max_cpu_millis == Some(2000)).await;
    cluster.change("limitranges", "l", |_| false);
    await_offer(&provider, "none again", |offer| offer.max_cpu_millis == Some(8000)).await;
    assert_eq!(lists(&cluster), 3, "{:?}", cluster.requests());
}

#[tokio::test]
async fn many_questions_are_answered_from_memory() {
    let cluster = make_cluster();
    let provider = cluster.provider(KubernetesConfig::default());
    let (first, second) = tokio::join!(provider.capabilities(), provider.capabilities());
    assert_eq!(first.unwrap().nodes, second.unwrap().nodes);
    for _ in 0..100 {
        assert_eq!(provider.can_fulfill(&cpu("1")).await.unwrap(), Fulfilment::Yes);
    }
    assert_eq!(lists(&cluster), 3);
    let offer = provider.capabilities().await.unwrap();
    assert!(offer.staleness.0 < provider.inventory.stale, "{offer:?}");
}

#[tokio::test]
async fn without_nodes_the_namespace_is_all_that_is_known_until_they_may_be_read() {
    let cluster = make_cluster();
    cluster.put("resourcequotas", make_quota("10", "7"));
    let forbidden = "nodes is forbidden: User cannot list resource \"nodes\"";
    cluster.fail_next("LIST nodes", Fault::status(403, "Forbidden", forbidden));
    let mut provider = cluster.provider(KubernetesConfig::default());
    provider.inventory.forbidden_retry = Duration::from_millis(200);
    let offer = provider.capabilities().await.unwrap();
    assert_eq!((offer.max_cpu_millis, offer.nodes), (None, None));
    assert_eq!(offer.free_workers, Some(3));
    assert!(offer.unknown["nodes"].contains("cannot list resource"), "{:?}", offer.unknown);
    let needs = Requirements { architecture: Some("arm64".into()), ..cpu("100") };
    assert_eq!(provider.can_fulfill(&needs).await.unwrap(), Fulfilment::Yes, "unknown is no no");

    let offer = await_offer(&provider, "the nodes", |offer| offer.nodes.is_some()).await;
    assert!(offer.unknown.is_empty(), "{offer:?}");
    let answer = provider.can_fulfill(&needs).await.unwrap();
    assert!(matches!(answer, Fulfilment::Never(_)), "{answer:?}");
}

#[tokio::test]
async fn a_right_that_is_taken_away_is_not_answered_from_memory() {
    let cluster = make_cluster();
    let provider = cluster.provider(KubernetesConfig::default());
    let forbidden = "cannot watch resource \"nodes\"";
    cluster.fail_next("WATCH nodes", Fault::status(403, "Forbidden", forbidden));
    let offer = await_offer(&provider, "the refusal", |offer| !offer.unknown.is_empty()).await;
    assert_eq!(offer.nodes, None);
}

#[tokio::test]
async fn a_watch_that_is_too_old_lists_again() {
    let gone = json!({"kind": "Status", "code": 410, "reason": "Expired", "status": "Failure",
        "message": "too old resource version"});
    let event = json!({"type": "ERROR", "object": gone}).to_string() + "\n";
    let by_event = Fault::Answer { code: 200, body: event, retry_after: None };
    let by_answer = Fault::status(410, "Expired", "too old resource version");
    for fault in [by_event, by_answer] {
        let cluster = make_cluster();
        cluster.fail_next("WATCH nodes", fault);
        let provider = cluster.provider(KubernetesConfig::default());
        provider.capabilities().await.unwrap();
        // While the watch is down.
        cluster.put("nodes", make_node("c", "16", "2Gi"));
        await_offer(&provider, "the node", |offer| offer.max_cpu_millis == Some(16000)).await;
        let again = || cluster.requests().iter().filter(|r| *r == "LIST nodes").count();
        let mut changes = provider.inventory.changes();
        let listed = async {
            while again() < 2 {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(DEADLINE, listed).await.expect("the nodes must be listed again");
        assert_eq!(provider.capabilities().await.unwrap().nodes.unwrap().total, 3);
    }
}

#[tokio::test]
async fn an_error_is_told_and_retried() {
    let cluster = make_cluster();
    cluster.fail_next("LIST limitranges", Fault::status(500, "InternalError", "etcd is away"));
    let provider = cluster.provider(KubernetesConfig::default());
    let mut changes = provider.inventory.changes();
    let told = async {
        loop {
            provider.inventory.await_known(Duration::ZERO).await;
            if let Some(("limitranges", Some(trouble))) = provider.inventory.state().missing() {
                return provider.unseen("limitranges", SYNC_DEADLINE, Some(trouble));
            }
            changes.changed().await.unwrap();
        }
    };
    let error = tokio::time::timeout(DEADLINE, told).await.expect("the error must be told");
    assert_eq!(error.cause(), FailureCause::ApiUnavailable);
    insta::assert_snapshot!(error);
    assert_eq!(
        provider.capabilities().await.unwrap().unknown.len(),
        0,
        "the next try is waited for"
    );
    assert_eq!(provider.inventory.state().oldest().unwrap().2, None, "trouble is over");
}

#[tokio::test]
async fn an_old_view_decides_no_job() {
    let cluster = make_cluster();
    let mut provider = cluster.provider(KubernetesConfig::default());
    provider.can_fulfill(&cpu("1")).await.unwrap();
    provider.inventory.stale = Duration::ZERO;
    let error = provider.can_fulfill(&cpu("999")).await.unwrap_err();
    assert_eq!(error.cause(), FailureCause::ApiUnavailable);
    provider.capabilities().await.expect("what was seen is shown, with its age");
}

#[tokio::test]
async fn the_watches_end_with_the_provider() {
    let cluster = make_cluster();
    let provider = cluster.provider(KubernetesConfig::default());
    provider.capabilities().await.unwrap();
    let shared = std::sync::Arc::downgrade(&provider.inventory.shared());
    drop(provider);
    let ended = async {
        while shared.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, ended).await.expect("the watches must end");
}

#[tokio::test]
async fn a_node_that_left_may_come_back() {
    let cluster = make_cluster();
    let provider = cluster.provider(KubernetesConfig::default());
    provider.capabilities().await.unwrap();
    cluster.change("nodes", "b", |_| false);
    await_offer(&provider, "the node gone", |offer| offer.nodes.unwrap().total == 1).await;
    let answer = provider.can_fulfill(&cpu("8")).await.unwrap();
    assert!(matches!(answer, Fulfilment::NotNow(_)), "{answer:?}");
    let later = Instant::now() + Duration::from_secs(3600);
    let state = provider.inventory.state();
    let known = state.known(later);
    let needs = cpu("8");
    let demand = Demand::of(&provider.config, &needs.resources);
    let answer = answer::answer(&known, &demand, &needs, false);
    assert!(matches!(answer, Fulfilment::Never(_)), "{answer:?}");
}

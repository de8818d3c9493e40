//! The pace of requests, and what it does not hold back.

use hodei_core::{
    id::WorkerId,
    provider::{WorkerProvider, WorkerSpec},
};
use tokio::time::Instant;

use super::*;
use crate::{
    KubernetesConfig,
    testing::{FakeCluster, Fault, make_spec},
};

#[tokio::test(start_paused = true)]
async fn requests_keep_to_the_rate() {
    let cluster = FakeCluster::new();
    let config =
        KubernetesConfig { api_requests_per_second: 2, api_burst: 2, ..Default::default() };
    let provider = cluster.provider(config);
    provider.list_workers().await.unwrap();
    let start = Instant::now();
    for _ in 0..5 {
        let spec = WorkerSpec { worker: WorkerId::new(), ..make_spec() };
        provider.create_worker(&spec).await.unwrap();
    }
    let took = start.elapsed();
    let expected = Duration::from_secs(4)..Duration::from_millis(4020);
    assert!(expected.contains(&took), "ten requests, two of them free: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_watch_waits_for_no_turn() {
    let cluster = FakeCluster::new();
    let config =
        KubernetesConfig { api_requests_per_second: 1, api_burst: 1, ..Default::default() };
    let provider = cluster.provider(config);
    provider.api.pace.pause(Duration::from_secs(3600));
    provider.list_workers().await.unwrap();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(cluster.count("WATCH pods") >= 3);
    assert!(provider.watch.is_fresh());
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_is_left_in_peace_by_all() {
    let cluster = FakeCluster::new();
    let provider = cluster.provider(KubernetesConfig::default());
    provider.list_workers().await.unwrap();
    let busy = Fault::Answer { code: 429, body: String::new(), retry_after: Some(1) };
    cluster.fail_next("DELETE secrets", busy);
    let discarded = provider.discard_otp(WorkerId::new());
    let mut discarded = std::pin::pin!(discarded);
    let start = Instant::now();
    tokio::select! {
        _ = &mut discarded => panic!("it waits for a second"),
        () = tokio::time::sleep(Duration::from_millis(100)) => {}
    }
    provider.create_worker(&make_spec()).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1), "another caller waits too");
    discarded.await.unwrap();
    assert_eq!(cluster.count("DELETE secrets"), 2);
}

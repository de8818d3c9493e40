//! What counts as a start, and what the windows say of it.

use hodei_core::provider::{Requirements, WorkerProvider};
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::*;
use crate::{
    KubernetesConfig,
    testing::{FakeCluster, make_spec},
};

const IMAGE: &str = "worker:1";

/// A pod as it is before a node, on a node, and running this many whole seconds after its create.
fn make_pod(uid: &str, node: Option<&str>, started: Option<u64>) -> Pod {
    let state =
        |second: u64| json!({"running": {"startedAt": format!("2026-01-01T00:00:{second:02}Z")}});
    let container = |state: Value| {
        json!([{"name": "worker", "image": IMAGE, "imageID": "", "ready": true,
            "restartCount": 0, "state": state}])
    };
    serde_json::from_value(json!({
        "metadata": {"uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": node, "containers": [{"name": "worker", "image": IMAGE}]},
        "status": {"containerStatuses": started.map(|second| container(state(second)))},
    }))
    .unwrap()
}

struct Clock {
    measured: Measured,
    start: Instant,
    /// The images that the kubelet tells of.
    told: bool,
}

impl Clock {
    fn new() -> Self {
        Self { measured: Measured::default(), start: Instant::now(), told: false }
    }

    fn at(&mut self, millis: u64, event: Event<Pod>) {
        let now = self.start + Duration::from_millis(millis);
        let told = self.told;
        self.measured.heard(&event, now, |_, _| told);
    }

    /// One whole start, from `begin` on.
    fn start(&mut self, uid: &str, node: &str, begin: u64, took: u64) {
        self.at(begin, Event::Apply(make_pod(uid, None, None)));
        self.at(begin + 1, Event::Apply(make_pod(uid, Some(node), None)));
        let running = make_pod(uid, Some(node), Some(took / 1000));
        self.at(begin + took, Event::Apply(running));
    }

    fn estimate(&self, after: u64) -> StartupEstimate {
        self.measured.estimate(IMAGE, self.start + Duration::from_millis(after))
    }
}

fn millis(time: Option<StartupTime>) -> Option<(u128, u128, usize)> {
    time.map(|time| (time.median.as_millis(), time.p90.as_millis(), time.samples))
}

#[test]
fn median_and_p90_by_whether_the_node_had_the_image() {
    let mut clock = Clock::new();
    assert_eq!(clock.estimate(0), StartupEstimate::default());
    clock.start("a", "n1", 0, 9_000);
    for (index, took) in [900, 100, 500, 300, 700, 200, 800, 400, 600, 1000].into_iter().enumerate()
    {
        clock.start(&format!("b{index}"), "n1", 10_000, took);
    }
    let found = clock.estimate(20_000);
    assert_eq!(millis(found.image_absent), Some((9_000, 9_000, 1)));
    assert_eq!(millis(found.image_present), Some((500, 900, 10)), "a worker ran there before");
    assert_eq!(clock.measured.estimate("other", clock.start), StartupEstimate::default());
}

#[test]
fn the_image_counts_as_it_was_when_the_node_was_chosen() {
    let mut clock = Clock::new();
    clock.at(0, Event::Apply(make_pod("a", None, None)));
    clock.at(1, Event::Apply(make_pod("a", Some("n"), None)));
    // Pulled, and told, before the container runs.
    clock.told = true;
    clock.at(4_000, Event::Apply(make_pod("a", Some("n"), Some(4))));
    assert_eq!(millis(clock.estimate(5_000).image_absent), Some((4_000, 4_000, 1)));
    clock.start("b", "other", 5_000, 700);
    assert_eq!(millis(clock.estimate(6_000).image_present), Some((700, 700, 1)));
}

#[test]
fn only_the_first_sight_of_running_counts() {
    let mut clock = Clock::new();
    clock.start("a", "n", 0, 1_000);
    clock.at(9_000, Event::Apply(make_pod("a", Some("n"), Some(1))));
    assert_eq!(clock.estimate(10_000).image_absent.unwrap().samples, 1);
    // Seen first in a list: when it was made is not known well enough.
    clock.at(10_000, Event::Init);
    clock.at(10_000, Event::InitApply(make_pod("b", None, None)));
    clock.at(10_000, Event::InitDone);
    clock.at(10_900, Event::Apply(make_pod("b", Some("n"), Some(1))));
    assert_eq!(clock.estimate(11_000).image_present, None);
}

#[test]
fn an_event_that_came_late_is_not_believed() {
    let mut clock = Clock::new();
    // All at once, after the watch was down for a while.
    clock.start("a", "n", 0, 3);
    let late = make_pod("b", Some("n"), Some(7));
    clock.at(0, Event::Apply(make_pod("b", None, None)));
    clock.at(5, Event::Apply(late));
    let mut slow = Clock::new();
    slow.at(0, Event::Apply(make_pod("c", Some("n"), None)));
    slow.at(40_000, Event::Apply(make_pod("c", Some("n"), Some(2))));
    assert_eq!(millis(clock.estimate(50_000).image_present), Some((7_000, 7_000, 1)));
    assert_eq!(millis(slow.estimate(50_000).image_absent), Some((2_000, 2_000, 1)));
}

#[test]
fn the_window_slides_and_everything_is_bounded() {
    let mut clock = Clock::new();
    for index in 0..200_u64 {
        clock.start(&format!("p{index}"), "n", index * 10_000, 1_000 + index * 10);
    }
    let found = clock.estimate(2_000_000).image_present.unwrap();
    assert_eq!((found.samples, found.median.as_millis()), (64, 2_670), "the last 64");
    let hour = 3_600_000;
    assert_eq!(clock.estimate(2_000_000 + hour).image_present, None, "older than an hour");
    for index in 0..(WINDOWS + 10) {
        clock.measured.measure((format!("i{index}"), true), clock.start, Duration::ZERO);
    }
    for index in 0..(PAIRS as u64 + 10) {
        clock.measured.remember((index, 0));
    }
    assert_eq!(clock.measured.windows.len(), WINDOWS);
    assert_eq!((clock.measured.pairs.len(), clock.measured.order.len()), (PAIRS, PAIRS));
    for index in 0..200 {
        clock.at(0, Event::Delete(make_pod(&format!("p{index}"), Some("n"), None)));
    }
    assert!(clock.measured.begun.is_empty());
}

#[tokio::test]
async fn the_watch_of_the_pods_is_what_is_measured() {
    let cluster = FakeCluster::new();
    let image = KubernetesConfig::default().image;
    let images = json!([{"names": [format!("docker.io/library/{image}")]}]);
    cluster.put("nodes", json!({"metadata": {"name": "n"}, "status": {"images": images}}));
    let provider = cluster.provider(KubernetesConfig::default());
    provider.can_fulfill(&Requirements::default()).await.unwrap();
    provider.list_workers().await.unwrap();
    let mut changes = provider.watch.changes();
    let handle = provider.create_worker(&make_spec()).await.unwrap();
    cluster.change("pods", &handle.resource, |pod| {
        pod["spec"]["nodeName"] = json!("n");
        true
    });
    cluster.change("pods", &handle.resource, |pod| {
        pod["status"] = json!({"containerStatuses": [{"name": "worker", "image": "", "imageID": "",
            "ready": true, "restartCount": 0,
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]});
        true
    });
    let measured = async {
        while provider.estimated_startup_time(None).image_present.is_none() {
            changes.changed().await.unwrap();
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(20), measured).await;
    found.expect("the start must be measured");
    assert_eq!(provider.estimated_startup_time(Some(&image)).image_present.unwrap().samples, 1);
    assert_eq!(provider.estimated_startup_time(Some("other")), StartupEstimate::default());
}

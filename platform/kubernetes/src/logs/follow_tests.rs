//! Following against the fake API server, which plays the kubelet's log.

use std::sync::{Arc, Mutex};

use hodei_core::provider::WorkerProvider;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    KubernetesConfig, KubernetesProvider,
    logs::parse_log_line,
    testing::{End, FakeCluster, Fault, Streamed, make_spec, parameter},
};

const LOG: &str = "2026-01-02T03:04:05.1Z one\n\
    2026-01-02T03:04:05.1Z one\n\
    2026-01-02T03:04:05.1Z \n\
    2026-01-02T03:04:06.000000001Z caf\u{e9} \u{1f600}\n\
    2026-01-02T03:04:05.9Z of stderr, a little late\n\
    2026-01-02T03:04:07Z last\n";

/// What the kubelet gives of a log from `sinceTime` on.
fn since(log: &str, query: &str) -> String {
    let from = parameter(query, "sinceTime").map(|text| text.replace("%3A", ":"));
    let from: Option<Timestamp> = from.map(|text| text.parse().unwrap());
    let lines = log.split_inclusive('\n');
    lines.filter(|line| parse_log_line(line).time >= from).collect()
}

fn expected(log: &str) -> Vec<LogEntry> {
    log.lines().map(parse_log_line).collect()
}

fn set_state(cluster: &FakeCluster, handle: &WorkerHandle, phase: &str, state: serde_json::Value) {
    cluster.change("pods", &handle.resource, |pod| {
        pod["status"] = json!({"phase": phase, "containerStatuses": [{
            "name": "worker", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "state": state,
        }]});
        true
    });
}

fn end_container(cluster: &FakeCluster, handle: &WorkerHandle) {
    set_state(cluster, handle, "Succeeded", json!({"terminated": {"exitCode": 0}}));
}

/// A provider and a worker whose container runs.
async fn make_running(cluster: &FakeCluster) -> (KubernetesProvider, WorkerHandle) {
    let provider = cluster.provider(KubernetesConfig::default());
    provider.list_workers().await.unwrap();
    let handle = provider.create_worker(&make_spec()).await.unwrap();
    set_state(cluster, &handle, "Running", json!({"running": {}}));
    await_log_state(&provider, &handle, LogState::Running).await;
    (provider, handle)
}

async fn await_log_state(provider: &KubernetesProvider, handle: &WorkerHandle, state: LogState) {
    let mut reader = provider.watch.reader();
    while reader.log_of(handle) != LogView::Here(state) {
        let seen = reader.log_of(handle);
        reader.await_other(handle, seen).await;
    }
}

type Item = Result<LogEntry, ProviderError>;

async fn collect(stream: BoxStream<'static, Item>) -> (Vec<LogEntry>, Option<ProviderError>) {
    let items: Vec<Item> =
        timeout(Duration::from_secs(3600), stream.collect()).await.expect("the log must end");
    let (mut entries, mut error) = (Vec::new(), None);
    for item in items {
        assert!(error.is_none(), "an error is the last item");
        match item {
            Ok(entry) => entries.push(entry),
            Err(last) => error = Some(last),
        }
    }
    (entries, error)
}

/// Follows a log whose pieces are cut off after so many bytes; then one piece comes whole, and the
/// container ends.
async fn follow_cut(cuts: Vec<(usize, End)>) -> (Vec<LogEntry>, usize) {
    let cluster = FakeCluster::new();
    let (provider, handle) = make_running(&cluster).await;
    let mut cuts = cuts.into_iter();
    let (of_script, pod) = (cluster.clone(), handle.clone());
    cluster.serve_logs(move |query| {
        let text = since(LOG, query).into_bytes();
        let (count, end) = cuts.next().unwrap_or((usize::MAX, End::Whole));
        let kept = text[..count.min(text.len())].to_vec();
        if cuts.len() == 0 {
            // The fake is locked while it asks the script.
            let (cluster, pod) = (of_script.clone(), pod.clone());
            tokio::spawn(async move { end_container(&cluster, &pod) });
        }
        Fault::Streamed(Streamed::new(kept, end))
    });
    let (entries, error) = collect(provider.follow_worker_logs(&handle, LogQuery::default())).await;
    assert!(error.is_none(), "{error:?}");
    (entries, cluster.count("GET pods/log"))
}

#[tokio::test(start_paused = true)]
async fn a_cut_at_every_byte_gives_the_same_lines_once_and_in_order() {
    for count in 0..=LOG.len() {
        let (entries, _) = follow_cut(vec![(count, End::Broken)]).await;
        assert_eq!(entries, expected(LOG), "after {count} bytes");
    }
}

proptest! {
    #[test]
    fn many_cuts_anywhere_give_the_same_lines_once_and_in_order(
        cuts in prop::collection::vec(
            (0..LOG.len(), prop::sample::select(vec![End::Broken, End::Whole, End::Never])), 0..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let (entries, asked) = runtime.block_on(follow_cut(cuts.clone()));
        prop_assert_eq!(entries, expected(LOG));
        prop_assert!(asked <= cuts.len() + 3, "{} requests", asked);
    }
}

#[tokio::test(start_paused = true)]
async fn there_is_nothing_to_ask_before_the_container_starts() {
    let cluster = FakeCluster::new();
    let provider = cluster.provider(KubernetesConfig::default());
    provider.list_workers().await.unwrap();
    let handle = provider.create_worker(&make_spec()).await.unwrap();
    let refused = "container \"worker\" in pod \"x\" is waiting to start: ContainerCreating";
    cluster.fail_next("GET pods/log", Fault::status(400, "BadRequest", refused));
    cluster.serve_logs(|query| Fault::Streamed(Streamed::new(since(LOG, query), End::Whole)));
    let mut stream = provider.follow_worker_logs(&handle, LogQuery::default());
    let early = timeout(Duration::from_secs(600), stream.next()).await;
    assert!(early.is_err(), "there is no log yet");
    assert_eq!(cluster.count("GET pods/log"), 0, "the watch says so, and no one is asked");
    set_state(&cluster, &handle, "Running", json!({"running": {}}));
    assert_eq!(stream.next().await.unwrap().unwrap(), expected(LOG)[0], "a kubelet that lags");
    end_container(&cluster, &handle);
    assert_eq!(collect(stream).await.0, expected(LOG)[1..]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_goes_is_an_error_only_if_lines_may_be_lost() {
    for (end, started, complete) in [
        (End::Whole, true, true),
        (End::Broken, true, false),
        (End::Never, true, false),
        (End::Whole, false, true),
    ] {
        let cluster = FakeCluster::new();
        let (provider, handle) = make_running(&cluster).await;
        if !started {
            set_state(&cluster, &handle, "Pending", json!({"waiting": {}}));
            await_log_state(&provider, &handle, LogState::NotStarted).await;
        }
        let (of_script, pod) = (cluster.clone(), handle.resource.clone());
        cluster.serve_logs(move |query| {
            let (cluster, pod) = (of_script.clone(), pod.clone());
            tokio::spawn(async move { cluster.change("pods", &pod, |_| false) });
            // The last line has no end.
            Fault::Streamed(Streamed::new(since(LOG, query).trim_end(), end))
        });
        if !started {
            cluster.change("pods", &handle.resource, |_| false);
        }
        let (entries, error) =
            collect(provider.follow_worker_logs(&handle, LogQuery::default())).await;
        let cause = error.map(|error| error.cause());
        let lost = (!complete).then_some(FailureCause::DeletedExternally);
        assert_eq!(cause, lost, "{end:?} {started}");
        let told = match (started, complete) {
            (true, true) => expected(LOG).len(),
            (true, false) => expected(LOG).len() - 1,
            (false, _) => 0,
        };
        assert_eq!(entries, expected(LOG)[..told], "{end:?} {started}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_the_watch_has_not_told_gone_yet_was_read_whole() {
    let cluster = FakeCluster::new();
    let (provider, handle) = make_running(&cluster).await;
    cluster.fail_next("GET pods/log", Fault::Streamed(Streamed::new(LOG.trim_end(), End::Whole)));
    cluster.fail_always("GET pods/log", Some(Fault::status(404, "NotFound", "pods not found")));
    let (entries, error) = collect(provider.follow_worker_logs(&handle, LogQuery::default())).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(entries, expected(LOG));
}

#[tokio::test(start_paused = true)]
async fn the_query_is_kept_over_a_cut() {
    let cluster = FakeCluster::new();
    let (provider, handle) = make_running(&cluster).await;
    let queries: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&queries);
    cluster.serve_logs(move |query| {
        let mut seen = seen.lock().unwrap();
        seen.push(query.to_owned());
        let tail = parameter(query, "tailLines").is_some();
        let text = since(LOG, query);
        let text = if tail { text.lines().last().unwrap().to_owned() + "\n" } else { text };
        let end = if seen.len() == 1 { End::Broken } else { End::Whole };
        Fault::Streamed(Streamed::new(text, end))
    });
    end_container(&cluster, &handle);
    let since: Timestamp = "2026-01-02T03:04:05.5Z".parse().unwrap();
    let query = LogQuery { tail: Some(1), since: Some(since), previous: false };
    let (entries, error) = collect(provider.follow_worker_logs(&handle, query)).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(entries, expected(LOG)[5..]);
    let queries = queries.lock().unwrap();
    assert!(queries[0].contains("tailLines=1") && queries[0].contains("sinceTime=2026"));
    assert!(!queries[1].contains("tailLines"), "what is new since the cut may be more lines");
    assert!(
        queries
            .iter()
            .all(|query| query.contains("timestamps=true&") || query.ends_with("timestamps=true"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_previous_log_is_read_once_and_ends() {
    let cluster = FakeCluster::new();
    let (provider, handle) = make_running(&cluster).await;
    let query = LogQuery { previous: true, ..LogQuery::default() };
    let none = "previous terminated container \"worker\" in pod \"x\" not found";
    cluster.fail_next("GET pods/log", Fault::status(400, "BadRequest", none));
    let (entries, error) = collect(provider.follow_worker_logs(&handle, query)).await;
    assert!(entries.is_empty() && error.is_none(), "{error:?}");
    cluster.serve_logs(|query| {
        assert!(query.contains("previous=true") && !query.contains("follow"));
        Fault::Streamed(Streamed::new(since(LOG, query), End::Whole))
    });
    let (entries, error) = collect(provider.follow_worker_logs(&handle, query)).await;
    assert_eq!(entries, expected(LOG), "{error:?}");
    assert_eq!(cluster.count("GET pods/log"), 2);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_stream_gives_the_request_up() {
    let cluster = FakeCluster::new();
    let (provider, handle) = make_running(&cluster).await;
    let alive = Arc::new(());
    let body = Streamed { alive: Arc::clone(&alive), ..Streamed::new(LOG, End::Never) };
    cluster.fail_next("GET pods/log", Fault::Streamed(body));
    let mut stream = provider.follow_worker_logs(&handle, LogQuery::default());
    stream.next().await.unwrap().unwrap();
    assert_eq!(Arc::strong_count(&alive), 2, "the answer is being read");
    drop(stream);
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_stream_and_a_closed_provider_end() {
    let cluster = FakeCluster::new();
    let (provider, handle) = make_running(&cluster).await;
    cluster.fail_always("GET pods/log", Some(Fault::status(503, "ServiceUnavailable", "")));
    let mut stream = provider.follow_worker_logs(&handle, LogQuery::default());
    assert!(timeout(Duration::from_secs(60), stream.next()).await.is_err());
    drop(stream);
    let asked = cluster.count("GET pods/log");
    assert!((3..60).contains(&asked), "{asked} requests in a minute");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(cluster.count("GET pods/log"), asked, "no one asks any more");
    let stream = provider.follow_worker_logs(&handle, LogQuery::default());
    drop(provider);
    let (_, error) = collect(stream).await;
    assert!(error.unwrap().to_string().contains("closed"));
}

//! The recorder of a case: every change of a pod and every event in its namespace, from the first
//! moment, as evidence and as what waits look at. No case polls the API server for pods.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::failure::{Classify, Result};

/// One pod that was seen: as it was last, and whether it is gone.
#[derive(Debug, Clone)]
pub struct PodRecord {
    /// As it was last seen.
    pub pod: Pod,
    /// Whether it was seen deleted.
    pub gone: bool,
}

/// All pods by UID, in the order in which they were first seen.
type Pods = BTreeMap<usize, PodRecord>;

/// Watches one namespace until it is dropped.
#[derive(Debug)]
pub struct Recorder {
    pods: watch::Receiver<Pods>,
    path: PathBuf,
    _tasks: JoinSet<()>,
}

#[derive(Serialize)]
struct Line<'a, T> {
    at: Timestamp,
    what: &'a str,
    change: &'a str,
    object: &'a T,
}

type Sink = Arc<Mutex<std::fs::File>>;

impl Recorder {
    /// Begins to record; what happens from now on is in `directory/timeline.jsonl`.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn start(client: &Client, namespace: &str, directory: &Path) -> Result<Self> {
        let path = directory.join("timeline.jsonl");
        let file =
            std::fs::File::create(&path).infrastructure("write", path.display().to_string())?;
        let sink: Sink = Arc::new(Mutex::new(file));
        let (sender, pods) = watch::channel(Pods::new());
        let mut tasks = JoinSet::new();
        let api = Api::<Pod>::namespaced(client.clone(), namespace);
        tasks.spawn(record_pods(api, sender, sink.clone()));
        tasks.spawn(record_events(Api::<Event>::namespaced(client.clone(), namespace), sink));
        Ok(Self { pods, path, _tasks: tasks })
    }

    /// Every pod seen so far, in the order in which they were first seen.
    #[must_use]
    pub fn pods(&self) -> Vec<PodRecord> {
        self.pods.borrow().values().cloned().collect()
    }

    /// The pods that are there now, as far as the watch knows.
    #[must_use]
    pub fn live_pods(&self) -> Vec<Pod> {
        self.pods().into_iter().filter(|record| !record.gone).map(|record| record.pod).collect()
    }

    /// A receiver that is told of every change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<BTreeMap<usize, PodRecord>> {
        self.pods.clone()
    }

    /// The recorded timeline, one JSON object a line.
    #[must_use]
    pub fn timeline(&self) -> &Path {
        &self.path
    }
}

async fn record_pods(api: Api<Pod>, sender: watch::Sender<Pods>, sink: Sink) {
    let mut stream = watcher(api, watcher::Config::default()).boxed();
    let mut seen_in_list: Vec<String> = Vec::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Init) => seen_in_list.clear(),
            Ok(watcher::Event::InitApply(pod)) => {
                seen_in_list.push(pod.uid().unwrap_or_default());
                note(&sink, "pod", "listed", &pod);
                sender.send_modify(|pods| put(pods, pod, false));
            }
            Ok(watcher::Event::InitDone) => sender.send_modify(|pods| {
                for record in pods.values_mut() {
                    record.gone |= !seen_in_list.contains(&record.pod.uid().unwrap_or_default());
                }
            }),
            Ok(watcher::Event::Apply(pod)) => {
                note(&sink, "pod", "changed", &pod);
                sender.send_modify(|pods| put(pods, pod, false));
            }
            Ok(watcher::Event::Delete(pod)) => {
                note(&sink, "pod", "deleted", &pod);
                sender.send_modify(|pods| put(pods, pod, true));
            }
            Err(error) => note(&sink, "pod", "watch error", &error.to_string()),
        }
    }
}

fn put(pods: &mut Pods, mut pod: Pod, gone: bool) {
    pod.metadata.managed_fields = None;
    let uid = pod.uid();
    let known = pods.iter().find(|(_, record)| record.pod.uid() == uid).map(|(key, _)| *key);
    pods.insert(known.unwrap_or(pods.len()), PodRecord { pod, gone });
}

async fn record_events(api: Api<Event>, sink: Sink) {
    let mut stream = watcher(api, watcher::Config::default()).boxed();
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Apply(event) | watcher::Event::InitApply(event)) => {
                note(&sink, "event", "seen", &event);
            }
            Ok(_) => {}
            Err(error) => note(&sink, "event", "watch error", &error.to_string()),
        }
    }
}

fn note<T: Serialize>(sink: &Sink, what: &str, change: &str, object: &T) {
    let line = Line { at: Timestamp::now(), what, change, object };
    let Ok(mut text) = serde_json::to_vec(&line) else { return };
    text.push(b'\n');
    let mut file = sink.lock().expect("no recorder panics while it holds the file");
    if let Err(error) = file.write_all(&text) {
        tracing::warn!(%error, "the timeline has a gap");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, name: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.uid = Some(uid.into());
        pod.metadata.name = Some(name.into());
        pod
    }

    #[test]
    fn a_namesake_is_another_pod_and_order_is_kept() {
        let mut pods = Pods::new();
        put(&mut pods, pod("1", "a"), false);
        put(&mut pods, pod("2", "b"), false);
        put(&mut pods, pod("1", "a"), true);
        put(&mut pods, pod("3", "a"), false);
        let seen: Vec<_> = pods.values().map(|r| (r.pod.uid().unwrap(), r.gone)).collect();
        assert_eq!(seen, [("1".into(), true), ("2".into(), false), ("3".into(), false)]);
    }
}

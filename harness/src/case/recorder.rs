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
use crate::job_times::Sightings;

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
    sightings: Arc<Mutex<Sightings>>,
    _tasks: JoinSet<()>,
}

#[derive(Serialize)]
struct Line<'a, T> {
    at: Timestamp,
    what: &'a str,
    change: &'a str,
    object: &'a T,
}

/// Where what is seen goes: the file, and the times of it.
#[derive(Clone)]
struct Sink {
    file: Arc<Mutex<std::fs::File>>,
    sightings: Arc<Mutex<Sightings>>,
}

impl Sink {
    /// Writes a line, and lets `see` look at the time in it.
    fn note<T: Serialize>(
        &self,
        what: &str,
        change: &str,
        object: &T,
        see: impl FnOnce(&mut Sightings, Timestamp),
    ) {
        let line = Line { at: Timestamp::now(), what, change, object };
        see(&mut self.sightings.lock().expect("no recorder panics while it looks"), line.at);
        let Ok(mut text) = serde_json::to_vec(&line) else { return };
        text.push(b'\n');
        let mut file = self.file.lock().expect("no recorder panics while it holds the file");
        if let Err(error) = file.write_all(&text) {
            tracing::warn!(%error, "the timeline has a gap");
        }
    }

    fn note_error(&self, what: &str, error: &watcher::Error) {
        self.note(what, "watch error", &error.to_string(), |_, _| {});
    }
}

impl Recorder {
    /// Begins to record; what happens from now on is in `directory/timeline.jsonl`.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn start(client: &Client, namespace: &str, directory: &Path) -> Result<Self> {
        let path = directory.join("timeline.jsonl");
        let file =
            std::fs::File::create(&path).infrastructure("write", path.display().to_string())?;
        let sightings = Arc::new(Mutex::new(Sightings::default()));
        let sink = Sink { file: Arc::new(Mutex::new(file)), sightings: sightings.clone() };
        let (sender, pods) = watch::channel(Pods::new());
        let mut tasks = JoinSet::new();
        let api = Api::<Pod>::namespaced(client.clone(), namespace);
        tasks.spawn(record_pods(api, sender, sink.clone()));
        tasks.spawn(record_events(Api::<Event>::namespaced(client.clone(), namespace), sink));
        Ok(Self { pods, path, sightings, _tasks: tasks })
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

    /// When what was first seen of each pod.
    #[must_use]
    pub fn sightings(&self) -> Sightings {
        self.sightings.lock().expect("no recorder panics while it looks").clone()
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
                sink.note("pod", "listed", &pod, |seen, at| seen.saw(at, &pod, true));
                sender.send_modify(|pods| put(pods, pod, false));
            }
            Ok(watcher::Event::InitDone) => sender.send_modify(|pods| {
                for record in pods.values_mut() {
                    record.gone |= !seen_in_list.contains(&record.pod.uid().unwrap_or_default());
                }
            }),
            Ok(watcher::Event::Apply(pod)) => {
                sink.note("pod", "changed", &pod, |seen, at| seen.saw(at, &pod, false));
                sender.send_modify(|pods| put(pods, pod, false));
            }
            Ok(watcher::Event::Delete(pod)) => {
                sink.note("pod", "deleted", &pod, |seen, at| seen.saw_gone(at, &pod));
                sender.send_modify(|pods| put(pods, pod, true));
            }
            Err(error) => sink.note_error("pod", &error),
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
            Ok(watcher::Event::Apply(event)) => {
                sink.note("event", "seen", &event, |seen, at| seen.saw_event(at, &event, false));
            }
            Ok(watcher::Event::InitApply(event)) => {
                sink.note("event", "seen", &event, |seen, at| seen.saw_event(at, &event, true));
            }
            Ok(_) => {}
            Err(error) => sink.note_error("event", &error),
        }
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

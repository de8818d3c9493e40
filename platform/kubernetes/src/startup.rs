//! How long workers take to start, by this provider's own measurements: from the first sight of the
//! pod until its container is seen running, apart for nodes that had the image and nodes that had not.
//!
//! Both moments are by the provider's own clock, because the API writes whole seconds. They are
//! checked against what the API wrote: where they differ by more than [`TOLERANCE`], an event came
//! late (the watch was down in between), and the API's word is taken.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use hodei_core::provider::{StartupEstimate, StartupTime};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher;

use crate::{
    capabilities::{Shared, digest},
    names::CONTAINER,
};

/// Most measurements of one window, and the age of the oldest.
const SAMPLES: usize = 64;
const AGE: Duration = Duration::from_secs(3600);
/// Most windows; the one that was measured longest ago makes room.
const WINDOWS: usize = 256;
/// Most pairs of node and image that a worker was seen to run from.
const PAIRS: usize = 4096;
/// How far the provider's moments and the API's whole seconds may be apart.
const TOLERANCE: Duration = Duration::from_secs(2);

/// A worker that has begun to start.
#[derive(Debug)]
struct Begun {
    /// When it was first seen; `None` if that was in a list, some time after its create.
    since: Option<Instant>,
    /// Whether its node had the image when the worker was given to it; `None` before.
    present: Option<bool>,
    /// It was seen running; only the first time counts.
    ran: bool,
}

/// The measurements of one image on nodes that had it, or that had it not.
type Window = VecDeque<(Instant, Duration)>;

#[derive(Debug, Default)]
struct Measured {
    /// By UID; the pods of the provider that there are.
    begun: HashMap<String, Begun>,
    windows: HashMap<(String, bool), Window>,
    /// Nodes and images that a worker was seen to run from, and the order in which it was.
    pairs: BTreeSet<(u64, u64)>,
    order: VecDeque<(u64, u64)>,
}

/// What the shared watch of the pods has shown of their starts.
#[derive(Debug)]
pub(crate) struct Startups {
    nodes: Arc<Shared>,
    measured: Mutex<Measured>,
}

impl Startups {
    pub(crate) fn new(nodes: Arc<Shared>) -> Self {
        Self { nodes, measured: Mutex::default() }
    }

    fn measured(&self) -> MutexGuard<'_, Measured> {
        self.measured.lock().expect("the measurements must not be poisoned")
    }

    /// Takes in what the watch said.
    pub(crate) fn heard(&self, event: &watcher::Event<Pod>) {
        let has_image = |node: &str, image: &str| self.nodes.has_image(node, image);
        self.measured().heard(event, Instant::now(), has_image);
    }

    /// The windows of an image, summed up.
    pub(crate) fn estimate(&self, image: &str) -> StartupEstimate {
        self.measured().estimate(image, Instant::now())
    }
}

impl Measured {
    fn heard(
        &mut self,
        event: &watcher::Event<Pod>,
        now: Instant,
        has_image: impl Fn(&str, &str) -> bool,
    ) {
        match event {
            watcher::Event::Init => self.begun.clear(),
            watcher::Event::InitApply(pod) => self.saw(pod, None, now, has_image),
            watcher::Event::Apply(pod) => self.saw(pod, Some(now), now, has_image),
            watcher::Event::Delete(pod) => {
                self.begun.remove(pod.metadata.uid.as_deref().unwrap_or_default());
            }
            watcher::Event::InitDone => {}
        }
    }

    fn saw(
        &mut self,
        pod: &Pod,
        since: Option<Instant>,
        now: Instant,
        has_image: impl Fn(&str, &str) -> bool,
    ) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let Some((image, node)) = place(pod) else {
            // Without a node yet; the moment counts.
            self.begun.entry(uid).or_insert(Begun { since, present: None, ran: false });
            return;
        };
        let pair = (digest(node), digest(image));
        let known = self.pairs.contains(&pair);
        let begun = self.begun.entry(uid).or_insert(Begun { since, present: None, ran: false });
        let present = *begun.present.get_or_insert_with(|| known || has_image(node, image));
        let Some(reported) = running(pod) else { return };
        if std::mem::replace(&mut begun.ran, true) {
            return;
        }
        let seen = begun.since.map(|since| now.saturating_duration_since(since));
        self.remember(pair);
        if let Some(seen) = seen {
            let late = reported.filter(|reported| reported.abs_diff(seen) > TOLERANCE);
            self.measure((image.to_owned(), present), now, late.unwrap_or(seen));
        }
    }

    fn measure(&mut self, key: (String, bool), now: Instant, took: Duration) {
        if self.windows.len() == WINDOWS && !self.windows.contains_key(&key) {
            let last = |window: &Window| window.back().map(|(at, _)| *at);
            let oldest = self.windows.iter().min_by_key(|(_, window)| last(window));
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.windows.remove(&oldest);
            }
        }
        let window = self.windows.entry(key).or_default();
        if window.len() == SAMPLES {
            window.pop_front();
        }
        window.push_back((now, took));
    }

    fn remember(&mut self, pair: (u64, u64)) {
        if !self.pairs.insert(pair) {
            return;
        }
        self.order.push_back(pair);
        if self.order.len() > PAIRS
            && let Some(oldest) = self.order.pop_front()
        {
            self.pairs.remove(&oldest);
        }
    }

    fn estimate(&self, image: &str, now: Instant) -> StartupEstimate {
        let one = |present| self.sum_up(self.windows.get(&(image.to_owned(), present))?, now);
        StartupEstimate { image_present: one(true), image_absent: one(false) }
    }

    fn sum_up(&self, window: &Window, now: Instant) -> Option<StartupTime> {
        let young = window.iter().filter(|(at, _)| now.saturating_duration_since(*at) <= AGE);
        let mut took: Vec<_> = young.map(|(_, took)| *took).collect();
        took.sort_unstable();
        // The nearest rank: the least value that this share of all does not exceed.
        let rank = |percent: usize| took.get((took.len() * percent).div_ceil(100).max(1) - 1);
        Some(StartupTime { median: *rank(50)?, p90: *rank(90)?, samples: took.len() })
    }
}

/// The image of a worker's container, and the node it is on.
fn place(pod: &Pod) -> Option<(&str, &str)> {
    let spec = pod.spec.as_ref()?;
    let container = spec.containers.iter().find(|container| container.name == CONTAINER)?;
    Some((container.image.as_deref()?, spec.node_name.as_deref()?))
}

/// If the container runs for the first time: how long after the create, as the API wrote it.
fn running(pod: &Pod) -> Option<Option<Duration>> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let status = statuses.iter().find(|status| status.name == CONTAINER)?;
    let running = status.state.as_ref()?.running.as_ref()?;
    let took = || {
        let created = pod.metadata.creation_timestamp.as_ref()?.0;
        let started = running.started_at.as_ref()?.0;
        Duration::try_from(started.duration_since(created)).ok()
    };
    (status.restart_count == 0).then(took)
}

#[cfg(test)]
#[path = "startup_tests.rs"]
mod tests;

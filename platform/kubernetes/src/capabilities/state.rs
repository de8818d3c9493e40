//! What the watches have told so far. A pure machine: it is fed with their events.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use kube::runtime::watcher;

use super::{
    answer::Known,
    bounds::{Limits, Quota},
    node::Node,
};
use crate::watch::Heard;

/// How long a node that is gone may come back: one that is replaced or scaled up again.
const RETURN: Duration = Duration::from_secs(15 * 60);
/// Most nodes that are remembered so.
const DEPARTED: usize = 256;

/// What is known of one kind of resource.
#[derive(Debug)]
pub(super) struct Source<T> {
    items: BTreeMap<String, T>,
    /// The list that is being read; it takes the place of `items` when it is whole.
    listing: BTreeMap<String, T>,
    standing: Standing,
    heard: Heard,
    /// The last error, while there is one.
    trouble: Option<String>,
}

/// Name, standing, last error and age of a source.
type Report<'a> = (&'static str, &'a Standing, Option<&'a str>, Option<Duration>);

#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Unknown,
    Known,
    /// In the words of the API server.
    Forbidden(String),
}

impl<T> Default for Source<T> {
    fn default() -> Self {
        Self {
            items: BTreeMap::new(),
            listing: BTreeMap::new(),
            standing: Standing::Unknown,
            heard: Heard::default(),
            trouble: None,
        }
    }
}

impl<T> Source<T> {
    pub(super) fn heard(&self) -> Heard {
        self.heard.clone()
    }

    fn known(&self) -> Option<&BTreeMap<String, T>> {
        (self.standing == Standing::Known).then_some(&self.items)
    }

    fn report(&self, name: &'static str) -> Report<'_> {
        (name, &self.standing, self.trouble.as_deref(), self.heard.ago())
    }

    /// Takes an event in; what is gone by it is the answer.
    pub(super) fn take(&mut self, event: watcher::Event<(String, Option<T>)>) -> Vec<T> {
        self.heard.now();
        self.trouble = None;
        match event {
            watcher::Event::Init => self.listing.clear(),
            watcher::Event::InitApply((name, Some(item))) => {
                self.listing.insert(name, item);
            }
            watcher::Event::InitApply((_, None)) => {}
            watcher::Event::InitDone => {
                self.standing = Standing::Known;
                let before = std::mem::replace(&mut self.items, std::mem::take(&mut self.listing));
                let gone = before.into_iter().filter(|(name, _)| !self.items.contains_key(name));
                return gone.map(|(_, item)| item).collect();
            }
            watcher::Event::Apply((name, Some(item))) => {
                self.items.insert(name, item);
            }
            watcher::Event::Apply((name, None)) | watcher::Event::Delete((name, _)) => {
                return self.items.remove(&name).into_iter().collect();
            }
        }
        Vec::new()
    }

    /// Notes an error; what may not be read is not known any more.
    pub(super) fn failed(&mut self, words: String, forbidden: bool) {
        self.trouble = Some(words.clone());
        if forbidden {
            self.items.clear();
            self.standing = Standing::Forbidden(words);
        }
    }
}

/// What is known of all.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) nodes: Source<Node>,
    pub(super) quotas: Source<Quota>,
    pub(super) ranges: Source<Limits>,
    /// Nodes that left, and when.
    departed: VecDeque<(Instant, Node)>,
}

impl State {
    pub(super) fn known(&self, now: Instant) -> Known<'_> {
        let returns = |left: &Instant| now.saturating_duration_since(*left) < RETURN;
        let departed = self.departed.iter().filter(|(left, _)| returns(left));
        Known {
            nodes: self.nodes.known(),
            departed: departed.map(|(_, node)| node).collect(),
            quotas: self.quotas.known(),
            ranges: self.ranges.known(),
        }
    }

    pub(super) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.items.get(name)
    }

    /// Remembers nodes that have left.
    pub(super) fn left(&mut self, gone: Vec<Node>, now: Instant) {
        self.departed.retain(|(left, _)| now.saturating_duration_since(*left) < RETURN);
        self.departed.extend(gone.into_iter().map(|node| (now, node)));
        let excess = self.departed.len().saturating_sub(DEPARTED);
        self.departed.drain(..excess);
    }

    fn sources(&self) -> [Report<'_>; 3] {
        [
            self.nodes.report("nodes"),
            self.quotas.report("resourcequotas"),
            self.ranges.report("limitranges"),
        ]
    }

    /// What may not be read, and the API server's words for it.
    pub(super) fn forbidden(&self) -> BTreeMap<String, String> {
        let words = |standing: &Standing| match standing {
            Standing::Forbidden(words) => Some(words.clone()),
            _ => None,
        };
        let all = self.sources().into_iter();
        all.filter_map(|(name, standing, ..)| Some((name.to_owned(), words(standing)?))).collect()
    }

    /// The oldest source of what is known, its age, and its last error.
    pub(super) fn oldest(&self) -> Option<(&'static str, Duration, Option<&str>)> {
        let known = self.sources().into_iter().filter(|(_, at, ..)| **at == Standing::Known);
        known
            .map(|(name, _, trouble, ago)| (name, ago.unwrap_or(Duration::MAX), trouble))
            .max_by_key(|(_, ago, _)| *ago)
    }

    /// The first source of which nothing is known yet, and its last error.
    pub(super) fn missing(&self) -> Option<(&'static str, Option<&str>)> {
        let mut unknown =
            self.sources().into_iter().filter(|(_, at, ..)| **at == Standing::Unknown);
        unknown.next().map(|(name, _, trouble, _)| (name, trouble))
    }
}

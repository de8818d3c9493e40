//! Whose a cluster is: a mark in the state directory, written before the cluster is made and
//! completed with the ids of its containers, which no other cluster can have.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cluster::NODE_LABEL;
use crate::cluster::config::ClusterSpec;
use crate::engine::docker;
use crate::failure::{Classify, FailureClass, Result};
use crate::node_image::PodNetwork;
use crate::paths::{Paths, remove_file, write_atomically};
use crate::progress::Stage;

/// A node's container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) id: String,
    #[serde(skip)]
    pub(super) running: bool,
}

/// What was written down about a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Hash of image and configuration.
    pub(super) tag: String,
    /// What was asked of its network.
    #[serde(default)]
    pub(super) network: PodNetwork,
    /// Minor version of Kubernetes; empty in a mark of before there was a choice.
    #[serde(default)]
    pub(super) kubernetes: String,
    /// Empty until the cluster is made.
    pub(super) nodes: Vec<Node>,
}

/// What a cluster of some name is to this tool.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ownership {
    /// There is none.
    Absent,
    /// Made by this tool; the nodes are as they are now.
    Ours(Mark),
    /// Begun by this tool and never finished.
    HalfMade,
    /// Somebody else's, and why that is known.
    Foreign(String),
}

/// Compares what runs with what was written down.
pub(super) async fn examine(paths: &Paths, name: &str, stage: &Stage) -> Result<Ownership> {
    Ok(judge(read(paths, name)?, containers(name, stage).await?))
}

/// How many nodes a cluster was made with, by what was written down.
pub(super) fn recorded_nodes(paths: &Paths, name: &str) -> Result<Option<u8>> {
    let count = read(paths, name)?.map_or(0, |mark| mark.nodes.len());
    Ok(u8::try_from(count).ok().filter(|count| *count > 0))
}

/// What was asked of a cluster's network, by what was written down.
pub(super) fn recorded_network(paths: &Paths, name: &str) -> Result<Option<PodNetwork>> {
    Ok(read(paths, name)?.map(|mark| mark.network))
}

/// Which minor version of Kubernetes a cluster has, by what was written down.
pub(super) fn recorded_kubernetes(paths: &Paths, name: &str) -> Result<Option<String>> {
    Ok(read(paths, name)?.map(|mark| mark.kubernetes))
}

/// Writes down that a cluster is about to be made.
pub(super) fn begin(paths: &Paths, spec: &ClusterSpec) -> Result<()> {
    save(paths, &spec.name, &mark_of(spec, Vec::new()))
}

fn mark_of(spec: &ClusterSpec, nodes: Vec<Node>) -> Mark {
    let (kubernetes, network) = (spec.kubernetes.clone(), spec.network);
    Mark { tag: spec.tag(), kubernetes, network, nodes }
}

/// Writes down what was made.
pub(super) async fn finish(paths: &Paths, spec: &ClusterSpec, stage: &Stage) -> Result<Mark> {
    let mark = mark_of(spec, containers(&spec.name, stage).await?);
    save(paths, &spec.name, &mark)?;
    Ok(mark)
}

/// Takes the mark away.
pub(super) fn forget(paths: &Paths, name: &str) -> Result<()> {
    remove_file(&mark_path(paths, name))
}

fn judge(mark: Option<Mark>, now: Vec<Node>) -> Ownership {
    match (mark, now.is_empty()) {
        (Some(mark), true) if mark.nodes.is_empty() => Ownership::Absent,
        (_, true) => Ownership::Absent,
        (None, false) => Ownership::Foreign("there is no record of it".into()),
        (Some(mark), false) if mark.nodes.is_empty() => Ownership::HalfMade,
        (Some(mark), false) => {
            let known = |node: &Node| mark.nodes.iter().any(|old| old.id == node.id);
            match now.iter().find(|node| !known(node)) {
                Some(node) => {
                    Ownership::Foreign(format!("container {} is not the recorded one", node.name))
                }
                None if now.len() < mark.nodes.len() => Ownership::HalfMade,
                None => Ownership::Ours(Mark { nodes: now, ..mark }),
            }
        }
    }
}

async fn containers(name: &str, stage: &Stage) -> Result<Vec<Node>> {
    let filter = format!("label={NODE_LABEL}={name}");
    let format = "{{.Names}} {{.ID}} {{.State}}";
    let list = docker(["ps", "--all", "--no-trunc", "--filter", &filter, "--format", format]);
    let subject = format!("the containers of cluster {name}");
    let output = list.run(stage).await.infrastructure("list", subject)?;
    let mut nodes: Vec<Node> = output.stdout.lines().filter_map(parse_container).collect();
    nodes.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(nodes)
}

fn parse_container(line: &str) -> Option<Node> {
    let mut words = line.split_whitespace();
    let (name, id, state) = (words.next()?, words.next()?, words.next()?);
    Some(Node { name: name.into(), id: id.into(), running: state == "running" })
}

fn mark_path(paths: &Paths, name: &str) -> PathBuf {
    paths.state().join(format!("cluster-{name}.json"))
}

fn read(paths: &Paths, name: &str) -> Result<Option<Mark>> {
    let path = mark_path(paths, name);
    let subject = || path.display().to_string();
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .classify(FailureClass::Harness, "understand", subject())
            .map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).infrastructure("read", subject()),
    }
}

fn save(paths: &Paths, name: &str, mark: &Mark) -> Result<()> {
    let text = serde_json::to_vec_pretty(mark);
    let text = text.classify(FailureClass::Harness, "serialise", "a cluster's mark")?;
    write_atomically(&mark_path(paths, name), &text, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str) -> Node {
        Node { name: format!("node-{id}"), id: id.into(), running: true }
    }

    fn mark(ids: &[&str]) -> Option<Mark> {
        let nodes = ids.iter().map(|id| node(id)).collect();
        let (kubernetes, network) = ("1.34".into(), PodNetwork::Policy);
        Some(Mark { tag: "t".into(), kubernetes, network, nodes })
    }

    #[test]
    fn only_recorded_containers_make_a_cluster_ours() {
        let foreign = |ownership: &Ownership| matches!(ownership, Ownership::Foreign(_));
        assert_eq!(judge(None, vec![]), Ownership::Absent);
        assert_eq!(judge(mark(&["1"]), vec![]), Ownership::Absent);
        assert!(foreign(&judge(None, vec![node("1")])));
        assert!(foreign(&judge(mark(&["1"]), vec![node("2")])));
        assert!(foreign(&judge(mark(&["1"]), vec![node("1"), node("2")])));
        assert_eq!(judge(mark(&[]), vec![node("1")]), Ownership::HalfMade);
        assert_eq!(judge(mark(&["1", "2"]), vec![node("1")]), Ownership::HalfMade);
        assert!(matches!(judge(mark(&["1"]), vec![node("1")]), Ownership::Ours(_)));
    }

    #[test]
    fn containers_are_read_with_their_state() {
        let stopped = parse_container("c-control-plane abc exited").unwrap();
        assert!(!stopped.running);
        assert!(parse_container("c-control-plane abc running").unwrap().running);
        assert_eq!(parse_container(""), None);
    }
}

//! The Kind cluster: created, reused, repaired or refused.
//!
//! A cluster is this tool's if the containers of its nodes are those that were written down
//! when it was made. Any other cluster of the same name is refused and never touched. The
//! kubeconfig is private to this tool; the user's own is never written.

pub mod config;
pub(crate) mod network;
pub mod node;
mod ownership;
pub mod ready;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bootstrap::{Standing, Step};
use crate::cluster::config::ClusterSpec;
use crate::cluster::ownership::{Mark, Ownership};
use crate::engine::docker;
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::node_image::PodNetwork;
use crate::paths::Paths;
use crate::process::Command;
use crate::progress::Stage;
use crate::record::{Action, Record};

/// Names the cluster.
pub const NAME_ENV: &str = "KIND_CLUSTER_NAME";
/// The cluster's name unless the environment has another.
pub const DEFAULT_NAME: &str = "hodei-e2e";
/// The label by which Kind knows the containers of a cluster.
const NODE_LABEL: &str = "io.x-k8s.kind.cluster";
/// kubeadm on a slow machine.
const CREATE_DEADLINE: Duration = Duration::from_secs(420);

/// A cluster that is ready for use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindCluster {
    /// Its name.
    pub name: String,
    /// The private kubeconfig.
    pub kubeconfig: PathBuf,
    /// The context in it.
    pub context: String,
    /// The names of its nodes, which are those of their containers.
    pub nodes: Vec<String>,
}

/// What the name of the control plane's node ends with.
const CONTROL_PLANE_SUFFIX: &str = "-control-plane";

impl KindCluster {
    /// The cluster that Kind would make: its nodes have the names that Kind gives them.
    pub(crate) fn planned(paths: &Paths, name: &str, nodes: u8) -> Self {
        let worker = |index: u8| match index {
            1 => format!("{name}-worker"),
            more => format!("{name}-worker{more}"),
        };
        let control_plane = format!("{name}{CONTROL_PLANE_SUFFIX}");
        Self {
            name: name.to_owned(),
            kubeconfig: paths.kubeconfig(name),
            context: format!("kind-{name}"),
            nodes: std::iter::once(control_plane).chain((1..nodes).map(worker)).collect(),
        }
    }

    /// The node that the API server is on.
    #[must_use]
    pub fn control_plane(&self) -> Option<&str> {
        let mut nodes = self.nodes.iter().map(String::as_str);
        nodes.find(|node| node.ends_with(CONTROL_PLANE_SUFFIX))
    }

    /// The nodes that can go without taking the API server with them.
    #[must_use]
    pub fn workers(&self) -> Vec<&str> {
        let nodes = self.nodes.iter().map(String::as_str);
        nodes.filter(|node| !node.ends_with(CONTROL_PLANE_SUFFIX)).collect()
    }
}

/// The name that the environment asks for.
#[must_use]
pub fn name_from_environment() -> String {
    std::env::var(NAME_ENV).ok().filter(|name| !name.is_empty()).unwrap_or(DEFAULT_NAME.into())
}

/// How many nodes the cluster called `name` was made with; `None` if this tool made none.
///
/// # Errors
/// What was written down about it cannot be read.
pub fn recorded_nodes(paths: &Paths, name: &str) -> Result<Option<u8>> {
    ownership::recorded_nodes(paths, name)
}

/// What was asked of the network of the cluster called `name`; `None` if this tool made none.
///
/// # Errors
/// What was written down about it cannot be read.
pub fn recorded_network(paths: &Paths, name: &str) -> Result<Option<PodNetwork>> {
    ownership::recorded_network(paths, name)
}

/// The minor version of Kubernetes that the cluster called `name` was made with; `None` if this tool
/// made none, empty if it did not write that down.
///
/// # Errors
/// What was written down about it cannot be read.
pub fn recorded_kubernetes(paths: &Paths, name: &str) -> Result<Option<String>> {
    ownership::recorded_kubernetes(paths, name)
}

/// The cluster of `spec`: reused if it is as wanted, else made.
///
/// # Errors
/// A cluster of that name is not this tool's, or Kind or Kubernetes failed. What was made half
/// is gone again when this returns an error.
pub async fn ensure(
    paths: &Paths,
    kind: &Path,
    spec: &ClusterSpec,
    recreate: bool,
    record: &mut Record,
    stage: &Stage,
) -> Result<KindCluster> {
    let mut why = "created".to_owned();
    match ownership::examine(paths, &spec.name, stage).await? {
        Ownership::Absent => {}
        Ownership::Foreign(reason) => return Err(refuse(&spec.name, &reason)),
        Ownership::HalfMade => {
            why = "made again: the last attempt was cut short".into();
            delete(paths, kind, &spec.name, record, stage).await?;
        }
        Ownership::Ours(mark) if recreate || mark.tag != spec.tag() => {
            let reason = if recreate { "as asked".into() } else { spec_changed(&mark, spec) };
            why = format!("made again: {reason}");
            delete(paths, kind, &spec.name, record, stage).await?;
        }
        Ownership::Ours(mark) => match reuse(paths, kind, spec, mark, stage).await {
            Ok(cluster) => return Ok(cluster),
            Err(error) if error.is_interrupted() => return Err(error),
            Err(error) => {
                why = format!("made again: {}", error.source);
                delete(paths, kind, &spec.name, record, stage).await?;
            }
        },
    }
    let created = create(paths, kind, spec, record, stage).await;
    let cluster = match created {
        Ok(cluster) => cluster,
        Err(error) => {
            // The stage's own cancellation must not stop the clean-up after it.
            let quiet = crate::progress::Progress::silent().unlisted();
            if let Err(left) = delete(paths, kind, &spec.name, record, &quiet).await {
                tracing::warn!(%left, "the half-made cluster could not be removed");
            }
            return Err(error);
        }
    };
    stage.note(why);
    Ok(cluster)
}

/// What [`ensure`] would do now.
///
/// # Errors
/// The engine does not answer, or what was written down cannot be read.
pub(crate) async fn forecast(
    paths: &Paths,
    spec: &ClusterSpec,
    recreate: bool,
    stage: &Stage,
) -> Result<Step> {
    let ownership = ownership::examine(paths, &spec.name, stage).await?;
    Ok(forecast_of(&ownership, spec, recreate))
}

fn forecast_of(ownership: &Ownership, spec: &ClusterSpec, recreate: bool) -> Step {
    let (name, nodes) = (&spec.name, spec.nodes);
    let step = |standing, says| Step::new("cluster", standing, says);
    let again = |why: &str| step(Standing::ToDo, format!("{name} is made again: {why}"));
    match ownership {
        Ownership::Absent => step(Standing::ToDo, format!("{name} is made, with {nodes} node(s)")),
        Ownership::Foreign(reason) => {
            step(Standing::Fails, format!("{name} is not this tool's ({reason})"))
        }
        Ownership::HalfMade => again("the last attempt was cut short"),
        Ownership::Ours(_) if recreate => again("as asked"),
        Ownership::Ours(mark) if mark.tag != spec.tag() => again(&spec_changed(mark, spec)),
        Ownership::Ours(mark) if mark.nodes.iter().any(|node| !node.running) => {
            step(Standing::ToDo, format!("{name} is reused, its nodes are started again"))
        }
        Ownership::Ours(_) => step(Standing::There, format!("{name}, {nodes} node(s)")),
    }
}

/// Why a cluster does not do for `spec`.
fn spec_changed(mark: &Mark, spec: &ClusterSpec) -> String {
    match mark.kubernetes.as_str() {
        "" => "image or configuration changed".into(),
        same if same == spec.kubernetes => "image or configuration changed".into(),
        other => format!("it has Kubernetes {other}, {} is wanted", spec.kubernetes),
    }
}

async fn reuse(
    paths: &Paths,
    kind: &Path,
    spec: &ClusterSpec,
    mark: Mark,
    stage: &Stage,
) -> Result<KindCluster> {
    let stopped: Vec<&str> =
        mark.nodes.iter().filter(|node| !node.running).map(|node| node.name.as_str()).collect();
    if !stopped.is_empty() {
        stage.line("starting the nodes");
        for name in &stopped {
            node::start(&spec.name, name).await?;
        }
    }
    export_kubeconfig(paths, kind, &spec.name, stage).await?;
    let cluster = describe(paths, &spec.name, &mark);
    ready::await_ready(&cluster, stage).await?;
    network::connect(&cluster).await?;
    stage.note(if stopped.is_empty() { "reused" } else { "reused, nodes started again" });
    Ok(cluster)
}

async fn create(
    paths: &Paths,
    kind: &Path,
    spec: &ClusterSpec,
    record: &mut Record,
    stage: &Stage,
) -> Result<KindCluster> {
    stage.line("kind create cluster");
    record.begin(Action::Cluster { name: spec.name.clone() })?;
    ownership::begin(paths, spec)?;
    let policy = spec.audit_directory.join("policy.yaml");
    crate::paths::write_atomically(&policy, config::AUDIT_POLICY.as_bytes(), 0o644)?;
    let create = kind_command(kind)
        .args(["create", "cluster", "--config", "-", "--wait", "0s"])
        .args(["--name", &spec.name, "--image", &spec.image.reference])
        .arg("--kubeconfig")
        .arg(paths.kubeconfig(&spec.name))
        .stdin_bytes(spec.render())
        .deadline(CREATE_DEADLINE)
        .log_to(paths.log("kind"));
    create.run(stage).await.infrastructure("create", format!("cluster {}", spec.name))?;
    let mark = ownership::finish(paths, spec, stage).await?;
    let cluster = describe(paths, &spec.name, &mark);
    ready::await_ready(&cluster, stage).await?;
    ready::label_owner(&cluster, &spec.tag()).await?;
    ready::open_control_plane(&cluster).await?;
    network::connect(&cluster).await?;
    let action = Action::Cluster { name: spec.name.clone() };
    record.finish(&action, action.clone())?;
    Ok(cluster)
}

/// Deletes the cluster called `name`, if it is there and this tool's.
///
/// # Errors
/// It is not this tool's, or Kind failed.
pub async fn delete(
    paths: &Paths,
    kind: &Path,
    name: &str,
    record: &mut Record,
    stage: &Stage,
) -> Result<()> {
    if let Ownership::Foreign(reason) = ownership::examine(paths, name, stage).await? {
        return Err(refuse(name, &reason));
    }
    stage.line(&format!("deleting cluster {name}"));
    let kubeconfig = paths.kubeconfig(name);
    let command = kind_command(kind).args(["delete", "cluster", "--name", name, "--kubeconfig"]);
    let deleted = command
        .arg(&kubeconfig)
        .deadline(Duration::from_secs(120))
        .log_to(paths.log("kind"))
        .run(stage)
        .await;
    deleted.infrastructure("delete", format!("cluster {name}"))?;
    ownership::forget(paths, name)?;
    crate::paths::remove_tree(&paths.audit_directory(name))?;
    crate::paths::remove_file(&kubeconfig)?;
    crate::paths::remove_file(&kubeconfig.with_added_extension("lock"))?;
    record.forget(&Action::Cluster { name: name.to_owned() })
}

/// The IPv4 gateway of Kind's network: the host, as pods and nodes see it.
///
/// # Errors
/// There is no such network, or it has no IPv4 gateway.
pub async fn kind_network_gateway(stage: &Stage) -> Result<Ipv4Addr> {
    let format = "{{range .IPAM.Config}}{{.Gateway}} {{end}}";
    let inspect = docker(["network", "inspect", "kind", "--format", format]);
    let subject = "the gateway of Kind's network";
    let output = inspect.run(stage).await.classify(FailureClass::Network, "read", subject)?;
    output.stdout.split_whitespace().find_map(|word| word.parse().ok()).ok_or_else(|| {
        let cause = format!("no IPv4 address among {:?}", output.stdout.trim());
        HarnessError::new(FailureClass::Network, "read", subject, cause)
    })
}

async fn export_kubeconfig(paths: &Paths, kind: &Path, name: &str, stage: &Stage) -> Result<()> {
    let get = kind_command(kind).args(["get", "kubeconfig", "--name", name]).run(stage).await;
    let output = get.infrastructure("read", format!("the kubeconfig of {name}"))?;
    crate::paths::write_atomically(&paths.kubeconfig(name), output.stdout.as_bytes(), 0o600)
}

fn describe(paths: &Paths, name: &str, mark: &Mark) -> KindCluster {
    KindCluster {
        name: name.to_owned(),
        kubeconfig: paths.kubeconfig(name),
        context: format!("kind-{name}"),
        nodes: mark.nodes.iter().map(|node| node.name.clone()).collect(),
    }
}

fn kind_command(kind: &Path) -> Command {
    // Kind would write where KUBECONFIG points.
    Command::new(kind).env_remove("KUBECONFIG").env("KIND_EXPERIMENTAL_PROVIDER", "docker")
}

fn refuse(name: &str, reason: &str) -> HarnessError {
    HarnessError::new(
        FailureClass::Infrastructure,
        "use",
        format!("cluster {name}"),
        format!("this tool did not make it ({reason})"),
    )
    .with_help(format!(
        "choose another name with {NAME_ENV}, or, if you do not need that cluster: \
         kind delete cluster --name {name}"
    ))
}

#[cfg(test)]
mod tests {
    use super::ownership::Node;
    use super::*;
    use crate::node_image::{NodeImage, Source};

    #[test]
    fn a_forecast_says_what_would_become_of_the_cluster() {
        let spec = ClusterSpec {
            name: "mine".into(),
            kubernetes: "1.34".into(),
            image: NodeImage { reference: "node:1".into(), source: Source::Packages },
            image_id: "sha256:1".into(),
            pod_subnet: "10.244.0.0/16".into(),
            cgroup_v1: false,
            restrict_oom_score_adj: false,
            network: PodNetwork::Plain,
            nodes: 2,
            audit_directory: "/state/audit".into(),
        };
        let ours = |tag: &str, running| {
            let node = Node { name: "n".into(), id: "1".into(), running };
            let (tag, nodes) = (tag.into(), vec![node]);
            let (kubernetes, network) = ("1.34".into(), spec.network);
            Ownership::Ours(Mark { tag, kubernetes, network, nodes })
        };
        let newer = ClusterSpec { kubernetes: "1.36".into(), image_id: "2".into(), ..spec.clone() };
        let says = forecast_of(&ours(&spec.tag(), true), &newer, false).says;
        assert_eq!(says, "mine is made again: it has Kubernetes 1.34, 1.36 is wanted");
        for (ownership, recreate, standing, says) in [
            (Ownership::Absent, false, Standing::ToDo, "mine is made, with 2 node(s)"),
            (Ownership::HalfMade, false, Standing::ToDo, "mine is made again: the last attempt"),
            (Ownership::Foreign("no record".into()), true, Standing::Fails, "not this tool's (no"),
            (ours("old", true), false, Standing::ToDo, "image or configuration changed"),
            (ours(&spec.tag(), true), true, Standing::ToDo, "made again: as asked"),
            (ours(&spec.tag(), false), false, Standing::ToDo, "nodes are started again"),
            (ours(&spec.tag(), true), false, Standing::There, "mine, 2 node(s)"),
        ] {
            let step = forecast_of(&ownership, &spec, recreate);
            assert_eq!(step.standing, standing, "{ownership:?}");
            assert!(step.says.contains(says), "{}", step.says);
        }
    }
}

//! One node of a cluster: stopped, frozen, started, cordoned; and the API server's own restart.
//!
//! What is disturbed here is written down by the caller first. Only a node whose container carries
//! Kind's label of the given cluster is touched.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::{CONTROL_PLANE_SUFFIX, KindCluster, NODE_LABEL, ready};
use crate::engine::docker;
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::progress::Progress;
use crate::wait::{Observed, await_class};

/// From the start of a node's container to Ready, on a slow machine.
const READY_DEADLINE: Duration = Duration::from_secs(150);
/// The kubelet starts a container that ended again after 10 s if it did so before.
const API_DEADLINE: Duration = Duration::from_secs(120);
/// The API server's process on its node.
const API_SERVER: &str = "kube-apiserver";
/// The leases of what has one leader.
const LED: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];

/// How a node goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Its power is cut: every process on it ends.
    PowerOff,
    /// It hangs: its processes neither run nor end, and their connections stay open.
    Freeze,
}

/// How a node's container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Running,
    Frozen,
    Off,
}

/// Stops a worker node.
///
/// # Errors
/// It is the control plane's node, not a node of this cluster, or the engine fails.
pub async fn stop(cluster: &str, node: &str, how: Stop) -> Result<()> {
    if node.ends_with(CONTROL_PLANE_SUFFIX) {
        let cause = "it is the control plane's: nothing could be seen without it";
        return Err(HarnessError::new(FailureClass::Harness, "stop", subject(node), cause));
    }
    match (condition(cluster, node).await?, how) {
        (None, _) => {
            Err(HarnessError::new(FailureClass::Harness, "stop", subject(node), "there is none"))
        }
        (Some(Condition::Running), Stop::Freeze) => engine(&["pause", node]).await,
        // Killed at once: a power cut waits for nobody.
        (Some(Condition::Running), Stop::PowerOff) => engine(&["kill", node]).await,
        (Some(Condition::Frozen | Condition::Off), _) => Ok(()),
    }
}

/// Starts a stopped or frozen node; one that runs, or is gone with its cluster, is a success. It
/// is not Ready yet.
///
/// # Errors
/// It is not a node of this cluster, or the engine fails.
pub async fn start(cluster: &str, node: &str) -> Result<()> {
    match condition(cluster, node).await? {
        None | Some(Condition::Running) => Ok(()),
        Some(Condition::Frozen) => engine(&["unpause", node]).await,
        Some(Condition::Off) => engine(&["start", node]).await,
    }
}

/// Waits until the node's Ready condition is as wanted.
///
/// # Errors
/// It is not within two and a half minutes.
pub async fn await_ready(client: &Client, node: &str, wanted: bool) -> Result<()> {
    let nodes = Api::<Node>::all(client.clone());
    let what = format!("node {node} to be {}", if wanted { "Ready" } else { "not Ready" });
    await_class(FailureClass::Infrastructure, what, READY_DEADLINE, async || {
        let seen = match nodes.get(node).await {
            Ok(node) => ready_status(&node),
            Err(error) => return Ok(Observed::NotYet(error.to_string())),
        };
        let is_so = (seen == "True") == wanted;
        Ok(if is_so { Observed::Ready(()) } else { Observed::NotYet(format!("Ready is {seen}")) })
    })
    .await
}

/// Cordons or uncordons; a node that is gone is a success.
///
/// # Errors
/// The API server refuses.
pub async fn set_schedulable(client: &Client, node: &str, schedulable: bool) -> Result<()> {
    let change = json!({"spec": {"unschedulable": (!schedulable).then_some(true)}});
    let nodes = Api::<Node>::all(client.clone());
    match nodes.patch(node, &PatchParams::default(), &Patch::Merge(change)).await {
        Err(kube::Error::Api(status)) if schedulable && status.is_not_found() => Ok(()),
        other => other.map(drop).infrastructure("cordon", subject(node)),
    }
}

/// Gives a node so many of an extended resource, as a device plug-in would, or takes it from the
/// node; one that is gone has none.
///
/// # Errors
/// The API server refuses.
pub async fn set_resource(
    client: &Client,
    node: &str,
    resource: &str,
    count: Option<u32>,
) -> Result<()> {
    // The kubelet carries capacity on to allocatable, but takes none away from there.
    let amount = json!({resource: count.map(|count| count.to_string())});
    let change = json!({"status": {"capacity": amount, "allocatable": amount}});
    let nodes = Api::<Node>::all(client.clone());
    match nodes.patch_status(node, &PatchParams::default(), &Patch::Merge(change)).await {
        Err(kube::Error::Api(status)) if count.is_none() && status.is_not_found() => Ok(()),
        other => other.map(drop).infrastructure("set", format!("{resource} of node {node}")),
    }
}

/// Kills the API server's process and waits until the one that the kubelet starts in its place is
/// ready, and scheduler and controllers, which end when they lose it, work again.
///
/// # Errors
/// There is none to kill, or it is not so within two minutes.
pub async fn restart_api_server(cluster: &KindCluster) -> Result<()> {
    let subject = || format!("the API server of {}", cluster.name);
    let class = FailureClass::Infrastructure;
    let node = cluster.control_plane().unwrap_or_default();
    let before = api_server(node).await?.ok_or_else(|| {
        HarnessError::new(class, "restart", subject(), format!("none runs on {node:?}"))
    })?;
    engine(&["exec", node, "kill", "-KILL", &before]).await?;
    let client = ready::client(cluster).await?;
    await_class(class, format!("{} to be back", subject()), API_DEADLINE, async || {
        match api_server(node).await? {
            Some(now) if now != before => {}
            other => return Ok(Observed::NotYet(format!("process {other:?}"))),
        }
        let asked = http::Request::get("/readyz").body(Vec::new());
        let asked = asked.classify(FailureClass::Harness, "make", "a request")?;
        Ok(match client.request_text(asked).await {
            Ok(_) => Observed::Ready(()),
            Err(error) => Observed::NotYet(error.to_string()),
        })
    })
    .await?;
    await_led(&client, Timestamp::now()).await
}

/// Waits until each part of the control plane that has one leader has said since a moment that it
/// leads.
async fn await_led(client: &Client, since: Timestamp) -> Result<()> {
    let leases = Api::<Lease>::namespaced(client.clone(), "kube-system");
    let what = "scheduler and controllers to work";
    await_class(FailureClass::Infrastructure, what, API_DEADLINE, async || {
        for name in LED {
            let lease = match leases.get(name).await {
                Ok(lease) => lease.spec.unwrap_or_default(),
                Err(error) => return Ok(Observed::NotYet(error.to_string())),
            };
            let renewed = lease.renew_time.map_or(Timestamp::UNIX_EPOCH, |time| time.0);
            if renewed < since {
                return Ok(Observed::NotYet(format!("{name} said so last at {renewed}")));
            }
        }
        Ok(Observed::Ready(()))
    })
    .await
}

/// The id of the API server's process, as its node numbers it.
async fn api_server(node: &str) -> Result<Option<String>> {
    // 1: none found.
    let script = format!("pgrep -o -x {API_SERVER} || [ $? -eq 1 ]");
    let found = docker(["exec", node, "sh", "-c", &script]);
    let found = found.run(&Progress::silent().unlisted()).await;
    let found = found.infrastructure("look for", format!("{API_SERVER} on {node}"))?;
    Ok(found.stdout.split_whitespace().next().map(str::to_owned))
}

async fn condition(cluster: &str, node: &str) -> Result<Option<Condition>> {
    let format = format!("{{{{.State.Status}}}} {{{{index .Config.Labels {NODE_LABEL:?}}}}}");
    let inspect = docker(["container", "inspect", "--format", &format, node]);
    match inspect.run(&Progress::silent().unlisted()).await {
        Ok(output) => read_condition(&output.stdout, cluster, node).map(Some),
        Err(error) if error.tail().to_lowercase().contains("no such container") => Ok(None),
        Err(error) => Err(error).infrastructure("inspect", subject(node)),
    }
}

fn read_condition(said: &str, cluster: &str, node: &str) -> Result<Condition> {
    let (state, label) = said.trim().split_once(' ').unwrap_or((said.trim(), ""));
    if label != cluster {
        let cause = format!("its container is of cluster {label:?}, not {cluster:?}");
        return Err(HarnessError::new(FailureClass::Harness, "touch", subject(node), cause));
    }
    Ok(match state {
        "running" | "restarting" => Condition::Running,
        "paused" => Condition::Frozen,
        _ => Condition::Off,
    })
}

async fn engine(arguments: &[&str]) -> Result<()> {
    let command = docker(arguments.iter().copied());
    let done = command.run(&Progress::silent().unlisted()).await;
    done.map(drop).infrastructure("run", format!("docker {}", arguments.join(" ")))
}

fn ready_status(node: &Node) -> String {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    ready.map_or_else(|| "not there".to_owned(), |condition| condition.status.clone())
}

fn subject(node: &str) -> String {
    format!("node {node}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_container_of_the_cluster_is_touched() {
        let read = |said| read_condition(said, "mine", "mine-worker");
        assert_eq!(read("running mine\n").unwrap(), Condition::Running);
        assert_eq!(read("paused mine\n").unwrap(), Condition::Frozen);
        assert_eq!(read("exited mine\n").unwrap(), Condition::Off);
        for foreign in ["running other\n", "running \n", "running\n"] {
            assert!(read(foreign).is_err(), "{foreign:?}");
        }
    }

    #[tokio::test]
    async fn the_control_plane_is_never_stopped() {
        let error = stop("mine", "mine-control-plane", Stop::Freeze).await.unwrap_err();
        assert!(error.source.to_string().contains("control plane"), "{error:?}");
    }

    #[test]
    fn a_node_without_a_condition_is_not_ready() {
        let node: Node = serde_json::from_value(json!({"status": {"conditions": [
            {"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "Unknown"},
        ]}}))
        .unwrap();
        assert_eq!(ready_status(&node), "Unknown");
        assert_eq!(ready_status(&Node::default()), "not there");
    }
}

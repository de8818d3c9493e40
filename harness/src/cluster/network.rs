//! The pod network of a cluster of several nodes made from packages: each node gives its pods
//! addresses of its own range, and knows the way to the ranges of the others. Kind's published
//! image has a daemon for that; ours has one CNI configuration, which is right for one node.
//!
//! Routes go with a node's power, so this is done again whenever a node was started.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use super::{KindCluster, ready};
use crate::engine::docker;
use crate::failure::{Classify, FailureClass, Result};
use crate::progress::Progress;
use crate::wait::{Observed, await_class};

/// From the registration of a node to its range of addresses.
const RANGE_DEADLINE: Duration = Duration::from_secs(30);
/// The configuration that our image brings; another image has none of this name.
const CONFIGURATION: &str = "/etc/cni/net.d/10-hodei.conflist";
/// Arguments: the configuration, the node's own range, then range and address of each other node.
const SCRIPT: &str = r#"set -e
[ -f "$1" ] || exit 0
sed -i "s|\"subnet\": \"[^\"]*\"|\"subnet\": \"$2\"|" "$1"
shift 2
while [ $# -gt 1 ]; do ip route replace "$1" via "$2"; shift 2; done"#;

/// A node as the others reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    node: String,
    range: String,
    address: String,
}

/// Connects the pods of all nodes that run. Of one node nothing is to be done.
///
/// # Errors
/// A node has no range of addresses, or its configuration cannot be written.
pub(crate) async fn connect(cluster: &KindCluster) -> Result<()> {
    if cluster.nodes.len() < 2 {
        return Ok(());
    }
    let nodes = Api::<Node>::all(ready::client(cluster).await?);
    let what = "each node to have a range of addresses";
    let class = FailureClass::Infrastructure;
    let places = await_class(class, what, RANGE_DEADLINE, async || {
        let list = nodes.list(&ListParams::default()).await;
        let list = list.infrastructure("list", format!("the nodes of {}", cluster.name))?;
        let places: Vec<_> = list.iter().filter_map(place).collect();
        let lacking = cluster.nodes.len().saturating_sub(places.len());
        Ok(if lacking == 0 {
            Observed::Ready(places)
        } else {
            Observed::NotYet(format!("{lacking} without one"))
        })
    })
    .await?;
    for here in &places {
        let mut command =
            docker(["exec", &here.node, "sh", "-c", SCRIPT, "sh", CONFIGURATION, &here.range]);
        for other in places.iter().filter(|place| *place != here) {
            command = command.args([&other.range, &other.address]);
        }
        let written = command.run(&Progress::silent().unlisted()).await;
        written.infrastructure("connect", format!("the pods of {}", here.node))?;
    }
    Ok(())
}

fn place(node: &Node) -> Option<Place> {
    let range = node.spec.as_ref()?.pod_cidr.clone()?;
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let address = addresses.iter().find(|address| address.type_ == "InternalIP")?.address.clone();
    Some(Place { node: node.name_any(), range, address })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Command;

    #[test]
    fn a_node_without_a_range_is_not_in_its_place_yet() {
        let mut node: Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "w"},
            "status": {"addresses": [
                {"type": "Hostname", "address": "w"}, {"type": "InternalIP", "address": "172.18.0.3"},
            ]},
        }))
        .unwrap();
        assert_eq!(place(&node), None);
        node.spec.get_or_insert_default().pod_cidr = Some("10.244.1.0/24".into());
        let wanted =
            Place { node: "w".into(), range: "10.244.1.0/24".into(), address: "172.18.0.3".into() };
        assert_eq!(place(&node), Some(wanted));
    }

    #[tokio::test]
    async fn our_configuration_gets_the_nodes_own_range_and_another_is_left_alone() {
        let text =
            include_str!("../../../deploy/kind/node-image/files/etc/cni/net.d/10-hodei.conflist");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("10-hodei.conflist");
        let name = path.display().to_string();
        let run = async || {
            let command = Command::new("sh").args(["-c", SCRIPT, "sh", &name, "10.244.7.0/24"]);
            command.run(&Progress::silent().unlisted()).await.unwrap();
        };
        run().await;
        assert!(!path.exists());
        std::fs::write(&path, text).unwrap();
        run().await;
        run().await;
        let written: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let range = &written["plugins"][0]["ipam"]["ranges"][0][0]["subnet"];
        assert_eq!(range, "10.244.7.0/24");
    }
}

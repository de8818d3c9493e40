//! Whether network policies are enforced, seen and not assumed. A cluster takes a policy whether or
//! not anything acts on it; so on each node a pod that a policy denies everything tries to reach the
//! cluster's DNS, and beside it one that no policy is about, which has to.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, PostParams};
use serde_json::json;

use crate::cluster::{KindCluster, ready};
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::probe::{PROBE_LABEL, Probe, in_namespace};
use crate::progress::Stage;
use crate::run_dir::RunDir;
use crate::worker_image::WorkerImage;

/// Value of [`PROBE_LABEL`] of the pods that a policy denies everything.
const DENIED: &str = "denied";
/// Value of it of those that no policy is about.
const FREE: &str = "free";
/// The denied pod got through; the free one did not.
const OTHERWISE: i32 = 21;
/// Tries `wanted` (`open` or `blocked`) until it was so three times in a row, at most twenty times. A
/// connection that is not there within a second, or refused, is blocked.
const SCRIPT: &str = r#"while read -r word server _; do [ "$word" = nameserver ] && break; done < "$resolv"
row=0
for _ in {1..20}; do
  if timeout 1 bash -c "exec 3<>/dev/tcp/$server/$port" 2>/dev/null; then seen=open; else seen=blocked; fi
  if [ $seen = $wanted ]; then row=$((row + 1)); else row=0; sleep 0.3; fi
  [ $row -ge 3 ] && { echo "$server:$port is $seen"; exit 0; }
done
echo "$server:$port is $seen"; exit 21"#;

/// Probes every node of the cluster, which takes about five seconds. Whether a denied pod was held
/// back on all of them.
///
/// # Errors
/// Class network: not even a pod without a policy reaches DNS.
pub async fn is_enforced(
    cluster: &KindCluster,
    image: &WorkerImage,
    run: &RunDir,
    stage: &Stage,
) -> Result<bool> {
    let enforced = in_namespace(cluster, run, "policy", async |namespace| {
        let client = ready::client(cluster).await?;
        let policies = Api::<NetworkPolicy>::namespaced(client.clone(), namespace);
        let policy = policy().classify(FailureClass::Harness, "make", "a network policy")?;
        let created = policies.create(&PostParams::default(), &policy).await;
        created.infrastructure("create", "a network policy")?;
        let pods = Api::<Pod>::namespaced(client, namespace);
        let nodes = cluster.nodes.iter().map(|node| probe_node(node, image, &pods, run, stage));
        futures::future::join_all(nodes).await.into_iter().collect::<Result<Vec<bool>>>()
    });
    let enforced = enforced.await?;
    let count = enforced.iter().filter(|enforced| **enforced).count();
    stage.note(format!("enforced on {count} of {} node(s)", enforced.len()));
    Ok(count == enforced.len())
}

async fn probe_node(
    node: &str,
    image: &WorkerImage,
    pods: &Api<Pod>,
    run: &RunDir,
    stage: &Stage,
) -> Result<bool> {
    let probe = |label: &'static str, wanted| Probe {
        name: format!("{label}-{node}"),
        label,
        node,
        image,
        route: None,
        script: script("/etc/resolv.conf", 53, wanted),
    };
    let (free, denied) = (probe(FREE, "open"), probe(DENIED, "blocked"));
    let (free, denied) =
        tokio::join!(free.run(pods, &run.id, stage), denied.run(pods, &run.id, stage));
    let (free, denied) = (free?, denied?);
    if free.code != 0 {
        let subject = format!("DNS from a pod on {node} that no policy is about");
        let cause = format!("exit code {}: {}", free.code, free.said.trim());
        return Err(HarnessError::new(FailureClass::Network, "reach", subject, cause));
    }
    match denied.code {
        0 => Ok(true),
        OTHERWISE => Ok(false),
        code => {
            let cause = format!("exit code {code}: {}", denied.said.trim());
            let subject = format!("network policies on {node}");
            Err(HarnessError::new(FailureClass::Network, "probe", subject, cause))
        }
    }
}

fn policy() -> Result<NetworkPolicy, serde_json::Error> {
    serde_json::from_value(json!({
        "metadata": {"name": DENIED},
        "spec": {
            "podSelector": {"matchLabels": {PROBE_LABEL: DENIED}},
            "policyTypes": ["Egress"],
        },
    }))
}

fn script(resolv: &str, port: u16, wanted: &str) -> String {
    format!("resolv={resolv} port={port} wanted={wanted}\n{SCRIPT}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Command;
    use crate::progress::Progress;

    #[tokio::test]
    async fn the_script_tells_open_from_blocked() {
        let dir = tempfile::tempdir().unwrap();
        let resolv = dir.path().join("resolv.conf");
        std::fs::write(&resolv, "search a.b\nnameserver 127.0.0.1\noptions ndots:5\n").unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap().port();
        let closed = crate::ports::PortLease::take().unwrap();
        let run = async |port, wanted: &str| {
            let script = script(&resolv.display().to_string(), port, wanted);
            let command = Command::new("bash").args(["-c", &script]);
            command.run(&Progress::silent().unlisted()).await.map(|output| output.stdout)
        };
        assert!(run(open, "open").await.unwrap().contains("is open"));
        assert!(run(closed.port(), "blocked").await.unwrap().contains("is blocked"));
        let error = run(open, "blocked").await.unwrap_err();
        assert!(error.tail().contains("is open"), "{error}");
    }

    #[test]
    fn the_policy_denies_its_own_pods_everything() {
        let spec = serde_json::to_value(policy().unwrap().spec).unwrap();
        assert_eq!(spec["policyTypes"], json!(["Egress"]));
        assert_eq!(spec.get("egress"), None);
        assert_eq!(spec["podSelector"]["matchLabels"][PROBE_LABEL], DENIED);
    }
}

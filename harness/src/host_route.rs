//! The way from pods to this host: found as the cluster sees it, and proved from a pod on every
//! node, hop by hop: the name (a host alias), TCP, and a gRPC health check.
//!
//! A server that does not listen there is not this module's failure: the proof brings its own.

mod wire;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, LogParams, PostParams};
use serde_json::json;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

use crate::cluster::{KindCluster, kind_network_gateway, ready};
use crate::engine::docker;
use crate::environment::HostRoute;
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::progress::Stage;
use crate::run_dir::{RUN_LABEL, RunId};
use crate::wait::{Observed, Wait};
use crate::worker_image::WorkerImage;

/// The name by which pods know the host.
pub const HOSTNAME: &str = "host.docker.internal";
/// From the creation of a probe pod to its verdict.
const PROBE_DEADLINE: Duration = Duration::from_secs(60);
/// Exit codes of the probe's script.
const NO_NAME: i32 = 11;
const NO_TCP: i32 = 12;
const NO_GRPC: i32 = 13;

/// Finds the host's address: the gateway of Kind's network on Linux, what the engine's own name
/// for the host resolves to inside a node on Docker Desktop.
///
/// # Errors
/// Neither is known.
pub async fn resolve(cluster: &KindCluster, stage: &Stage) -> Result<HostRoute> {
    let class = FailureClass::Network;
    let info = docker(["info", "--format", "{{.OperatingSystem}}"]).run(stage).await;
    let system = info.infrastructure("ask", "the engine for its system")?.stdout;
    if !system.contains("Docker Desktop") {
        let address = IpAddr::V4(kind_network_gateway(stage).await?);
        return Ok(HostRoute { hostname: HOSTNAME.into(), address, listen: address });
    }
    let node = cluster.nodes.first().map_or("", String::as_str);
    let lookup = docker(["exec", node, "getent", "ahostsv4", HOSTNAME]).run(stage).await;
    let output = lookup.classify(class, "resolve", format!("{HOSTNAME} in node {node}"))?.stdout;
    let address = output.split_whitespace().next().and_then(|word| word.parse().ok());
    let address = address.ok_or_else(|| {
        HarnessError::new(class, "understand", format!("the address of {HOSTNAME}"), output.clone())
    })?;
    // Docker Desktop forwards from its machine to whatever listens on this one.
    Ok(HostRoute { hostname: HOSTNAME.into(), address, listen: Ipv4Addr::LOCALHOST.into() })
}

/// Proves the route from a pod on every node of the cluster.
///
/// # Errors
/// The first hop that refused, from which node, and what to do; class network.
pub async fn prove(
    route: &HostRoute,
    cluster: &KindCluster,
    image: &WorkerImage,
    namespace: &str,
    run: &RunId,
    stage: &Stage,
) -> Result<()> {
    let listener = HealthListener::start(route.listen).await?;
    let client = ready::client(cluster).await?;
    let pods = Api::<Pod>::namespaced(client, namespace);
    let probes = cluster
        .nodes
        .iter()
        .map(|node| prove_from(node, route, listener.port, image, &pods, run, stage));
    let proofs = futures::future::join_all(probes).await;
    listener.stop.cancel();
    proofs.into_iter().collect()
}

struct HealthListener {
    port: u16,
    stop: CancellationToken,
}

impl HealthListener {
    async fn start(listen: IpAddr) -> Result<Self> {
        let subject = || format!("{listen}");
        let bound = tokio::net::TcpListener::bind((listen, 0)).await;
        let listener = bound.classify(FailureClass::Network, "listen on", subject())?;
        let port =
            listener.local_addr().classify(FailureClass::Network, "listen on", subject())?.port();
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let (reporter, service) = tonic_health::server::health_reporter();
        drop(reporter);
        let server = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopped);
        tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::warn!(%error, "the health listener of the route's proof ended");
            }
        });
        Ok(Self { port, stop })
    }
}

async fn prove_from(
    node: &str,
    route: &HostRoute,
    port: u16,
    image: &WorkerImage,
    pods: &Api<Pod>,
    run: &RunId,
    stage: &Stage,
) -> Result<()> {
    let class = FailureClass::Network;
    let subject = format!("the way from a pod on {node} to {}:{port}", route.address);
    let name = format!("route-{node}");
    let pod = probe_pod(&name, node, route, port, image, run).classify(
        FailureClass::Harness,
        "make",
        "the probe's manifest",
    )?;
    create(pods, &pod, &subject, stage).await?;
    let wait = Wait {
        class,
        what: format!("the probe pod on {node}"),
        deadline: PROBE_DEADLINE,
        interval: Duration::from_millis(150),
    };
    let ended = wait
        .until(stage, async || {
            let pod = pods.get(&name).await.classify(class, "watch", &subject)?;
            Ok(exit_code(&pod).map_or_else(|| Observed::NotYet(describe(&pod)), Observed::Ready))
        })
        .await;
    let said = pods.logs(&name, &LogParams::default()).await.unwrap_or_default();
    // The namespace goes soon, and this pod with it: failing here would hide the finding.
    drop(pods.delete(&name, &DeleteParams::default().grace_period(0)).await);
    let (hop, help) = match ended? {
        0 => return Ok(()),
        NO_NAME => ("DNS", "the host alias is not in the pod's /etc/hosts"),
        NO_TCP => (
            "TCP",
            "a firewall of this host may drop what comes from Kind's network: allow it (for ufw: \
             `ufw allow in on br-…`), or see `iptables -L INPUT`",
        ),
        NO_GRPC => ("gRPC", "something between pod and host speaks for it: a proxy or VPN"),
        _ => ("the probe", "the worker image has no bash, timeout or getent"),
    };
    Err(HarnessError::new(class, "go", subject, format!("{hop} refused: {}", said.trim()))
        .with_help(help))
}

/// A new namespace takes pods only once its default account is there.
async fn create(pods: &Api<Pod>, pod: &Pod, subject: &str, stage: &Stage) -> Result<()> {
    Wait::infrastructure("the default account of the probe's namespace", Duration::from_secs(20))
        .until(stage, async || match pods.create(&PostParams::default(), pod).await {
            Ok(_) => Ok(Observed::Ready(())),
            Err(kube::Error::Api(status)) if status.message.contains("serviceaccount") => {
                Ok(Observed::NotYet(status.message))
            }
            Err(error) => Err(error).classify(FailureClass::Network, "probe", subject),
        })
        .await
}

fn probe_pod(
    name: &str,
    node: &str,
    route: &HostRoute,
    port: u16,
    image: &WorkerImage,
    run: &RunId,
) -> Result<Pod, serde_json::Error> {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {RUN_LABEL: run.as_str()}},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "activeDeadlineSeconds": PROBE_DEADLINE.as_secs(),
            "terminationGracePeriodSeconds": 0,
            "hostAliases": [{"ip": route.address.to_string(), "hostnames": [route.hostname]}],
            "tolerations": [{"operator": "Exists"}],
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "probe",
                "image": image.reference,
                "imagePullPolicy": "IfNotPresent",
                "command": ["bash", "-c", script(&route.hostname, port)],
                "resources": {
                    "requests": {"cpu": "10m", "memory": "16Mi"},
                    "limits": {"cpu": "500m", "memory": "64Mi"},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
            }],
        },
    }))
}

/// The probe. It needs bash (for /dev/tcp) and coreutils, which Debian always has.
fn script(host: &str, port: u16) -> String {
    let request = wire::escaped(&wire::health_request(host));
    let serving = wire::SERVING_HEX;
    format!(
        "getent hosts {host} || {{ echo '{host} does not resolve'; exit {NO_NAME}; }}\n\
         timeout 5 bash -c 'exec 3<>/dev/tcp/{host}/{port}' || {{ echo 'no connection to {host}:{port}'; exit {NO_TCP}; }}\n\
         answer=$(timeout 10 bash -c \"exec 3<>/dev/tcp/{host}/{port}; printf '{request}' >&3; \
         timeout 2 cat <&3 | od -An -v -tx1 | tr -d ' \\n'\")\n\
         case \"$answer\" in *{serving}*) exit 0;; esac\n\
         echo \"no SERVING in the answer ${{answer:-(none)}}\"; exit {NO_GRPC}\n"
    )
}

fn exit_code(pod: &Pod) -> Option<i32> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    Some(statuses.first()?.state.as_ref()?.terminated.as_ref()?.exit_code)
}

fn describe(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.clone()).unwrap_or_default();
    let waiting = status.and_then(|status| {
        status.container_statuses.as_ref()?.first()?.state.as_ref()?.waiting.clone()
    });
    format!("{phase} {}", waiting.and_then(|waiting| waiting.reason).unwrap_or_default())
}

/// Runs the probe's script on this host, against a listener of its own: proves the script itself.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Command;
    use crate::progress::Progress;

    async fn run_script(host: &str, port: u16) -> Result<(), crate::process::ProcessError> {
        let stage = Progress::silent().unlisted();
        Command::new("bash").args(["-c", &script(host, port)]).run(&stage).await.map(drop)
    }

    #[tokio::test]
    async fn the_probe_tells_a_health_service_from_anything_else() {
        let listener = HealthListener::start(Ipv4Addr::LOCALHOST.into()).await.unwrap();
        run_script("localhost", listener.port).await.unwrap();
        listener.stop.cancel();
        let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let error = run_script("localhost", mute.local_addr().unwrap().port()).await.unwrap_err();
        assert!(error.tail().contains("no SERVING"), "{error}");
    }

    #[tokio::test]
    async fn a_closed_port_and_an_unknown_name_are_told_apart() {
        let closed = crate::ports::PortLease::take().unwrap();
        let error = run_script("localhost", closed.port()).await.unwrap_err();
        assert!(error.tail().contains("no connection"), "{error}");
        let error = run_script("no-such-host.invalid", 1).await.unwrap_err();
        assert!(error.tail().contains("does not resolve"), "{error}");
    }
}

//! The way from pods to this host: found as the cluster sees it, and proved from a pod on every
//! node, hop by hop: the name (a host alias), TCP, and a gRPC health check.
//!
//! A server that does not listen there is not this module's failure: the proof brings its own.

mod wire;

use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

use crate::cluster::{KindCluster, kind_network_gateway, ready};
use crate::engine::docker;
use crate::environment::HostRoute;
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::probe::Probe;
use crate::progress::Stage;
use crate::run_dir::RunId;
use crate::worker_image::WorkerImage;

/// The name by which pods know the host.
pub const HOSTNAME: &str = "host.docker.internal";
/// Exit codes of the probe's script.
pub(crate) const NO_NAME: i32 = 11;
pub(crate) const NO_TCP: i32 = 12;
pub(crate) const NO_GRPC: i32 = 13;

/// How far a probe goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hops {
    /// To a connection: what is behind it speaks TLS.
    Tcp,
    /// To the answer of a gRPC health check.
    Grpc,
}

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
    let probe = Probe {
        name: format!("route-{node}"),
        label: "route",
        node,
        image,
        route: Some(route),
        script: script(&route.hostname, port, Hops::Grpc),
    };
    let ended = probe.run(pods, run, stage).await?;
    let (hop, help) = match ended.code {
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
    Err(HarnessError::new(class, "go", subject, format!("{hop} refused: {}", ended.said.trim()))
        .with_help(help))
}

/// The probe, up to its last hop; `host` is a name or an address (of which `getent hosts` would look
/// for the name). It needs bash (for /dev/tcp) and coreutils, which Debian always has.
pub(crate) fn script(host: &str, port: u16, hops: Hops) -> String {
    let connect = format!(
        "getent ahosts {host} >/dev/null || {{ echo '{host} does not resolve'; exit {NO_NAME}; }}\n\
         timeout 5 bash -c 'exec 3<>/dev/tcp/{host}/{port}' || {{ echo 'no connection to {host}:{port}'; exit {NO_TCP}; }}\n"
    );
    if hops == Hops::Tcp {
        return connect;
    }
    let request = wire::escaped(&wire::health_request(host));
    let serving = wire::SERVING_HEX;
    format!(
        "{connect}\
         answer=$(timeout 10 bash -c \"exec 3<>/dev/tcp/{host}/{port}; printf '{request}' >&3; \
         timeout 2 cat <&3 | od -An -v -tx1 | tr -d ' \\n'\")\n\
         case \"$answer\" in *{serving}*) exit 0;; esac\n\
         echo \"no SERVING in the answer ${{answer:-(none)}}\"; exit {NO_GRPC}\n"
    )
}

/// Runs the probe's script on this host, against a listener of its own: proves the script itself.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Command;
    use crate::progress::Progress;

    async fn run_script(host: &str, port: u16) -> Result<(), crate::process::ProcessError> {
        let stage = Progress::silent().unlisted();
        Command::new("bash")
            .args(["-c", &script(host, port, Hops::Grpc)])
            .run(&stage)
            .await
            .map(drop)
    }

    #[tokio::test]
    async fn the_probe_tells_a_health_service_from_anything_else() {
        let listener = HealthListener::start(Ipv4Addr::LOCALHOST.into()).await.unwrap();
        run_script("localhost", listener.port).await.unwrap();
        listener.stop.cancel();
        let other = HealthListener::start(Ipv4Addr::LOCALHOST.into()).await.unwrap();
        run_script("127.0.0.1", other.port).await.unwrap();
        other.stop.cancel();
        let to_tcp = script("localhost", 1, Hops::Tcp);
        assert!(!to_tcp.contains("SERVING"), "{to_tcp}");
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

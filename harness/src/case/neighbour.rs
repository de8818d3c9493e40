//! What a case needs to see a network policy at work: the policy itself, and somebody outside of the
//! cluster's pods who listens on whatever port.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::CaseEnv;
use super::namespace::{Place, read_manifest};
use crate::engine::docker;
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::journal::{Resource, State};
use crate::postgres::remove_container;
use crate::progress::Progress;
use crate::run_dir::RUN_LABEL;
use crate::wait::{Observed, await_class};

/// The policy, in the checkout.
const POLICY: &str = "deploy/kubernetes/network-policy.yaml";
/// The server's port in that policy; a case's server has a port of its own.
const PRODUCTION_PORT: u16 = 50051;
/// From the start of a container to a program that listens in it.
const LISTEN_DEADLINE: Duration = Duration::from_secs(30);
/// The network that the nodes are on.
const NETWORK: &str = "kind";

/// A program for `perl -e`, which every Debian image has: listens on the ports that are its arguments,
/// says so, and closes each connection that it gets.
pub const LISTENER: &str = r#"use IO::Select; use IO::Socket::INET; $| = 1;
my $all = IO::Select->new(map {
    IO::Socket::INET->new(LocalPort => $_, Listen => 64, ReuseAddr => 1) or die "port $_: $!\n"
} @ARGV);
print "listening\n";
while (1) { for my $one ($all->can_read) { my $peer = $one->accept; close $peer if $peer } }"#;

impl CaseEnv {
    /// Applies production's network policy to the case's namespace. The policy opens port 50051, where
    /// production's server listens; the port of this case's server, if it has one, is opened beside it.
    /// It takes a moment until a policy is in force.
    ///
    /// # Errors
    /// The manifest cannot be read or applied.
    pub async fn apply_network_policy(&mut self) -> Result<()> {
        let path = self.environment.workspace.join(POLICY);
        let mut documents = read_manifest(&path)?;
        if let Ok(address) = self.advertised_address() {
            let port = port_of(address).ok_or_else(|| {
                let subject = format!("the port of {address}");
                HarnessError::new(FailureClass::Harness, "find", subject, "it has none")
            })?;
            documents.iter_mut().for_each(|document| open_beside(document, port));
        }
        let place = Place {
            client: &self.client,
            environment: &self.environment,
            journal: &self.journal,
            run: &self.run,
            case: &self.id,
        };
        self.namespace.apply_documents(&place, documents, POLICY).await
    }

    /// Starts a container on the network of the cluster's nodes that listens on `ports` until the case
    /// ends; answers its address. To pods it is as far away as any machine outside of the cluster.
    ///
    /// # Errors
    /// The engine fails, or nothing listens after half a minute.
    pub async fn start_neighbour(&mut self, ports: &[u16]) -> Result<IpAddr> {
        let stage = Progress::silent().unlisted();
        let name = format!("{}-neighbour", self.namespace.name);
        let subject = format!("container {name}");
        let entry = self.journal.intend(Resource::Container { name: name.clone() })?;
        self.disturbance.neighbours.push((entry, name.clone()));
        let label = format!("{RUN_LABEL}={}", self.run);
        let start = docker(["run", "--detach", "--name", &name, "--label", &label])
            .args(["--network", NETWORK, "--user", "0", "--entrypoint", "perl"])
            .args([&self.environment.worker_image.reference, "-e", LISTENER])
            .args(ports.iter().map(u16::to_string));
        start.run(&stage).await.infrastructure("start", &subject)?;
        self.journal.mark(entry, State::Created)?;
        let class = FailureClass::Infrastructure;
        await_class(class, format!("{subject} to listen"), LISTEN_DEADLINE, async || {
            let logs = docker(["logs", &name]).run(&stage).await;
            let logs = logs.infrastructure("read", format!("the log of {subject}"))?;
            Ok(match logs.stdout.contains("listening") {
                true => Observed::Ready(()),
                false => Observed::NotYet(format!("{}{}", logs.stdout, logs.stderr)),
            })
        })
        .await?;
        let format = format!("{{{{(index .NetworkSettings.Networks {NETWORK:?}).IPAddress}}}}");
        let inspect = docker(["container", "inspect", "--format", &format, &name]);
        let found = inspect.run(&stage).await.infrastructure("inspect", &subject)?;
        found.stdout.trim().parse().infrastructure("find the address of", subject)
    }

    pub(super) async fn remove_neighbours(&mut self) -> Result<()> {
        for (entry, name) in std::mem::take(&mut self.disturbance.neighbours) {
            remove_container(&name, self.run.as_str()).await?;
            self.journal.mark(entry, State::Removed)?;
        }
        Ok(())
    }
}

fn port_of(address: &str) -> Option<u16> {
    address.rsplit(':').next()?.parse().ok()
}

/// Opens `port` in each egress rule that opens production's.
fn open_beside(policy: &mut Value, port: u16) {
    for rule in policy["spec"]["egress"].as_array_mut().into_iter().flatten() {
        let Some(ports) = rule["ports"].as_array_mut() else { continue };
        if ports.iter().any(|open| open["port"] == PRODUCTION_PORT) {
            ports.push(json!({"protocol": "TCP", "port": port}));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_case_s_port_is_opened_where_productions_is_and_nowhere_else() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let before = read_manifest(&checkout.join(POLICY)).unwrap();
        let mut after = before.clone();
        let port = port_of("http://host.docker.internal:41234").unwrap();
        after.iter_mut().for_each(|document| open_beside(document, port));
        let rules =
            |documents: &[Value]| documents[0]["spec"]["egress"].as_array().unwrap().clone();
        let (before, after) = (rules(&before), rules(&after));
        let changed: Vec<_> =
            before.iter().zip(&after).filter(|(one, other)| one != other).collect();
        assert_eq!(changed.len(), 1, "one rule names the server's port");
        let ports = changed[0].1["ports"].as_array().unwrap();
        let opened: Vec<_> = ports.iter().map(|open| open["port"].as_u64()).collect();
        assert_eq!(opened, [Some(50051), Some(41234)]);
        assert_eq!(port_of("host"), None);
    }

    #[tokio::test]
    async fn the_listener_says_when_it_listens_and_takes_connections() {
        use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
        let port = crate::ports::PortLease::take().unwrap();
        let mut perl = tokio::process::Command::new("perl")
            .args(["-e", LISTENER, &port.port().to_string()])
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut said = BufReader::new(perl.stdout.take().unwrap()).lines();
        assert_eq!(said.next_line().await.unwrap().as_deref(), Some("listening"));
        for _ in 0..2 {
            let address = ("127.0.0.1", port.port());
            let mut link = tokio::net::TcpStream::connect(address).await.unwrap();
            assert_eq!(link.read(&mut [0; 1]).await.unwrap(), 0, "closed at once");
        }
    }
}

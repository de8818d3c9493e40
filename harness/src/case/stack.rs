//! A case's database and its server: one, or two replicas; behind the proxy of the worker link and
//! with TLS, if it asks.

use std::path::Path;

use super::tls::CaseTls;
use super::{CaseOptions, Clients};
use crate::environment::{Environment, SecretUrl};
use crate::failure::Result;
use crate::journal::{EntryId, Journal, Resource, State};
use crate::link_proxy::LinkProxy;
use crate::ports::PortLease;
use crate::postgres;
use crate::server_process::{Lifetime, ServerOptions, ServerProcess};

/// What a case with a server has beside its namespace.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) server: ServerProcess,
    pub(super) clients: Clients,
    pub(super) database: Database,
    /// The second server.
    pub(super) replica: Option<ServerProcess>,
    /// What workers reach the servers through.
    pub(super) link_proxy: Option<LinkProxy>,
    pub(super) tls: Option<CaseTls>,
    /// What workers are told to connect to.
    pub(super) advertised: String,
}

#[derive(Debug)]
pub(super) struct Database {
    pub(super) name: String,
    pub(super) url: SecretUrl,
    pub(super) entry: EntryId,
}

/// Where the stack's files are: for all to see, and for its owner only.
pub(super) struct StackPlace<'a> {
    pub(super) evidence: &'a Path,
    pub(super) private: &'a Path,
}

impl Stack {
    /// Ends the servers: in good order, or at once.
    pub(super) async fn end(&mut self, at_once: bool) -> Result<()> {
        let mut ended = Ok(());
        for server in std::iter::once(&mut self.server).chain(&mut self.replica) {
            ended = ended.and(if at_once { server.kill().await } else { server.stop().await });
        }
        ended
    }
}

pub(super) async fn clone_database(
    environment: &Environment,
    journal: &Journal,
    name: &str,
    wanted: bool,
) -> Result<Option<Database>> {
    if !wanted {
        return Ok(None);
    }
    let admin_url = environment.postgres.admin_url.expose().to_owned();
    let entry = journal.intend(Resource::Database { admin_url, name: name.to_owned() })?;
    let url = postgres::create_database(&environment.postgres, name).await?;
    journal.mark(entry, State::Created)?;
    Ok(Some(Database { name: name.to_owned(), url, entry }))
}

pub(super) async fn start_stack(
    environment: &Environment,
    journal: &Journal,
    database: Database,
    place: &StackPlace<'_>,
    options: &CaseOptions,
) -> Result<Stack> {
    let host = &environment.host;
    let mut asked = Vec::new();
    let tls = options.tls.then(|| CaseTls::make(&host.hostname, place.private)).transpose()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    asked.extend(tls.iter().flat_map(CaseTls::server_arguments));
    let proxied = options.replica || options.link_proxy;
    let front = proxied.then(PortLease::take).transpose()?;
    // Port 0 stands for the server's own.
    let port = front.as_ref().map_or(0, PortLease::port);
    asked.push(format!("--advertised-address={scheme}://{}:{port}", host.hostname));
    asked.extend(options.server_arguments.iter().cloned());
    let server_options = ServerOptions {
        program: environment.programs.server.clone(),
        database: database.url.clone(),
        advertised_host: host.hostname.clone(),
        listen: host.listen,
        directory: place.evidence.to_path_buf(),
        arguments: arguments(&asked),
        environment: options.server_environment.clone(),
        ports: None,
        lifetime: Lifetime::Parent,
    };
    let server = ServerProcess::start(server_options.clone(), journal).await?;
    let (port, clients) = (server.grpc_address().port(), Clients::of(&server)?);
    let clients = match &tls {
        Some(tls) => clients.over_tls(&server, &tls.authority)?,
        None => clients,
    };
    let reached = front.as_ref().map_or(port, PortLease::port);
    let advertised = format!("{scheme}://{}:{reached}", host.hostname);
    let replica = if options.replica {
        let directory = place.evidence.join("replica");
        let second = ServerOptions { directory, ..server_options };
        Some(ServerProcess::start(second, journal).await?)
    } else {
        None
    };
    let servers = std::iter::once(&server).chain(&replica).map(ServerProcess::grpc_address);
    let link_proxy = match front {
        Some(front) => Some(LinkProxy::start(host.listen, front, servers.collect()).await?),
        None => None,
    };
    Ok(Stack { server, clients, database, replica, link_proxy, tls, advertised })
}

/// The usual ones, and over them what a case asks for: the last of a name counts.
fn arguments(asked: &[String]) -> Vec<String> {
    // Short, so that a lost worker is found within a case's patience.
    let mut arguments: Vec<String> = [
        "--heartbeat-seconds=1",
        "--lease-seconds=10",
        "--reconcile-seconds=2",
        "--cancel-grace-seconds=3",
    ]
    .map(str::to_owned)
    .to_vec();
    for given in asked {
        let flag = given.split('=').next().unwrap_or_default();
        arguments.retain(|argument| argument.split('=').next() != Some(flag));
        arguments.push(given.clone());
    }
    arguments
}

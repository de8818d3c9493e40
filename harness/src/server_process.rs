//! A `hodei-server` of one's own: started on leased ports, awaited, killed, started again, stopped.
//!
//! What is asked of it over gRPC and REST is its users' business.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::environment::SecretUrl;
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::journal::{EntryId, Journal, Resource, State};
use crate::lineage::{MARK_ENV, ProcessIdentity};
use crate::ports::PortLease;
use crate::progress::Progress;
use crate::wait::{Observed, Wait};

/// From the start of the process to readiness.
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// Between SIGTERM and giving up on a graceful end.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
/// Lines of its log that an error repeats.
const TAIL_LINES: usize = 12;

/// How a server is to be started.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The binary.
    pub program: PathBuf,
    /// Its database.
    pub database: SecretUrl,
    /// Where pods reach this host, as in `host.docker.internal`.
    pub advertised_host: String,
    /// The address of this host that pods arrive at; the server listens there and on loopback.
    pub listen: IpAddr,
    /// Directory for its log and port file.
    pub directory: PathBuf,
    /// Further arguments, as `--flag=value`; they go over this module's own.
    pub arguments: Vec<String>,
    /// Further environment.
    pub environment: BTreeMap<String, String>,
    /// Its gRPC and REST ports; `None` for any that are free.
    pub ports: Option<(u16, u16)>,
    /// Whether it ends with this process.
    pub lifetime: Lifetime,
}

/// How long a server lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// As long as the process that started it, however that one ends.
    Parent,
    /// Until it is stopped.
    Detached,
}

/// A server process.
#[derive(Debug)]
pub struct ServerProcess {
    options: ServerOptions,
    journal: Journal,
    grpc: PortLease,
    rest: PortLease,
    running: Option<(Child, EntryId)>,
    starts: u32,
}

impl ServerProcess {
    /// Starts a server and waits until it is ready.
    ///
    /// # Errors
    /// It ends or is not ready in time; the error repeats the end of its log.
    pub async fn start(options: ServerOptions, journal: &Journal) -> Result<Self> {
        let (grpc, rest) = match options.ports {
            Some((grpc, rest)) => (PortLease::exactly(grpc)?, PortLease::exactly(rest)?),
            None => (PortLease::take()?, PortLease::take()?),
        };
        let journal = journal.clone();
        let mut server = Self { options, journal, grpc, rest, running: None, starts: 0 };
        server.start_again().await?;
        Ok(server)
    }

    /// Starts it again on the same ports after [`Self::kill`] or [`Self::stop`].
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub async fn start_again(&mut self) -> Result<()> {
        let program = self.options.program.display().to_string();
        let subject = || program.clone();
        let class = FailureClass::Product;
        self.starts += 1;
        std::fs::create_dir_all(&self.options.directory).infrastructure("make", subject())?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log());
        let log = log.infrastructure("write", self.log().display().to_string())?;
        let port_file = self.options.directory.join(format!("ports-{}.json", self.starts));
        let entry = self.journal.intend(Resource::Process { program: program.clone() })?;
        let attached = self.options.lifetime == Lifetime::Parent;
        let mut command = if attached {
            dying_with_parent(&self.options.program)
        } else {
            Command::new(&self.options.program)
        };
        command.args(self.arguments(&port_file));
        command.envs(&self.options.environment).env(MARK_ENV, entry.to_string());
        command.env("HODEI_DATABASE_URL", self.options.database.expose());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::from(log));
        let child = command.process_group(0).kill_on_drop(attached).spawn();
        let child = child
            .classify(FailureClass::Harness, "start", subject())
            .map_err(|error| error.with_help("build it with `cargo build -p hodei-server`"))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(process) = pid.and_then(ProcessIdentity::of) {
            self.journal.started(entry, process)?;
        }
        self.running = Some((child, entry));
        let ready = self.await_ready(&port_file).await;
        ready.map_err(|error| HarnessError::new(class, "start", subject(), error))
    }

    fn arguments(&self, port_file: &Path) -> Vec<String> {
        let (grpc, rest) = (self.grpc.port(), self.rest.port());
        let mut listen = vec![self.grpc_address()];
        if self.options.listen.is_unspecified() {
            listen = vec![SocketAddr::new(self.options.listen, grpc)];
        } else if !self.options.listen.is_loopback() {
            listen.push(SocketAddr::new(self.options.listen, grpc));
        }
        let listen: Vec<_> = listen.iter().map(ToString::to_string).collect();
        let host = &self.options.advertised_host;
        let usual = [
            ("--grpc-listen", listen.join(",")),
            ("--rest-listen", format!("127.0.0.1:{rest}")),
            ("--advertised-address", format!("http://{host}:{grpc}")),
            ("--port-file", port_file.display().to_string()),
            ("--log-format", "json".to_owned()),
            ("--database-connections", "6".to_owned()),
        ];
        let given =
            |flag: &str| self.options.arguments.iter().any(|a| a.split('=').next() == Some(flag));
        let usual = usual.into_iter().filter(|(flag, _)| !given(flag));
        let usual = usual.map(|(flag, value)| format!("{flag}={value}"));
        usual.chain(self.options.arguments.iter().cloned()).collect()
    }

    async fn await_ready(&mut self, port_file: &Path) -> Result<()> {
        let stage = Progress::silent().unlisted();
        let url = format!("{}/readyz", self.rest_url());
        let http = http_client()?;
        let log = self.log();
        let Some((child, _)) = &mut self.running else { return Ok(()) };
        let wait = Wait {
            class: FailureClass::Product,
            what: "the server to be ready".into(),
            deadline: READY_DEADLINE,
            interval: Duration::from_millis(25),
        };
        let look = async || {
            if let Some(status) = child.try_wait().infrastructure("watch", "the server")? {
                let cause = format!("it ended with {status}{}", tail(&log));
                return Err(HarnessError::new(FailureClass::Product, "await", "the server", cause));
            }
            if !port_file.exists() {
                return Ok(Observed::NotYet(format!("it does not listen yet{}", tail(&log))));
            }
            Ok(match http.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => Observed::Ready(()),
                Ok(answer) => {
                    let status = answer.status();
                    let text = answer.text().await.unwrap_or_default();
                    Observed::NotYet(format!("/readyz says {status}: {text}"))
                }
                Err(error) => Observed::NotYet(error.to_string()),
            })
        };
        wait.until(&stage, look).await
    }

    /// Its log, over all its starts.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.options.directory.join("server.log")
    }

    /// Where it serves gRPC on loopback.
    #[must_use]
    pub fn grpc_address(&self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.grpc.port())
    }

    /// Where it serves REST: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn rest_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.rest.port())
    }

    /// Its database.
    #[must_use]
    pub fn database(&self) -> &SecretUrl {
        &self.options.database
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.running.as_mut().and_then(|(child, _)| child.try_wait().ok().flatten())
    }

    /// Ends it with SIGKILL, as a crash would.
    ///
    /// # Errors
    /// It does not go.
    pub async fn kill(&mut self) -> Result<()> {
        let Some((mut child, entry)) = self.running.take() else { return Ok(()) };
        child.kill().await.infrastructure("kill", "the server")?;
        self.journal.mark(entry, State::Removed)
    }

    /// Ends it with SIGTERM and waits.
    ///
    /// # Errors
    /// It crashed before, or does not end in time (and is killed then).
    pub async fn stop(&mut self) -> Result<()> {
        let Some((mut child, entry)) = self.running.take() else { return Ok(()) };
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), Signal::SIGTERM).infrastructure("end", "the server")?;
        }
        let status = match tokio::time::timeout(STOP_DEADLINE, child.wait()).await {
            Ok(status) => status.infrastructure("await", "the server")?,
            Err(_) => {
                child.kill().await.infrastructure("kill", "the server")?;
                self.journal.mark(entry, State::Removed)?;
                let cause =
                    format!("still there {STOP_DEADLINE:?} after SIGTERM{}", tail(&self.log()));
                return Err(HarnessError::new(FailureClass::Product, "stop", "the server", cause));
            }
        };
        self.journal.mark(entry, State::Removed)?;
        if status.success() || status.signal() == Some(Signal::SIGTERM as i32) {
            return Ok(());
        }
        let cause = format!("it ended with {status}{}", tail(&self.log()));
        Err(HarnessError::new(FailureClass::Product, "stop", "the server", cause))
    }
}

/// A client for REST on loopback.
///
/// # Errors
/// The TLS back end cannot be set up.
pub fn http_client() -> Result<reqwest::Client> {
    // A second installation of the same provider is refused, and of no consequence.
    let _already = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(Duration::from_secs(30)).no_proxy().build().classify(
        FailureClass::Harness,
        "make",
        "an HTTP client",
    )
}

/// The message of a REST error body, or the body as it is.
#[must_use]
pub fn rest_message(body: &str) -> String {
    let parsed: Option<Value> = serde_json::from_str(body).ok();
    let message = parsed.as_ref().and_then(|value| {
        value.get("message").or_else(|| value.get("error")).or_else(|| value.get("detail"))
    });
    message.map_or_else(|| body.to_owned(), ToString::to_string)
}

/// The program under setpriv(1), where there is one, so that it dies with this process even if
/// this one is killed. setpriv becomes the program, so the process id is the program's.
pub(crate) fn dying_with_parent(program: &Path) -> Command {
    match which::which("setpriv") {
        Ok(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        Err(_) => Command::new(program),
    }
}

/// The last lines of a log, for an error's text.
pub(crate) fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    lines[from..].iter().map(|line| format!("\n  | {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(program: &str, directory: &Path) -> ServerOptions {
        ServerOptions {
            program: program.into(),
            database: SecretUrl::new("postgres://x"),
            advertised_host: "host.docker.internal".into(),
            listen: Ipv4Addr::LOCALHOST.into(),
            directory: directory.into(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            ports: None,
            lifetime: Lifetime::Parent,
        }
    }

    #[tokio::test]
    async fn a_server_that_ends_is_seen_at_once_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("server");
        std::fs::write(&program, "#!/bin/sh\necho no such database >&2\nexit 3\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&program, mode).unwrap();
        let journal = Journal::at(dir.path().join("journal"), None);
        let started = std::time::Instant::now();
        let failed = ServerProcess::start(options(program.to_str().unwrap(), dir.path()), &journal);
        let error = failed.await.unwrap_err();
        let text = format!("{} {:?}", error.source, error);
        assert!(text.contains("no such database") && text.contains("exit status: 3"), "{text}");
        assert!(started.elapsed() < Duration::from_secs(10));
        let contents = Journal::read(&dir.path().join("journal")).unwrap();
        assert!(matches!(contents.entries[0].resource, Resource::Process { .. }));
    }
}

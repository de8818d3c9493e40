//! Postgres from the binaries of this machine, for where no container can be had.
//!
//! Postgres refuses to be root, so for root it is run as the user `postgres` or `nobody`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown, geteuid};
use tokio::process::Child;

use crate::environment::SecretUrl;
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::journal::{EntryId, Journal, Resource, State};
use crate::lineage::{MARK_ENV, ProcessIdentity};
use crate::ports::PortLease;
use crate::progress::Progress;
use crate::wait::{Observed, Wait};

/// From the start of the process to its first answer.
const STARTUP_DEADLINE: Duration = Duration::from_secs(30);
/// Between the request to end and the kill.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// A server process and its data.
#[derive(Debug)]
pub(super) struct LocalServer {
    child: Child,
    entry: EntryId,
    place: EntryId,
    directory: PathBuf,
    password: String,
    port: PortLease,
}

impl LocalServer {
    pub(super) async fn start(directory: &Path, journal: &Journal) -> Result<Self> {
        let (initdb, postgres) = (find("initdb")?, find("postgres")?);
        let data = directory.join("data");
        let subject = || format!("Postgres in {}", directory.display());
        let place = journal.intend(Resource::Directory { path: directory.to_path_buf() })?;
        std::fs::create_dir_all(directory).infrastructure("make", subject())?;
        let user = stand_in()?;
        let secret = directory.join("password");
        let password = uuid::Uuid::new_v4().simple().to_string();
        std::fs::write(&secret, &password).infrastructure("write", subject())?;
        if let Some(user) = &user {
            for path in [directory, &secret] {
                chown(path, Some(user.uid), Some(user.gid))
                    .infrastructure("hand over", subject())?;
            }
        }
        let mut init = as_user(user.as_ref(), &initdb);
        init.args(["--username=hodei", "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"]);
        init.arg(format!("--pwfile={}", secret.display())).arg("-D").arg(&data);
        let output = init.output().await.infrastructure("run", "initdb")?;
        drop(std::fs::remove_file(&secret));
        if !output.status.success() {
            let cause = String::from_utf8_lossy(&output.stderr).into_owned();
            let error =
                HarnessError::new(FailureClass::Infrastructure, "initialise", subject(), cause);
            return Err(error.with_help("the directory must be reachable for the user it runs as"));
        }
        let port = PortLease::take()?;
        let entry =
            journal.intend(Resource::Process { program: postgres.display().to_string() })?;
        let log = std::fs::File::create(directory.join("postgres.log"));
        let log = log.infrastructure("write", subject())?;
        let mut serve = as_user(user.as_ref(), &postgres);
        serve.arg("-D").arg(&data).args(["-c", "fsync=off", "-c", "max_connections=600"]);
        serve.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
        serve.args(["-c", &format!("port={}", port.port())]);
        serve.env(MARK_ENV, entry.to_string()).stderr(Stdio::from(log)).stdout(Stdio::null());
        let child = serve.stdin(Stdio::null()).process_group(0).kill_on_drop(true).spawn();
        let child = child.infrastructure("start", subject())?;
        let id = child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(process) = id.and_then(ProcessIdentity::of) {
            journal.started(entry, process)?;
        }
        let mut server =
            Self { child, entry, place, directory: directory.to_path_buf(), password, port };
        server.await_answer().await?;
        Ok(server)
    }

    pub(super) fn admin_url(&self) -> SecretUrl {
        let (password, port) = (&self.password, self.port.port());
        SecretUrl::new(format!("postgres://hodei:{password}@127.0.0.1:{port}/postgres"))
    }

    async fn await_answer(&mut self) -> Result<()> {
        let url = self.admin_url();
        let log = self.directory.join("postgres.log");
        let stage = Progress::silent().unlisted();
        let child = &mut self.child;
        Wait::infrastructure("Postgres to answer", STARTUP_DEADLINE)
            .until(&stage, async || {
                if let Ok(Some(status)) = child.try_wait() {
                    let said = std::fs::read_to_string(&log).unwrap_or_default();
                    let cause = format!("it ended with {status}: {said}");
                    let class = FailureClass::Infrastructure;
                    return Err(HarnessError::new(class, "start", "Postgres", cause));
                }
                Ok(match super::connect(&url).await {
                    Ok(_) => Observed::Ready(()),
                    Err(error) => Observed::NotYet(error.source.to_string()),
                })
            })
            .await
    }

    pub(super) async fn stop(mut self, journal: &Journal) -> Result<()> {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // SIGINT is Postgres's "fast shutdown".
            kill(Pid::from_raw(pid), Signal::SIGINT).infrastructure("end", "Postgres")?;
        }
        if tokio::time::timeout(STOP_DEADLINE, self.child.wait()).await.is_err() {
            self.child.kill().await.infrastructure("end", "Postgres")?;
        }
        journal.mark(self.entry, State::Removed)?;
        std::fs::remove_dir_all(&self.directory)
            .infrastructure("remove", self.directory.display().to_string())?;
        journal.mark(self.place, State::Removed)
    }

    pub(super) fn leave_running(self) {
        std::mem::forget(self);
    }
}

/// Whether PostgreSQL's programs are on this machine.
#[must_use]
pub fn programs_are_there() -> bool {
    ["initdb", "postgres"].iter().all(|program| find(program).is_ok())
}

fn find(program: &str) -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut debian: Vec<_> = versions
        .map(|entry| entry.path().join("bin").join(program))
        .filter(|p| p.is_file())
        .collect();
    debian.sort();
    debian.pop().or_else(|| which::which(program).ok()).ok_or_else(|| {
        let class = FailureClass::Infrastructure;
        HarnessError::new(
            class,
            "find",
            program,
            "it is neither in PATH nor in /usr/lib/postgresql",
        )
        .with_help("install the package postgresql, or give a server with --postgres URL")
    })
}

/// Who Postgres runs as when we are root.
fn stand_in() -> Result<Option<User>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name).infrastructure("look up", name)? {
            return Ok(Some(user));
        }
    }
    let class = FailureClass::Infrastructure;
    Err(HarnessError::new(class, "find", "a user for Postgres", "there is no postgres or nobody"))
}

fn as_user(user: Option<&User>, program: &Path) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(program);
    if let Some(user) = user {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir("/");
    }
    command
}

//! Settings of the agent, from flags and the environment of its container.
//!
//! The one-time password has no flag, since a command line is there for all to read.

use std::{env, ffi::OsString, fs, path::PathBuf, time::Duration};

use clap::{Parser, builder::TypedValueParser};
use hodei_core::{id::WorkerId, quantity::parse_bytes, secret::Secret};
use tokio_util::sync::CancellationToken;

use crate::{
    error::AgentError,
    executor::{Environment, Limits, Premises},
};

/// What a container lets anybody write to beside its volumes: POSIX shared memory, POSIX message queues, and
/// what Kubernetes shows as its last words.
const SHARED: [&str; 3] = ["/dev/shm", "/dev/mqueue", "/dev/termination-log"];

/// Most seconds of a setting: a year. More says nothing, and would not fit a clock in the end.
const MOST_SECONDS: u64 = 365 * 24 * 3600;

const AFTER_HELP: &str = "\
The one-time password is read from HODEI_OTP_TOKEN (64 hexadecimal characters) and has no flag.

Exit codes:
    0  the work is done (whatever the job's own result was)
    2  a setting is missing or malformed
   10  the one-time password was refused
   11  the protocol version was refused
   12  the server could not be reached for registration
   13  the link was lost for too long; the job was killed
   14  the session was refused; the job was killed
   15  the server's answer could not be used
   16  what a job left could not be removed; its result was reported
  143  stopped by SIGTERM before the job's result was acknowledged";

/// Flags and environment of `hodei-worker`.
#[derive(Debug, Parser)]
#[command(name = "hodei-worker", version, about = "The Hodei worker agent", after_help = AFTER_HELP)]
pub struct Args {
    /// This worker's id, a UUID
    #[arg(long, env = "HODEI_WORKER_ID", hide_env_values = true)]
    pub worker_id: Option<String>,
    /// The server's gRPC address: http://host:port or https://host:port
    #[arg(long, env = "HODEI_SERVER_ADDRESS", hide_env_values = true, value_name = "URL")]
    pub server_address: Option<String>,
    /// The older name of the server's address
    #[arg(long, env = "HODEI_SERVER", hide_env_values = true, value_name = "URL", hide = true)]
    pub server: Option<String>,
    /// metadata.uid of the pod; fences a stale twin
    #[arg(long, env = "HODEI_POD_UID", hide_env_values = true, default_value = "")]
    pub pod_uid: String,
    /// Where jobs run
    #[arg(long, env = "HODEI_WORKSPACE", hide_env_values = true, default_value = "/workspace")]
    pub workspace: PathBuf,
    /// PEM file of the authorities to trust; needed with https
    #[arg(long, env = "HODEI_CA_FILE", hide_env_values = true)]
    pub ca_file: Option<PathBuf>,
    /// PEM text of the authorities to trust, which goes before the file: what the server says is newer
    /// than what an image brings
    #[arg(long, env = "HODEI_CA_PEM", hide_env_values = true, value_name = "PEM")]
    pub ca_pem: Option<String>,
    /// Unacknowledged output to hold in memory before the job is slowed down, or the disk is used
    #[arg(long, env = "HODEI_WORKER_WINDOW", hide_env_values = true, default_value = "16Mi", value_parser = parse_size, value_name = "BYTES")]
    pub window: usize,
    /// Output to hold on disk, in the temporary directory, while there is no session; 0: none
    #[arg(long, env = "HODEI_WORKER_SPOOL", hide_env_values = true, default_value = "256Mi", value_parser = parse_size, value_name = "BYTES")]
    pub spool: usize,
    /// Seconds for which a job waits when both are full and there is no session; after that the newest
    /// output is dropped, and its log says so
    #[arg(long, env = "HODEI_WORKER_STALL_SECONDS", hide_env_values = true, default_value_t = 30, value_parser = seconds())]
    pub stall_seconds: u64,
    /// Seconds to try to register for
    #[arg(
        long,
        env = "HODEI_REGISTER_TIMEOUT_SECONDS",
        hide_env_values = true,
        default_value_t = 120,
        value_parser = seconds()
    )]
    pub register_timeout_seconds: u64,
    /// Seconds without a session after which the job is killed (never less than the lease)
    #[arg(long, env = "HODEI_GIVE_UP_SECONDS", hide_env_values = true, default_value_t = 300, value_parser = seconds())]
    pub give_up_seconds: u64,
    /// Seconds to wait for work before leaving; 0: for ever
    #[arg(long, env = "HODEI_IDLE_TIMEOUT_SECONDS", hide_env_values = true, default_value_t = 600, value_parser = seconds())]
    pub idle_timeout_seconds: u64,
    /// Take one job after another: wait for work without end, and empty the workspace, the temporary
    /// directory and what is shared in /dev between two jobs
    #[arg(long, env = "HODEI_WORKER_POOLED", hide_env_values = true, default_value = "0", value_parser = parse_switch, action = clap::ArgAction::Set)]
    pub pooled: bool,
    /// Seconds a job gets to end after SIGTERM (the pod's own grace less a few)
    #[arg(long, env = "HODEI_DRAIN_GRACE_SECONDS", hide_env_values = true, default_value_t = 20, value_parser = seconds())]
    pub drain_grace_seconds: u64,
}

/// Checked settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who this is.
    pub worker: WorkerId,
    /// Where the server is.
    pub server_address: String,
    /// UID of the pod; empty outside of one.
    pub pod_uid: String,
    /// PEM of the trusted authorities.
    pub ca_pem: Option<Vec<u8>>,
    /// How jobs run.
    pub environment: Environment,
    /// Bound of the output that is held in memory, in bytes.
    pub window_bytes: usize,
    /// Bound of the output that is held on disk, in bytes.
    pub spool_bytes: usize,
    /// How long a job waits without a session and without room.
    pub stall: Duration,
    /// How long to try to register.
    pub register_timeout: Duration,
    /// How long to hold on without a session.
    pub give_up: Duration,
    /// How long to wait for work; zero: for ever.
    pub idle_timeout: Duration,
    /// What a job gets to end in after SIGTERM.
    pub drain_grace: Duration,
}

impl Config {
    /// Has the worker's own directories emptied after each job. They are its own where it is the first
    /// process of a container; elsewhere nothing is removed, and one job is all. `leave` is SIGTERM.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn keep_clean(&mut self, leave: CancellationToken) -> Result<Premises, AgentError> {
        let premises = if std::process::id() == 1 {
            let own = [&self.environment.workspace, &self.environment.scratch].map(PathBuf::from);
            let shared = SHARED.map(PathBuf::from).into_iter().filter(|path| path.exists());
            let looked = Premises::look(own.into_iter().chain(shared), leave);
            looked.map_err(|error| AgentError::Unclean { problem: error.to_string() })?
        } else {
            Premises::shared(leave)
        };
        Ok(self.environment.premises.insert(premises).clone())
    }

    /// Checks the settings and finds a workspace.
    ///
    /// # Errors
    /// When one is missing or malformed, or the CA file can't be read.
    pub fn from_args(args: Args) -> Result<Self, AgentError> {
        let missing = |name, purpose| AgentError::Missing { name, purpose };
        let worker = args
            .worker_id
            .ok_or_else(|| missing("HODEI_WORKER_ID", "the worker's id is given by the provider"))?
            .parse()?;
        if args.server_address.is_none() && args.server.is_some() {
            tracing::warn!("HODEI_SERVER is deprecated; use HODEI_SERVER_ADDRESS");
        }
        let server_address = args.server_address.or(args.server).ok_or_else(|| {
            missing("HODEI_SERVER_ADDRESS", "the server's gRPC address, http://host:port")
        })?;
        let ca_pem = match (args.ca_pem, args.ca_file) {
            (Some(pem), _) => Some(pem.into_bytes()),
            (None, None) => None,
            (None, Some(path)) => match fs::read(&path) {
                Ok(pem) => Some(pem),
                Err(source) => return Err(AgentError::CaFile { path, source }),
            },
        };
        Ok(Self {
            worker,
            server_address,
            pod_uid: args.pod_uid,
            ca_pem,
            environment: Environment {
                workspace: find_workspace(args.workspace),
                scratch: env::temp_dir(),
                path: env::var("PATH").ok().filter(|path| !path.is_empty()),
                limits: Limits::default(),
                premises: None,
            },
            window_bytes: args.window,
            spool_bytes: args.spool,
            stall: Duration::from_secs(args.stall_seconds),
            register_timeout: Duration::from_secs(args.register_timeout_seconds),
            give_up: Duration::from_secs(args.give_up_seconds),
            idle_timeout: match args.pooled {
                true => Duration::ZERO,
                false => Duration::from_secs(args.idle_timeout_seconds),
            },
            drain_grace: Duration::from_secs(args.drain_grace_seconds),
        })
    }
}

fn seconds() -> impl TypedValueParser<Value = u64> {
    clap::value_parser!(u64).range(..=MOST_SECONDS)
}

fn parse_size(text: &str) -> Result<usize, String> {
    let bytes = parse_bytes(text).map_err(|error| error.to_string())?;
    usize::try_from(bytes).map_err(|error| error.to_string())
}

fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "1" | "true" | "yes" => Ok(true),
        "" | "0" | "false" | "no" => Ok(false),
        _ => Err("must be 1 or 0".to_owned()),
    }
}

/// The one-time password, from `HODEI_OTP_TOKEN` or its older name `HODEI_TOKEN`.
///
/// # Errors
/// When neither is set or the text is malformed. The text is never repeated.
pub fn read_otp(variable: impl Fn(&str) -> Option<OsString>) -> Result<Secret, AgentError> {
    let text = variable("HODEI_OTP_TOKEN").or_else(|| {
        let old = variable("HODEI_TOKEN")?;
        tracing::warn!("HODEI_TOKEN is deprecated; use HODEI_OTP_TOKEN");
        Some(old)
    });
    let text = text.ok_or(AgentError::Missing {
        name: "HODEI_OTP_TOKEN",
        purpose: "the one-time password is given by the provider",
    })?;
    Ok(text.to_string_lossy().trim().parse()?)
}

/// The directory asked for if a file can be made in it, else a private temporary one.
fn find_workspace(wanted: PathBuf) -> PathBuf {
    let probe = wanted.join(format!(".hodei-probe-{}", uuid::Uuid::new_v4()));
    match fs::File::create_new(&probe).and_then(|_| fs::remove_file(&probe)) {
        Ok(()) => wanted,
        Err(error) => {
            let fallback =
                env::temp_dir().join(format!("hodei-workspace-{}", uuid::Uuid::new_v4()));
            tracing::warn!(
                workspace = %wanted.display(), fallback = %fallback.display(), %error,
                "the workspace cannot be written to; jobs run in a temporary directory"
            );
            if let Err(error) = fs::create_dir_all(&fallback) {
                tracing::warn!(%error, "nor can the temporary directory be made");
            }
            fallback
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0190a6f0-0000-7000-8000-000000000001";

    #[test]
    fn the_older_names_are_taken() {
        let home = tempfile::tempdir().unwrap();
        let workspace = format!("--workspace={}", home.path().display());
        let old = ["x", "--worker-id", ID, "--server", "http://old:1"];
        let args = Args::parse_from(old.into_iter().chain([workspace.as_str()]));
        let config = Config::from_args(args).unwrap();
        assert_eq!(config.server_address, "http://old:1");
        let otp = "a".repeat(64);
        let read = read_otp(|name| (name == "HODEI_TOKEN").then(|| otp.clone().into())).unwrap();
        assert_eq!(read.expose(), otp);
    }

    #[test]
    fn the_authorities_of_the_server_go_before_those_of_the_image() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("ca.pem");
        fs::write(&file, "image").unwrap();
        let (workspace, file) = (home.path().to_str().unwrap(), file.to_str().unwrap());
        let base = ["x", "--worker-id", ID, "--server-address", "https://h:1"];
        let more = ["--workspace", workspace, "--ca-file", file];
        for (given, trusted) in [(&[][..], "image"), (&["--ca-pem", "server"], "server")] {
            let args = Args::parse_from(base.iter().chain(&more).chain(given));
            let config = Config::from_args(args).unwrap();
            assert_eq!(config.ca_pem.as_deref(), Some(trusted.as_bytes()));
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = read_otp(|_| None).unwrap_err();
        assert!(error.to_string().starts_with("HODEI_OTP_TOKEN is not set"), "{error}");
        assert_eq!(error.exit_code(), 2);
        let error = read_otp(|_| Some("s3cret".into())).unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }

    #[test]
    fn an_unwritable_workspace_is_replaced() {
        let workspace = find_workspace(PathBuf::from("/proc/hodei"));
        assert!(workspace.starts_with(env::temp_dir()) && workspace.is_dir());
        fs::remove_dir(workspace).unwrap();
    }
}

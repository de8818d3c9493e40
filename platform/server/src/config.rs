//! What a person may set: flags, each with an environment variable beside it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, ValueEnum};

mod logs;
mod trace;

pub use logs::{LogConfig, LogStore, LogStoreText, Retention};
pub use trace::TraceConfig;

const EXAMPLES: &str = "\
Examples:
  # On one machine, workers in a Kind cluster:
  HODEI_DATABASE_URL=postgres://hodei@127.0.0.1/hodei \\
    hodei-server --grpc-listen 0.0.0.0:50051 --advertised-address http://host.docker.internal:50051

  # Free ports, written to a file once they are known:
  hodei-server --grpc-listen 127.0.0.1:0 --grpc-listen 172.18.0.1:0 --rest-listen 127.0.0.1:0 --port-file ports.json

  # Bring the schema up to date and end:
  hodei-server --migrate-only

  # Look at every setting, file, the database and the providers, and say what is wrong. Exit code 0: all is
  # well; 1: the database or a provider is away; 2: a setting or a file is wrong:
  hodei-server --check --check-format json

  # A provider from HODEI_K8S_NAMESPACE, HODEI_WORKER_IMAGE and so on, instead of POST /api/providers:
  HODEI_K8S_ENABLED=1 hodei-server";

/// The Hodei control plane: gRPC for agents and clients, REST, scheduler; state in PostgreSQL.
#[derive(Debug, Clone, Parser)]
#[command(name = "hodei-server", version, after_help = EXAMPLES)]
pub struct Config {
    /// PostgreSQL to keep all state in. Better given by environment: an argument shows in `ps`.
    #[arg(long, env = "HODEI_DATABASE_URL", hide_env_values = true)]
    pub database_url: DatabaseUrl,

    /// Most connections to PostgreSQL.
    #[arg(long, env = "HODEI_DATABASE_CONNECTIONS", default_value_t = 16, value_parser = clap::value_parser!(u32).range(4..=500))]
    pub database_connections: u32,

    /// Bring the schema up to date and end.
    #[arg(long)]
    pub migrate_only: bool,

    /// Look at all settings, the files they name, the database and the providers, say what is wrong, and end.
    /// Nothing is changed. Exit code 0: all is well; 1: the database or a provider is away; 2: a setting or
    /// a file is wrong.
    #[arg(long)]
    pub check: bool,

    /// Form of what --check prints on standard output.
    #[arg(long, value_enum, default_value_t = CheckFormat::Table)]
    pub check_format: CheckFormat,

    /// Where agents and clients connect by gRPC; may be repeated or a comma-separated list.
    #[arg(
        long,
        env = "HODEI_GRPC_LISTEN",
        value_delimiter = ',',
        default_value = "127.0.0.1:50051"
    )]
    pub grpc_listen: Vec<SocketAddr>,

    /// Where REST, health and metrics are served.
    #[arg(long, env = "HODEI_REST_LISTEN", default_value = "127.0.0.1:8080")]
    pub rest_listen: SocketAddr,

    /// What workers are told to connect to, as http(s)://host:port; https:// where gRPC has a
    /// certificate. A port of 0 stands for the first gRPC listener's. Default: the first gRPC listener
    /// itself.
    #[arg(long, env = "HODEI_ADVERTISED_ADDRESS")]
    pub advertised_address: Option<String>,

    /// File with the token that clients present, over gRPC and REST, as `authorization: Bearer TOKEN`:
    /// 32 to 512 characters. Without it only clients of this machine are served, and REST listens on
    /// loopback only. Agents need none: they have one-time passwords.
    #[arg(long, env = "HODEI_API_TOKEN_FILE", value_name = "FILE")]
    pub api_token_file: Option<PathBuf>,

    /// Serve clients from everywhere without a token: whoever reaches a listener may run jobs.
    #[arg(long, conflicts_with = "api_token_file")]
    pub insecure_no_auth: bool,

    /// Certificates and keys.
    #[command(flatten)]
    pub tls: TlsConfig,

    /// How often a client may ask.
    #[command(flatten)]
    pub limits: RateLimits,

    /// Times of the worker protocol.
    #[command(flatten)]
    pub timing: Timing,

    /// Logs and finished jobs.
    #[command(flatten)]
    pub logs: LogConfig,

    /// Where traces go.
    #[command(flatten)]
    pub traces: TraceConfig,

    /// Form of the log on standard error.
    #[arg(long, env = "HODEI_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// What is logged, as in RUST_LOG.
    #[arg(long, env = "HODEI_LOG", default_value = "info")]
    pub log_filter: String,

    /// Write {"grpc":[…],"rest":…} to this file, atomically, once all listeners are up.
    #[arg(long)]
    pub port_file: Option<PathBuf>,

    /// Serve a Kubernetes provider named `kubernetes`, configured by HODEI_K8S_*. 1 or 0.
    #[arg(long, env = "HODEI_K8S_ENABLED", default_value = "0", value_parser = parse_switch, action = clap::ArgAction::Set)]
    pub k8s_enabled: bool,
}

/// Where certificates and keys are, all read at the start. Both of a pair are needed; without a pair there
/// is no TLS.
#[derive(Debug, Clone, Default, Args)]
pub struct TlsConfig {
    /// PEM certificate chain for gRPC.
    #[arg(long, env = "HODEI_GRPC_TLS_CERT", requires = "grpc_tls_key")]
    pub grpc_tls_cert: Option<PathBuf>,
    /// PEM private key for gRPC.
    #[arg(long, env = "HODEI_GRPC_TLS_KEY", requires = "grpc_tls_cert")]
    pub grpc_tls_key: Option<PathBuf>,
    /// PEM file of the authorities that workers are to trust, at most 16 KiB; needed where workers are told
    /// https://. Only its certificates are handed on. Default: the self-signed certificate at the end of
    /// the gRPC certificate's chain, where there is one.
    #[arg(long, env = "HODEI_WORKER_CA_FILE", value_name = "FILE")]
    pub worker_ca_file: Option<PathBuf>,
    /// PEM certificate chain for REST.
    #[arg(long, env = "HODEI_REST_TLS_CERT", requires = "rest_tls_key")]
    pub rest_tls_cert: Option<PathBuf>,
    /// PEM private key for REST.
    #[arg(long, env = "HODEI_REST_TLS_KEY", requires = "rest_tls_cert")]
    pub rest_tls_key: Option<PathBuf>,
}

/// How often one client may ask, over gRPC and REST together. Clients are told apart by their token, or by
/// their address where they have none. Agents and health checks are not clients.
#[derive(Debug, Clone, Copy, Args)]
pub struct RateLimits {
    /// Requests that one client may make in a second, on average; 0 for as many as it likes. Beyond it REST
    /// answers 429 and gRPC RESOURCE_EXHAUSTED, both with when to try again.
    #[arg(long, env = "HODEI_REQUESTS_PER_SECOND", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub requests_per_second: u32,
    /// Requests that one client may make at once, after a rest.
    #[arg(long, env = "HODEI_REQUEST_BURST", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub request_burst: u32,
}

/// Times of the worker protocol, in seconds on the command line.
#[derive(Debug, Clone, Copy, Args)]
pub struct Timing {
    /// How often an agent sends a heartbeat, in seconds.
    #[arg(long = "heartbeat-seconds", env = "HODEI_HEARTBEAT_SECONDS", default_value = "5", value_parser = parse_seconds)]
    pub heartbeat: Duration,
    /// A worker is lost when nothing arrives for this long, in seconds.
    #[arg(long = "lease-seconds", env = "HODEI_LEASE_SECONDS", default_value = "30", value_parser = parse_seconds)]
    pub lease: Duration,
    /// How long a one-time password is good for, from the moment its worker is on a node, in seconds.
    #[arg(long = "otp-ttl-seconds", env = "HODEI_OTP_TTL_SECONDS", default_value = "300", value_parser = parse_seconds)]
    pub otp_ttl: Duration,
    /// How long a stopped command has between SIGTERM and SIGKILL, in seconds.
    #[arg(long = "cancel-grace-seconds", env = "HODEI_CANCEL_GRACE_SECONDS", default_value = "10", value_parser = parse_seconds)]
    pub cancel_grace: Duration,
    /// How often database and providers are compared with each other, in seconds.
    #[arg(long = "reconcile-seconds", env = "HODEI_RECONCILE_SECONDS", default_value = "30", value_parser = parse_seconds)]
    pub reconcile: Duration,
}

/// Form of what a check prints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    /// `{"ok": …, "findings": [{"check", "status", "detail"}, …]}`.
    Json,
    /// For a person.
    #[default]
    Table,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For a person.
    Text,
}

/// The URL of the database. It may hold a password, so it is never printed.
#[derive(Clone)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The URL itself, for the one place that connects.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for DatabaseUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DatabaseUrl(…)")
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if (0.05..=604_800.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("must be between 0.05 and 604800 seconds".to_owned())
    }
}

fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "1" | "true" | "yes" => Ok(true),
        "" | "0" | "false" | "no" => Ok(false),
        _ => Err("must be 1 or 0".to_owned()),
    }
}

impl Config {
    /// Rules that tie several settings together.
    ///
    /// # Errors
    /// All broken rules, each with its flag.
    pub fn validate(&self) -> Result<(), String> {
        let problems = self.problems();
        let texts = problems.iter().map(|(flag, problem)| format!("{flag}: {problem}"));
        let text = texts.collect::<Vec<_>>().join("; ");
        if text.is_empty() { Ok(()) } else { Err(text) }
    }

    /// The broken rules: the flag, and what is wrong with it.
    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if self.timing.lease < self.timing.heartbeat * 2 {
            let problem = "must be at least twice --heartbeat-seconds";
            problems.push(("--lease-seconds", problem.to_owned()));
        }
        if let Err(problem) = self.logs.log_store.read() {
            problems.push(("--log-store", problem));
        }
        problems.extend(self.traces.problem());
        let open = self.api_token_file.is_none() && !self.insecure_no_auth;
        if open && !self.rest_listen.ip().is_loopback() {
            let problem = format!(
                "{} can be reached from elsewhere, so clients need a token: give --api-token-file FILE, \
                 or --insecure-no-auth to do without",
                self.rest_listen
            );
            problems.push(("--rest-listen", problem));
        }
        if let Some(address) = self.advertised_address.as_deref() {
            let plain = address.starts_with("http://");
            let problem = if plain && self.tls.grpc_tls_cert.is_some() {
                // An agent would send its password in plain text before it saw that nobody reads it.
                Some(format!("{address:?} must begin with https://: gRPC is served with TLS"))
            } else if !plain && !address.starts_with("https://") {
                Some(format!("{address:?} must begin with http:// or https://"))
            } else {
                None
            };
            problems.extend(problem.map(|problem| ("--advertised-address", problem)));
        }
        problems
    }

    /// What workers are told to connect to, given where the first gRPC listener is.
    #[must_use]
    pub fn advertised(&self, first: SocketAddr) -> String {
        let scheme = if self.tls.grpc_tls_cert.is_some() { "https" } else { "http" };
        match &self.advertised_address {
            None => format!("{scheme}://{first}"),
            Some(address) => match address.strip_suffix(":0") {
                Some(host) => format!("{host}:{}", first.port()),
                None => address.clone(),
            },
        }
    }
}

#[cfg(test)]
mod outside_input;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Config {
        let base = ["hodei-server", "--database-url", "postgres://u:s3cret@h/d"];
        Config::try_parse_from(base.iter().chain(arguments)).unwrap()
    }

    #[test]
    fn listeners_are_a_list() {
        let config =
            parse(&["--grpc-listen", "127.0.0.1:1,10.0.0.1:2", "--grpc-listen", "[::1]:3"]);
        assert_eq!(config.grpc_listen.len(), 3);
    }

    #[test]
    fn the_database_url_is_never_printed() {
        assert!(!format!("{:?}", parse(&[])).contains("s3cret"));
    }

    #[test]
    fn the_advertised_address_follows_the_listener() {
        let first = "127.0.0.1:4711".parse().unwrap();
        for (given, told) in [
            (None, "http://127.0.0.1:4711"),
            (Some("http://host.docker.internal:0"), "http://host.docker.internal:4711"),
            (Some("https://hodei:50051"), "https://hodei:50051"),
        ] {
            let mut config = parse(&[]);
            config.advertised_address = given.map(str::to_owned);
            assert_eq!(config.advertised(first), told);
        }
    }

    #[test]
    fn settings_that_do_not_fit_are_refused() {
        assert!(parse(&["--lease-seconds", "1"]).validate().is_err());
        assert!(parse(&["--advertised-address", "host:1"]).validate().is_err());
        let tls = ["--grpc-tls-cert", "/cert", "--grpc-tls-key", "/key", "--advertised-address"];
        assert!(parse(&[&tls[..], &["http://h:1"]].concat()).validate().is_err());
        assert_eq!(parse(&[&tls[..], &["https://h:1"]].concat()).validate(), Ok(()));
        let secret = parse(&["--log-store", "s3://key:s3cret@bucket"]);
        assert!(!format!("{secret:?} {:?}", secret.validate().unwrap_err()).contains("s3cret"));
        assert!(parse(&[]).validate().is_ok());
    }

    #[test]
    fn rest_is_open_to_this_machine_only_unless_somebody_says_so() {
        let everywhere = ["--rest-listen", "0.0.0.0:8080"];
        let problem = parse(&everywhere).validate().unwrap_err();
        assert!(problem.contains("--api-token-file") && problem.contains("0.0.0.0:8080"));
        for more in [&["--api-token-file", "/token"][..], &["--insecure-no-auth"]] {
            assert_eq!(parse(&[&everywhere, more].concat()).validate(), Ok(()));
        }
        assert_eq!(parse(&["--rest-listen", "[::1]:8080"]).validate(), Ok(()));
        // Agents come from elsewhere; clients that do are refused one by one.
        assert_eq!(parse(&["--grpc-listen", "0.0.0.0:50051"]).validate(), Ok(()));
    }
}

//! `hodei-server --check`: whether a server with these settings could start and work. Everything that
//! can be looked at is, so that one run names every mistake; nothing is changed, and no secret is shown.

mod certificates;
mod database;
mod providers;
mod settings;

use std::{ffi::OsString, fmt, sync::Arc};

use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::{
    auth::Access,
    config::{CheckFormat, Config},
    providers::kubernetes_enabled,
    registry::ProviderFactory,
    trace,
};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    /// As it should be.
    Ok,
    /// Not asked for, or not possible after what failed before it.
    Skipped,
    /// It works, and somebody should look at it.
    Warning,
    /// What the server needs is not there now: the database, or a provider.
    Unavailable,
    /// A setting or a file is wrong.
    Wrong,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Unavailable => "unavailable",
            Self::Wrong => "wrong",
        })
    }
}

/// One check and its end.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    check: String,
    status: Status,
    detail: String,
}

impl Finding {
    fn new(check: impl Into<String>, status: Status, detail: impl fmt::Display) -> Self {
        Self { check: check.into(), status, detail: detail.to_string() }
    }
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether a server with these settings can start and work.
    ok: bool,
    findings: Vec<Finding>,
    #[serde(skip)]
    format: CheckFormat,
}

impl Report {
    /// The exit code: 0 where all is well, 1 where the database or a provider is away, 2 where a setting
    /// or a file is wrong.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.findings.iter().map(|finding| finding.status).max() {
            Some(Status::Wrong) => 2,
            Some(Status::Unavailable) => 1,
            _ => 0,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.format == CheckFormat::Json {
            let text = serde_json::to_string_pretty(self).map_err(|_| fmt::Error)?;
            return writeln!(f, "{text}");
        }
        let widest = self.findings.iter().map(|finding| finding.check.chars().count()).max();
        let width = widest.unwrap_or_default();
        for Finding { check, status, detail } in &self.findings {
            let detail = detail.replace(['\r', '\n', '\x1b'], " ");
            writeln!(f, "{check:width$}  {status:11}  {detail}")?;
        }
        Ok(())
    }
}

/// Checks the settings of these arguments (the program's name first) and of the environment, and what they
/// name. Asked for help or the version, it prints that and ends the process, as the server does.
pub async fn check(arguments: Vec<OsString>, factory: Arc<dyn ProviderFactory>) -> Report {
    let settings::Read { config, mut findings } = settings::read(arguments);
    let mut format = CheckFormat::default();
    if let Some(mut config) = config {
        config.k8s_enabled |= kubernetes_enabled();
        format = config.check_format;
        if findings.is_empty() {
            findings.push(Finding::new("settings", Status::Ok, "all are valid"));
        }
        findings.extend(look(&config, factory).await);
    }
    let ok = findings.iter().all(|finding| finding.status < Status::Unavailable);
    Report { ok, findings, format }
}

async fn look(config: &Config, factory: Arc<dyn ProviderFactory>) -> Vec<Finding> {
    let mut findings = vec![token(config)];
    if let Err(error) = EnvFilter::try_new(&config.log_filter) {
        let setting = "--log-filter (HODEI_LOG)";
        findings.push(Finding::new(setting, Status::Wrong, error));
    }
    let tls = &config.tls;
    for (name, cert, key) in [
        ("gRPC certificate", &tls.grpc_tls_cert, &tls.grpc_tls_key),
        ("REST certificate", &tls.rest_tls_cert, &tls.rest_tls_key),
    ] {
        findings.push(match (cert, key) {
            (Some(cert), Some(key)) => certificates::check(name, cert, key),
            _ => Finding::new(name, Status::Skipped, "none is set: served without TLS"),
        });
    }
    findings.push(certificates::check_authorities("worker CA", config));
    findings.push(traces(config));
    let (seen, store) = database::check(config).await;
    findings.extend(seen);
    findings.extend(providers::check(config, store.as_ref(), factory).await);
    findings
}

fn traces(config: &Config) -> Finding {
    const NAME: &str = "traces";
    match trace::check(&config.traces) {
        Ok(true) => Finding::new(NAME, Status::Ok, "are sent by OTLP; the collector is not asked"),
        Ok(false) => Finding::new(NAME, Status::Skipped, "no collector is set"),
        Err(error) => Finding::new(NAME, Status::Wrong, format_args!("{error:#}")),
    }
}

fn token(config: &Config) -> Finding {
    const NAME: &str = "API token";
    match Access::from_config(config) {
        Ok(Access::Token(_)) => Finding::new(NAME, Status::Ok, "it is well formed"),
        Ok(Access::ThisMachine) => {
            Finding::new(NAME, Status::Skipped, "none is set: clients of this machine only")
        }
        Ok(Access::Anyone) => {
            Finding::new(NAME, Status::Warning, "--insecure-no-auth: everybody may run jobs")
        }
        Err(error) => Finding::new(NAME, Status::Wrong, format_args!("{error:#}")),
    }
}

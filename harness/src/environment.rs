//! The environment: all that a case must know to run on what was brought up.
//!
//! Written by `hodei-e2e run` (for its own cases) and `hodei-e2e up` (for plain `cargo test` and
//! `cargo nextest run`), read by each case's process. It holds no state of a case.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::catalogue::Case;
use crate::cluster::KindCluster;
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::feature::{self, Feature};
use crate::paths::{Paths, write_atomically};
use crate::run_dir::RunDir;
use crate::worker_image::WorkerImage;

/// Says where the environment is, in place of the one that `up` wrote.
pub const ENVIRONMENT_ENV: &str = "HODEI_E2E_ENVIRONMENT";
/// The version of the file's layout.
const VERSION: u32 = 2;

/// A URL that may hold a password; `Debug` hides all but its host and path.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Takes the URL.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The URL with its password, to connect with.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.rsplit_once('@').map_or(self.0.as_str(), |(_, rest)| rest);
        write!(f, "…@{shown}")
    }
}

/// A Postgres server with a migrated template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresAccess {
    /// Of a role that may create databases.
    pub admin_url: SecretUrl,
    /// The database that cases are cloned from.
    pub template: String,
}

/// How pods reach the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRoute {
    /// The name pods use.
    pub hostname: String,
    /// The address behind it, as the cluster sees it.
    pub address: std::net::IpAddr,
    /// Where on the host a server has to listen to be reached so.
    pub listen: std::net::IpAddr,
}

/// The programs under test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Programs {
    /// `hodei-server`.
    pub server: PathBuf,
    /// `hodei`.
    pub cli: PathBuf,
}

/// All that a case must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Layout of this file.
    pub version: u32,
    /// The run that owns it; `None` for one that `up` left, where each test process is its own run.
    pub run: Option<RunDir>,
    /// The harness's state directory.
    pub state: PathBuf,
    /// The checkout.
    pub workspace: PathBuf,
    /// Where the cases run.
    pub cluster: KindCluster,
    /// What that cluster has beside the usual, as far as it was looked for.
    pub features: BTreeSet<Feature>,
    /// What the pods run.
    pub worker_image: WorkerImage,
    /// Where the databases are.
    pub postgres: PostgresAccess,
    /// How pods reach a case's server.
    pub host: HostRoute,
    /// What is tested.
    pub programs: Programs,
    /// Whether a case leaves its namespace and database standing.
    pub keep: Keep,
}

/// What is left standing for a person to look at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// Nothing.
    #[default]
    Nothing,
    /// What failed cases made.
    Failures,
    /// Everything.
    Everything,
}

impl Environment {
    /// The version that this harness writes.
    #[must_use]
    pub const fn current_version() -> u32 {
        VERSION
    }

    /// Refuses a case whose features are not all here.
    ///
    /// # Errors
    /// Class infrastructure: what is lacking, and what would bring it.
    pub fn require(&self, case: &Case) -> Result<()> {
        let Some(why) = feature::lacking(case, &self.features) else { return Ok(()) };
        let subject = format!("case {}", case.id);
        Err(HarnessError::new(FailureClass::Infrastructure, "run", subject, why))
    }

    /// Where `up` leaves it.
    #[must_use]
    pub fn standing_path(state: &Path) -> PathBuf {
        state.join("environment.json")
    }

    /// Writes it, readable by its owner only.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).classify(
            FailureClass::Harness,
            "encode",
            "the environment",
        )?;
        write_atomically(path, &text, 0o600)
    }

    /// The environment named by [`ENVIRONMENT_ENV`], else the one that `up` left.
    ///
    /// # Errors
    /// There is none, or it was written by another version of the harness.
    pub fn load() -> Result<Self> {
        let path = match std::env::var_os(ENVIRONMENT_ENV).filter(|value| !value.is_empty()) {
            Some(path) => PathBuf::from(path),
            None => Self::standing_path(Paths::discover()?.state()),
        };
        Self::read(&path)
    }

    /// Reads the environment at `path`.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn read(path: &Path) -> Result<Self> {
        let subject = || format!("the environment {}", path.display());
        let teach = |error: HarnessError| {
            error.with_help("bring one up with `make up`, or run the cases with `make e2e`")
        };
        let bytes = std::fs::read(path).infrastructure("read", subject()).map_err(teach)?;
        let environment: Self = serde_json::from_slice(&bytes)
            .infrastructure("understand", subject())
            .map_err(teach)?;
        if environment.version == VERSION {
            return Ok(environment);
        }
        let cause = format!("it has version {}, this harness {VERSION}", environment.version);
        Err(teach(HarnessError::new(FailureClass::Infrastructure, "use", subject(), cause)))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An environment that nothing stands behind.
    pub(crate) fn imaginary(state: &Path) -> Environment {
        Environment {
            version: VERSION,
            run: None,
            state: state.to_path_buf(),
            workspace: "/w".into(),
            cluster: KindCluster {
                name: "hodei-e2e".into(),
                kubeconfig: "/none".into(),
                context: "kind-hodei-e2e".into(),
                nodes: vec!["hodei-e2e-control-plane".into()],
            },
            features: BTreeSet::from([Feature::AuditLog]),
            worker_image: WorkerImage { reference: "w:1".into(), id: "sha256:0".into() },
            postgres: PostgresAccess {
                admin_url: SecretUrl::new("postgres://u:secret@127.0.0.1:5432/postgres"),
                template: "t".into(),
            },
            host: HostRoute {
                hostname: "host.docker.internal".into(),
                address: std::net::Ipv4Addr::new(172, 18, 0, 1).into(),
                listen: std::net::Ipv4Addr::new(172, 18, 0, 1).into(),
            },
            programs: Programs { server: "/s".into(), cli: "/c".into() },
            keep: Keep::Nothing,
        }
    }

    #[test]
    fn it_survives_the_disk_and_never_shows_its_password() {
        let dir = tempfile::tempdir().unwrap();
        let environment = imaginary(dir.path());
        let path = dir.path().join("environment.json");
        environment.save(&path).unwrap();
        assert_eq!(Environment::read(&path).unwrap(), environment);
        let shown = format!("{environment:?}");
        assert!(!shown.contains("secret") && shown.contains("127.0.0.1"), "{shown}");
    }

    #[test]
    fn without_one_it_teaches_make_up() {
        let error = Environment::read(Path::new("/none/environment.json")).unwrap_err();
        assert!(error.help.unwrap().contains("make up"));
    }
}

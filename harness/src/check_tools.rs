//! What `make test`, `make lint` and `make report-screenshot` need beside the toolchain: PostgreSQL's
//! programs, shellcheck and a browser, from the distribution's packages, recorded so that `pristine`
//! can take them back.

use std::path::Path;

use clap::ValueEnum;

use crate::engine::{Consent, install};
use crate::failure::{Classify, Result};
use crate::paths::Paths;
use crate::postgres;
use crate::privilege::Privilege;
use crate::progress::{Progress, Stage};
use crate::record::{Action, Record};

/// Where Debian's packages look whether to make and start a database cluster of their own.
const POSTGRES_SETTINGS: &str = "/etc/postgresql-common";

/// A tool that checks need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckTool {
    /// `initdb` and `postgres`, for the server's tests; no service is set up
    Postgres,
    /// `shellcheck`, for `make lint`
    Shellcheck,
    /// `chromium`, for `make report-screenshot`
    Browser,
}

/// Names under which the browser that `make report-screenshot` drives is found.
pub const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

impl CheckTool {
    fn is_there(self) -> bool {
        match self {
            Self::Postgres => postgres::local_programs_are_there(),
            Self::Shellcheck => which::which("shellcheck").is_ok(),
            Self::Browser => BROWSERS.iter().any(|name| which::which(name).is_ok()),
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql",
            Self::Shellcheck => "shellcheck",
            Self::Browser => "chromium",
        }
    }
}

/// Installs those of `wanted` that are not there.
///
/// # Errors
/// No right to install, no consent, or apt failed.
pub async fn ensure(
    paths: &Paths,
    wanted: &[CheckTool],
    consent: Consent,
    progress: &Progress,
) -> Result<()> {
    let missing: Vec<_> = wanted.iter().filter(|tool| !tool.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing.iter().map(|tool| tool.package()).collect();
    let names = packages.join(", ");
    consent.obtain(&format!("Install {names} from the distribution's packages?"), progress)?;
    progress
        .stage(format!("install {names}"), async |stage: Stage| {
            let mut record = Record::open(&paths.bootstrap_record())?;
            let privilege = Privilege::detect(&stage).await;
            if missing.contains(&&CheckTool::Postgres) {
                keep_postgres_from_starting(&mut record, privilege, &stage).await?;
            }
            install::packages(paths, &mut record, privilege, &packages, &stage).await
        })
        .await
}

/// The package would make a database cluster and start it on port 5432; only its programs are wanted.
async fn keep_postgres_from_starting(
    record: &mut Record,
    privilege: Privilege,
    stage: &Stage,
) -> Result<()> {
    let directory = Path::new(POSTGRES_SETTINGS);
    if directory.exists() {
        return Ok(());
    }
    record.begin(Action::Tree { path: directory.into(), root: true })?;
    let file = directory.join("createcluster.conf");
    let make = privilege.command("mkdir")?.arg(directory.as_os_str());
    make.run(stage).await.infrastructure("make", POSTGRES_SETTINGS)?;
    let write = privilege.command("tee")?.arg(file.as_os_str());
    write
        .stdin_bytes(b"create_main_cluster = false\n".to_vec())
        .run(stage)
        .await
        .infrastructure("write", file.display().to_string())?;
    Ok(())
}

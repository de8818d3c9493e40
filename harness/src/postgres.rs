//! Postgres for a run: a container by testcontainers, local binaries, or a server that is given;
//! a template database that the server under test migrated; a clone of it for each case.
//!
//! What is in the database is the server's own business.

mod crash;
mod held;
mod local;

pub use crash::crash;
pub use held::{HeldRows, hold_rows, open_database};
pub use local::programs_are_there as local_programs_are_there;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use testcontainers_modules::postgres::Postgres;
use testcontainers_modules::testcontainers::bollard::models::{HostConfig, PortBinding};
use testcontainers_modules::testcontainers::runners::AsyncRunner;
use testcontainers_modules::testcontainers::{ContainerAsync, ImageExt};

use crate::digest::Inputs;
use crate::engine::docker;
use crate::environment::{PostgresAccess, SecretUrl};
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::journal::{EntryId, Journal, Resource, State};
use crate::postgres_image::PostgresImage;
use crate::process::Command;
use crate::progress::{Progress, Stage};
use crate::run_dir::RUN_LABEL;

/// From the start of a container to its first answer, on a slow disk.
const STARTUP_DEADLINE: Duration = Duration::from_secs(60);
/// How long one connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Migrating an empty database.
const MIGRATE_DEADLINE: Duration = Duration::from_secs(60);

/// Where Postgres comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PostgresChoice {
    /// A container that testcontainers starts.
    #[default]
    Container,
    /// `initdb` and `postgres` of this machine.
    Local,
    /// A server that runs already, and a role that may create databases.
    Url(SecretUrl),
}

impl FromStr for PostgresChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "container" => Ok(Self::Container),
            "local" => Ok(Self::Local),
            url if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                Ok(Self::Url(SecretUrl::new(url)))
            }
            _ => Err("must be container, local, or a postgres:// URL".to_owned()),
        }
    }
}

/// A server that runs for as long as this value's owner wants it.
#[derive(Debug)]
pub struct PostgresServer {
    admin_url: SecretUrl,
    held: Held,
}

#[derive(Debug)]
enum Held {
    Container(Box<ContainerAsync<Postgres>>, EntryId),
    Local(Box<local::LocalServer>),
    Given,
}

/// What to start, for whom.
#[derive(Debug, Clone)]
pub struct PostgresOptions<'a> {
    /// Where it comes from.
    pub choice: &'a PostgresChoice,
    /// The image, for a container.
    pub image: &'a PostgresImage,
    /// Name of the container.
    pub name: String,
    /// Value of its run label.
    pub run: String,
    /// Whether a commit survives the machine; cases do without.
    pub durable: bool,
    /// Where local binaries keep their data.
    pub directory: PathBuf,
}

impl PostgresServer {
    /// Starts a server (or finds the given one) and waits until it answers.
    ///
    /// # Errors
    /// It does not start or answer; nothing is left of it then but its journal entry.
    pub async fn start(options: &PostgresOptions<'_>, journal: &Journal) -> Result<Self> {
        let server = match options.choice {
            PostgresChoice::Container => Self::start_container(options, journal).await?,
            PostgresChoice::Local => {
                let local = local::LocalServer::start(&options.directory, journal).await?;
                Self { admin_url: local.admin_url(), held: Held::Local(Box::new(local)) }
            }
            PostgresChoice::Url(url) => Self { admin_url: url.clone(), held: Held::Given },
        };
        connect(&server.admin_url).await?;
        Ok(server)
    }

    async fn start_container(options: &PostgresOptions<'_>, journal: &Journal) -> Result<Self> {
        let password = uuid::Uuid::new_v4().simple().to_string();
        let postgres = Postgres::default().with_user("hodei").with_password(&password);
        let durability = if options.durable { "fsync=on" } else { "fsync=off" };
        let request = postgres
            .with_db_name("postgres")
            .with_name(&options.image.name)
            .with_tag(&options.image.tag)
            .with_container_name(&options.name)
            .with_label(RUN_LABEL, &options.run)
            .with_startup_timeout(STARTUP_DEADLINE)
            .with_host_config_modifier(publish_on_loopback)
            .with_cmd(["postgres", "-c", durability, "-c", "max_connections=600"]);
        let subject = || format!("Postgres from {}", options.image.reference());
        let entry = journal.intend(Resource::Container { name: options.name.clone() })?;
        let started = request.start().await.infrastructure("start", subject());
        let container = started.map_err(|error| {
            error.with_help(
                "`docker logs` may say more; `--postgres local` does without a container",
            )
        })?;
        journal.mark(entry, State::Created)?;
        let host = container.get_host().await.infrastructure("find", subject())?;
        let port = container.get_host_port_ipv4(5432).await.infrastructure("find", subject())?;
        let host =
            if host.to_string() == "localhost" { "127.0.0.1".into() } else { host.to_string() };
        let admin_url =
            SecretUrl::new(format!("postgres://hodei:{password}@{host}:{port}/postgres"));
        Ok(Self { admin_url, held: Held::Container(Box::new(container), entry) })
    }

    /// How to connect as a role that may create databases.
    #[must_use]
    pub fn admin_url(&self) -> &SecretUrl {
        &self.admin_url
    }

    /// Stops what was started; a given server stays as it is.
    ///
    /// # Errors
    /// The container or process does not go.
    pub async fn stop(self, journal: &Journal) -> Result<()> {
        match self.held {
            Held::Container(container, entry) => {
                container.rm().await.infrastructure("remove", "the Postgres container")?;
                journal.mark(entry, State::Removed)
            }
            Held::Local(local) => local.stop(journal).await,
            Held::Given => Ok(()),
        }
    }

    /// Lets the server run on after this process.
    pub fn leave_running(self) {
        match self.held {
            // Dropping it would remove the container.
            Held::Container(container, _) => std::mem::forget(container),
            Held::Local(local) => local.leave_running(),
            Held::Given => {}
        }
    }
}

/// An engine of this machine offers the port to this machine only. From inside a container the engine's
/// loopback is out of reach; testcontainers then goes through the bridge, by the same sign.
fn publish_on_loopback(host: &mut HostConfig) {
    let remote = std::env::var("DOCKER_HOST").is_ok_and(|address| !address.starts_with("unix:"));
    if remote || Path::new("/.dockerenv").exists() {
        return;
    }
    let binding = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: None };
    host.publish_all_ports = Some(false);
    host.port_bindings = Some([("5432/tcp".to_owned(), Some(vec![binding]))].into());
}

/// The template database of this server binary, migrated by the binary itself if it is not there.
/// Its name holds a hash of the binary, so that it is never stale.
///
/// # Errors
/// The binary refuses or fails to migrate an empty database.
pub async fn ensure_template(
    admin_url: &SecretUrl,
    server: &Path,
    stage: &Stage,
) -> Result<PostgresAccess> {
    let digest = Inputs::new().add_path(server)?.tag();
    let template = format!("hodei_template_{digest}").to_lowercase().replace('-', "_");
    let subject = || format!("the template database {template}");
    let mut admin = connect(admin_url).await?;
    // Two processes that find no template must not both make it. The key is arbitrary.
    let lock = "SELECT pg_advisory_lock(7011100)";
    sqlx::query(lock).execute(&mut admin).await.infrastructure("lock", subject())?;
    let known =
        sqlx::query_scalar::<_, bool>("SELECT datistemplate FROM pg_database WHERE datname = $1");
    let known =
        known.bind(&template).fetch_optional(&mut admin).await.infrastructure("find", subject())?;
    if known != Some(true) {
        execute(&mut admin, &format!("DROP DATABASE IF EXISTS {template} WITH (FORCE)")).await?;
        execute(&mut admin, &format!("CREATE DATABASE {template}")).await?;
        migrate(&database_url(admin_url, &template)?, server, stage).await?;
        let seal =
            format!("ALTER DATABASE {template} WITH IS_TEMPLATE true ALLOW_CONNECTIONS false");
        execute(&mut admin, &seal).await?;
        stage.note("migrated");
    } else {
        stage.note("reused");
    }
    close(admin).await;
    Ok(PostgresAccess { admin_url: admin_url.clone(), template })
}

async fn migrate(url: &SecretUrl, server: &Path, stage: &Stage) -> Result<()> {
    Command::new(server)
        .args(["--migrate-only", "--log-format", "json"])
        .env("HODEI_DATABASE_URL", url.expose())
        .deadline(MIGRATE_DEADLINE)
        .run(stage)
        .await
        .map(drop)
        .classify(FailureClass::Product, "migrate", "an empty database")
}

/// Clones the template as `name`; returns the clone's URL.
///
/// # Errors
/// The name is taken or the server does not answer.
pub async fn create_database(access: &PostgresAccess, name: &str) -> Result<SecretUrl> {
    let mut admin = connect(&access.admin_url).await?;
    let sql = format!("CREATE DATABASE {} TEMPLATE {}", quoted(name)?, quoted(&access.template)?);
    execute(&mut admin, &sql).await?;
    close(admin).await;
    database_url(&access.admin_url, name)
}

/// Drops a database and ends its connections; one that is not there is a success.
///
/// # Errors
/// The server does not answer.
pub async fn drop_database(admin_url: &SecretUrl, name: &str) -> Result<()> {
    let mut admin = connect(admin_url).await?;
    execute(&mut admin, &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(name)?)).await?;
    close(admin).await;
    Ok(())
}

/// Whether a database exists.
///
/// # Errors
/// The server does not answer.
pub async fn database_exists(admin_url: &SecretUrl, name: &str) -> Result<bool> {
    let mut admin = connect(admin_url).await?;
    let exists = sqlx::query_scalar::<_, bool>(
        "SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)",
    );
    let exists = exists.bind(name).fetch_one(&mut admin).await.infrastructure("find", name)?;
    close(admin).await;
    Ok(exists)
}

/// The rows of a query as text, column by column, for evidence and assertions.
///
/// # Errors
/// The query is wrong or the server does not answer.
pub async fn rows(url: &SecretUrl, sql: &str) -> Result<Vec<serde_json::Value>> {
    let mut connection = connect(url).await?;
    let wrapped = format!("SELECT to_jsonb(q) FROM ({sql}) q");
    let rows = sqlx::query_scalar::<_, serde_json::Value>(AssertSqlSafe(wrapped))
        .fetch_all(&mut connection)
        .await
        .infrastructure("query", format!("{sql:?}"))?;
    close(connection).await;
    Ok(rows)
}

/// Removes a container if it carries the run's label; one that is not there is a success.
///
/// # Errors
/// The engine does not answer, or the container is another's.
pub async fn remove_container(name: &str, run: &str) -> Result<()> {
    let stage = Progress::silent().unlisted();
    let format = format!("{{{{index .Config.Labels {RUN_LABEL:?}}}}}");
    let inspect = docker(["container", "inspect", "--format", &format, name]).run(&stage).await;
    match inspect {
        Ok(output) if output.stdout.trim() == run => {
            let remove = docker(["rm", "--force", "--volumes", name]).run(&stage).await;
            remove.map(drop).infrastructure("remove", format!("container {name}"))
        }
        Ok(output) => {
            let cause = format!("its {RUN_LABEL} is {:?}, not {run}", output.stdout.trim());
            Err(HarnessError::new(
                FailureClass::Harness,
                "remove",
                format!("container {name}"),
                cause,
            ))
        }
        Err(error) if error.tail().to_lowercase().contains("no such container") => Ok(()),
        Err(error) => Err(error).infrastructure("inspect", format!("container {name}")),
    }
}

async fn connect(url: &SecretUrl) -> Result<PgConnection> {
    let subject = || format!("Postgres at {url:?}");
    let options =
        PgConnectOptions::from_str(url.expose()).infrastructure("understand", subject())?;
    let options = options.disable_statement_logging();
    let connected = tokio::time::timeout(CONNECT_DEADLINE, options.connect()).await;
    connected.infrastructure("connect to", subject())?.infrastructure("connect to", subject())
}

async fn close(connection: PgConnection) {
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "the connection was gone already");
    }
}

async fn execute(connection: &mut PgConnection, sql: &str) -> Result<()> {
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await;
    done.map(drop).infrastructure("execute", format!("{sql:?}"))
}

fn quoted(name: &str) -> Result<String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if (1..=63).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(format!("\"{name}\""));
    }
    let cause = "not 1 to 63 characters of a-z, 0-9 and _";
    Err(HarnessError::new(FailureClass::Harness, "use", format!("database name {name:?}"), cause))
}

/// The URL of another database on the same server.
fn database_url(url: &SecretUrl, database: &str) -> Result<SecretUrl> {
    let mut parsed = reqwest::Url::parse(url.expose())
        .infrastructure("understand", format!("Postgres at {url:?}"))?;
    parsed.set_path(database);
    Ok(SecretUrl::new(parsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_understood_or_refused_with_the_forms() {
        assert_eq!("local".parse(), Ok(PostgresChoice::Local));
        assert!(matches!("postgres://a@b/c".parse(), Ok(PostgresChoice::Url(_))));
        assert!("mysql://a".parse::<PostgresChoice>().unwrap_err().contains("postgres://"));
    }

    #[test]
    fn another_database_keeps_host_and_password() {
        let url = SecretUrl::new("postgres://u:p@h:1/postgres?sslmode=disable");
        let other = database_url(&url, "case_1").unwrap();
        assert_eq!(other.expose(), "postgres://u:p@h:1/case_1?sslmode=disable");
        assert!(quoted("a\"; DROP").is_err());
    }
}

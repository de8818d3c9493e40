//! One PostgreSQL for the test binary, one database for each test.
//!
//! It is the server of HODEI_TEST_DATABASE_URL (whose user may create databases), else one started from
//! local binaries (PATH, then /usr/lib/postgresql/*/bin) in a temporary directory. With neither, a test
//! fails and says so.

use std::{
    ffi::OsStr,
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::sync::OnceCell;

use super::await_some;
use crate::store::{MIGRATIONS, Store};

/// Who runs PostgreSQL where the tests are run by root, which it refuses: nobody.
const NOBODY: u32 = 65534;
const TEMPLATE: &str = "hodei_template";

/// Ends PostgreSQL and removes its directory when the test process, which holds its standard input, ends.
const WATCHDOG: &str = r#"
"$1" -D "$2/data" -k "$2" -c listen_addresses= -c fsync=off -c max_connections=400 >"$2/log" 2>&1 &
cat >/dev/null
kill -INT $!
wait
rm -rf "$2"
"#;

struct Cluster {
    /// The URL without a database name and what follows it.
    base: String,
    query: String,
    own: bool,
    /// Its standard input keeps PostgreSQL alive.
    _watchdog: Option<Child>,
}

impl Cluster {
    fn url(&self, database: &str) -> String {
        format!("{}/{database}{}", self.base, self.query)
    }

    async fn admin(&self) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect(&self.url("postgres")).await
    }
}

/// A database of its own, removed at the end.
pub(super) struct TestDatabase {
    pub(super) url: String,
    /// What is dropped at the end; `None` for a share of another's database.
    name: Option<String>,
    admin_url: String,
}

/// A database with today's schema.
pub(super) async fn create_database() -> TestDatabase {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    let cluster = CLUSTER.get_or_init(start).await;
    let name = format!("hodei_test_{}", uuid::Uuid::new_v4().simple());
    let mut admin = cluster.admin().await.unwrap();
    let template = if cluster.own { format!(" TEMPLATE {TEMPLATE}") } else { String::new() };
    let create = format!("CREATE DATABASE {name}{template}");
    admin.execute(AssertSqlSafe(create)).await.unwrap();
    let url = cluster.url(&name);
    if !cluster.own {
        Store::connect(&url, 2).await.unwrap().migrate().await.unwrap();
    }
    TestDatabase { url, name: Some(name), admin_url: cluster.url("postgres") }
}

impl TestDatabase {
    /// The same database for a second user, who must be gone before the first.
    pub(super) fn share(&self) -> Self {
        Self { url: self.url.clone(), name: None, admin_url: self.admin_url.clone() }
    }

    pub(super) async fn store(&self) -> Store {
        Store::connect(&self.url, 20).await.unwrap()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (url, Some(name)) = (self.admin_url.clone(), self.name.take()) else { return };
        let drop = async move {
            let mut admin = PgConnection::connect(&url).await?;
            admin.execute(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).await
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let dropping = std::thread::spawn(move || runtime.map(|runtime| runtime.block_on(drop)));
        let _ = dropping.join();
    }
}

async fn start() -> Cluster {
    if let Ok(url) = std::env::var("HODEI_TEST_DATABASE_URL") {
        let (url, query) =
            url.split_once('?').map_or((&*url, String::new()), |(u, q)| (u, format!("?{q}")));
        let base = match url.splitn(4, '/').collect::<Vec<_>>()[..] {
            [scheme, "", host, ..] => format!("{scheme}//{host}"),
            _ => panic!("HODEI_TEST_DATABASE_URL is not a URL"),
        };
        return Cluster { base, query, own: false, _watchdog: None };
    }
    let cluster = start_local(&binaries());
    let connect = async || cluster.admin().await.map_err(|error| error.to_string());
    let mut admin = await_some("PostgreSQL to answer", connect).await;
    admin.execute(AssertSqlSafe(format!("CREATE DATABASE {TEMPLATE}"))).await.unwrap();
    let mut template = PgConnection::connect(&cluster.url(TEMPLATE)).await.unwrap();
    MIGRATIONS.run(&mut template).await.unwrap();
    template.close().await.unwrap();
    cluster
}

/// Directory of `initdb` and `postgres`: of PATH, or Debian's newest.
fn binaries() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).find(|dir| dir.join("initdb").exists());
    let debian = || {
        let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
        let version = |dir: &PathBuf| dir.file_name().and_then(OsStr::to_str)?.parse::<u32>().ok();
        let newest = versions.map(|entry| entry.path()).max_by_key(version)?;
        Some(newest.join("bin")).filter(|bin| bin.join("initdb").exists())
    };
    in_path.or_else(debian).expect(
        "these tests need PostgreSQL: install it (Debian: apt-get install postgresql) \
         or set HODEI_TEST_DATABASE_URL",
    )
}

fn start_local(bin: &Path) -> Cluster {
    let dir = std::env::temp_dir().join(format!("hodei-pg-{}", uuid::Uuid::new_v4().simple()));
    fs::create_dir(&dir).unwrap();
    let root = nix::unistd::Uid::effective().is_root();
    if root {
        std::os::unix::fs::chown(&dir, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let command = |program: &OsStr| {
        let mut command = Command::new(program);
        command.current_dir(&dir).env("LC_ALL", "C.UTF-8");
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    };
    let initdb = command(bin.join("initdb").as_os_str())
        .args(["--username=hodei", "--auth=trust", "--no-sync", "--encoding=UTF8", "--pgdata"])
        .arg(dir.join("data"))
        .output()
        .unwrap();
    assert!(initdb.status.success(), "initdb: {}", String::from_utf8_lossy(&initdb.stderr));
    // In a group of its own: Ctrl-C is for the tests, the watchdog clears up after them.
    let watchdog = command(OsStr::new("/bin/sh"))
        .args(["-c", WATCHDOG, "watchdog"])
        .args([bin.join("postgres").as_os_str(), dir.as_os_str()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let query = format!("?user=hodei&host={}", dir.display());
    Cluster { base: "postgres://".to_owned(), query, own: true, _watchdog: Some(watchdog) }
}

//! The checks themselves. Each says what it found, what is needed and what mends it.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use super::host::{self, CgroupVersion};
use super::{Check, Status};
use crate::engine::{Engine, oci};
use crate::failure::Result;
use crate::node_image::registry_answers;
use crate::paths::Paths;
use crate::privilege::Privilege;
use crate::process::Command;
use crate::progress::Stage;
use crate::tools;
use crate::versions::Versions;

/// Go caches, components and roots of a cold build from packages.
const CACHE_MIB: u64 = 10 * 1024;
/// Images and the node's own storage.
const ENGINE_MIB: u64 = 8 * 1024;
/// A node (1 GiB), Postgres, servers and the compiler beside them.
const MEMORY_MIB: u64 = 3 * 1024;
/// Kubelet, containerd and systemd watch many files; Kind's own advice is 512.
const INOTIFY_INSTANCES: u64 = 128;
const INOTIFY_WATCHES: u64 = 65_536;

/// What takes no time to see.
pub(super) fn quick(paths: &Paths) -> Vec<Check> {
    vec![
        cgroup(host::cgroup_version()),
        overlay(),
        disk("disk-cache", paths.cache(), CACHE_MIB),
        memory(host::memory_available_mib()),
        program("go", "Go 1.24 or newer", "install a Go toolchain and put it in PATH"),
        program("cargo", "a Rust toolchain", "install Rust (rustup) and put cargo in PATH"),
    ]
}

/// Everything.
pub(super) async fn all(paths: &Paths, stage: &Stage) -> Result<Vec<Check>> {
    let versions = Versions::load()?;
    let engine = Engine::connect(stage).await.map_err(|error| error.to_string());
    let privilege = Privilege::detect(stage).await;
    let root = engine.as_ref().map_or("/var/lib/docker", |engine| engine.data_root.as_str());
    let mut checks = vec![
        engine_check(engine.as_ref().map_err(String::as_str), privilege),
        privilege_check(privilege),
        capability(host::bounding_set()),
    ];
    checks.extend(quick(paths));
    checks.push(disk("disk-engine", Path::new(root), ENGINE_MIB));
    checks.push(limit("inotify-instances", "fs.inotify.max_user_instances", INOTIFY_INSTANCES));
    checks.push(limit("inotify-watches", "fs.inotify.max_user_watches", INOTIFY_WATCHES));
    checks.push(port("port-grpc", 50051));
    checks.push(port("port-rest", 8080));
    let kind = tools::find_kind(paths, &versions, stage).await.map(|found| found.version);
    checks.push(tool("kind", &versions.kind, kind));
    let nextest = tools::find_nextest(paths, &versions, stage).await.map(|found| found.version);
    checks.push(tool("cargo-nextest", &versions.nextest, nextest));
    checks.push(kubectl(stage).await);
    checks.extend(sources(&versions, privilege, stage).await);
    Ok(checks)
}

fn engine_check(engine: Result<&Engine, &str>, privilege: Privilege) -> Check {
    let needed = "a container engine that answers `docker info`";
    let installable = privilege != Privilege::None && which::which("apt-get").is_ok();
    match engine {
        Ok(engine) => {
            let found = format!(
                "docker {} in {} (runtime {})",
                engine.version, engine.data_root, engine.default_runtime
            );
            Check::new("engine", needed, Status::Ok, found)
        }
        Err(reason) => {
            let status = if installable { Status::Missing } else { Status::Fail };
            let last = reason.lines().find_map(|line| line.trim().strip_prefix("| "));
            let check = Check::new("engine", needed, status, last.unwrap_or(reason));
            check.fix(if installable {
                "`hodei-e2e up` installs docker.io and starts it"
            } else {
                "install and start Docker: this user may not (not root, or no apt-get)"
            })
        }
    }
}

fn privilege_check(privilege: Privilege) -> Check {
    let (status, found) = match privilege {
        Privilege::Root => (Status::Ok, "root"),
        Privilege::Sudo => (Status::Ok, "sudo without a password"),
        Privilege::None => (Status::Warn, "neither"),
    };
    Check::new("privilege", "root or sudo, to install what is missing", status, found)
        .fix("nothing can be installed; all that is needed must be there")
}

fn capability(bounding_set: Option<u64>) -> Check {
    let needed = "CAP_SYS_RESOURCE in the bounding set";
    match bounding_set {
        Some(mask) if oci::is_missing_from(mask) => {
            Check::new("capabilities", needed, Status::Warn, format!("absent ({mask:016x})"))
                .fix("the engine that `hodei-e2e up` starts gets a runtime wrapper for this")
        }
        Some(mask) => Check::new("capabilities", needed, Status::Ok, format!("{mask:016x}")),
        None => Check::new("capabilities", needed, Status::Warn, "unknown")
            .fix("/proc/self/status could not be read"),
    }
}

fn cgroup(version: Option<CgroupVersion>) -> Check {
    let needed = "cgroup v2, or v1";
    match version {
        Some(CgroupVersion::V2) => Check::new("cgroup", needed, Status::Ok, "v2"),
        Some(CgroupVersion::V1) => Check::new("cgroup", needed, Status::Warn, "v1")
            .fix("the kubelet is told to bear with it; Kubernetes is about to drop it"),
        None => Check::new("cgroup", needed, Status::Fail, "none mounted")
            .fix("mount a cgroup hierarchy at /sys/fs/cgroup (package cgroupfs-mount for v1)"),
    }
}

fn overlay() -> Check {
    let needed = "the overlay file system";
    if host::has_filesystem("overlay") {
        Check::new("kernel-overlay", needed, Status::Ok, "there")
    } else {
        Check::new("kernel-overlay", needed, Status::Warn, "not loaded").fix("modprobe overlay")
    }
}

fn disk(id: &str, path: &Path, needed_mib: u64) -> Check {
    let gib = |mib: u64| format!("{:.1} GiB", mib as f64 / 1024.0);
    let needed = format!("{} free for {}", gib(needed_mib), path.display());
    // A build that is done needs far less than one that is to come.
    match host::disk_free_mib(path) {
        Some(free) if free >= needed_mib => Check::new(id, needed, Status::Ok, gib(free)),
        Some(free) if free >= needed_mib / 5 => Check::new(id, needed, Status::Warn, gib(free))
            .fix("enough if all is built already, too little for a cold build"),
        Some(free) => Check::new(id, needed, Status::Fail, gib(free))
            .fix(format!("free space on the file system of {}", path.display())),
        None => Check::new(id, needed, Status::Warn, "unknown").fix("see `df`"),
    }
}

fn memory(available_mib: Option<u64>) -> Check {
    let needed = format!("{MEMORY_MIB} MiB available");
    match available_mib {
        Some(mib) if mib >= MEMORY_MIB => {
            Check::new("memory", needed, Status::Ok, format!("{mib} MiB"))
        }
        Some(mib) => Check::new("memory", needed, Status::Warn, format!("{mib} MiB"))
            .fix("close something, or run fewer cases at once"),
        None => Check::new("memory", needed, Status::Warn, "unknown").fix("see `free`"),
    }
}

fn limit(id: &str, name: &str, needed: u64) -> Check {
    let wanted = format!("{name} ≥ {needed}");
    match host::sysctl(name) {
        Some(value) if value >= needed => Check::new(id, wanted, Status::Ok, value.to_string()),
        Some(value) => Check::new(id, wanted, Status::Warn, value.to_string())
            .fix(format!("sysctl {name}={}", needed * 4)),
        None => Check::new(id, wanted, Status::Warn, "unknown").fix(format!("sysctl {name}")),
    }
}

fn port(id: &str, number: u16) -> Check {
    let needed = format!("{number} free on loopback for `make up` (cases choose their own)");
    match TcpListener::bind(("127.0.0.1", number)) {
        Ok(_) => Check::new(id, needed, Status::Ok, "free"),
        Err(error) => Check::new(id, needed, Status::Warn, error.to_string())
            .fix(format!("see who listens: ss -ltnp 'sport = :{number}'")),
    }
}

fn program(name: &str, needed: &str, fix: &str) -> Check {
    match which::which(name) {
        Ok(path) => Check::new(name, needed, Status::Ok, path.display().to_string()),
        Err(_) => Check::new(name, needed, Status::Fail, "not in PATH").fix(fix),
    }
}

fn tool(name: &str, wanted: &str, found: Option<String>) -> Check {
    match found {
        Some(version) => Check::new(name, wanted, Status::Ok, version),
        None => Check::new(name, wanted, Status::Missing, "no such version")
            .fix("`hodei-e2e up` installs it into its own cache"),
    }
}

async fn kubectl(stage: &Stage) -> Check {
    let needed = "optional, for looking around";
    let version = Command::new("kubectl").args(["version", "--client"]).run(stage).await;
    match version {
        Ok(output) => {
            let line = output.stdout.lines().next().unwrap_or_default().to_owned();
            Check::new("kubectl", needed, Status::Ok, line)
        }
        Err(_) => Check::new("kubectl", needed, Status::Warn, "not in PATH")
            .fix("not needed; `docker exec NODE kubectl …` works too"),
    }
}

/// Where node image and Postgres come from: one answer for both, as both are images.
async fn sources(versions: &Versions, privilege: Privilege, stage: &Stage) -> Vec<Check> {
    let registry = registry_answers(&versions.published_worker_base, stage).await;
    let packages = which::which("mmdebstrap").is_ok()
        || (privilege != Privilege::None && which::which("apt-get").is_ok());
    let (status, found) = match (registry, packages) {
        (true, _) => (Status::Ok, "a container registry answers"),
        (false, true) => (Status::Ok, "no container registry: built from packages"),
        (false, false) => (Status::Fail, "no container registry, and nothing to build with"),
    };
    let fix = "let this machine reach a container registry, or install mmdebstrap";
    let check = |id, needed: String| Check::new(id, needed, status, found).fix(fix);
    let local = match Command::new("pg_ctl")
        .arg("--version")
        .deadline(Duration::from_secs(5))
        .run(stage)
        .await
    {
        Ok(output) => format!("; local binaries: {}", output.stdout.trim()),
        Err(_) => String::new(),
    };
    let mut postgres = check("postgres-source", "an image of Postgres".into());
    postgres.found.push_str(&local);
    vec![check("node-image-source", "an image of a Kubernetes node".into()), postgres]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_up_cannot_mend_fails() {
        let engine =
            Engine { version: "28".into(), data_root: "/d".into(), default_runtime: "runc".into() };
        assert_eq!(engine_check(Ok(&engine), Privilege::None).status, Status::Ok);
        let gone = engine_check(Err("ended\n  | Cannot connect"), Privilege::None);
        assert_eq!((gone.status, gone.found.as_str()), (Status::Fail, "Cannot connect"));
        assert!(!gone.fix.is_empty());
        assert_eq!(cgroup(None).status, Status::Fail);
        assert_eq!(cgroup(Some(CgroupVersion::V1)).status, Status::Warn);
        assert_eq!(tool("kind", "v1", None).status, Status::Missing);
    }

    #[test]
    fn amounts_are_compared_with_what_is_needed() {
        assert_eq!(memory(Some(MEMORY_MIB)).status, Status::Ok);
        assert_eq!(memory(Some(1)).status, Status::Warn);
        assert_eq!(disk("d", Path::new("/"), 0).status, Status::Ok);
        assert_eq!(disk("d", Path::new("/"), u64::MAX).status, Status::Fail);
        assert_eq!(capability(Some(u64::MAX)).status, Status::Ok);
        assert_eq!(capability(Some(0)).status, Status::Warn);
    }

    #[test]
    fn a_port_in_use_is_seen() {
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let number = taken.local_addr().unwrap().port();
        assert_eq!(port("p", number).status, Status::Warn);
    }
}

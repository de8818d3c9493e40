//! Undoing the bootstrap: by its own record, last things first, and nothing else.

use std::path::Path;
use std::time::Duration;

use crate::cluster;
use crate::engine::{Engine, daemon, docker};
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::lock::Lock;
use crate::paths::{self, Paths};
use crate::privilege::Privilege;
use crate::progress::{Progress, Stage};
use crate::record::{Action, Record};
use crate::takedown;

/// Purging packages, removing gigabytes.
const UNDO_DEADLINE: Duration = Duration::from_secs(600);
/// What lies in the state directory beside records, marks and logs.
const STATE_FILES: [&str; 5] = ["dockerd.pid", "bin", "runs", "selftest", "stack"];

/// Takes back all that the record names. What fails is reported at the end and stays recorded;
/// the rest is undone all the same.
///
/// # Errors
/// Something could not be undone, or a signal came.
pub async fn pristine(paths: &Paths, progress: &Progress) -> Result<Vec<String>> {
    takedown::stack_and_runs(paths, progress).await?;
    let _lock = Lock::acquire(paths, progress, &progress.unlisted()).await?;
    let mut record = Record::open(&paths.bootstrap_record())?;
    let mut undone = Vec::new();
    let mut failed = Vec::new();
    let privilege = Privilege::detect(&progress.unlisted()).await;
    // Images and clusters are in the engine; one that does not run has to be reached by `up`
    // first, unless the engine itself goes, and everything in it.
    let engine_runs = Engine::connect(&progress.unlisted()).await.is_ok();
    for action in record.undo_plan() {
        let name = describe(&action);
        let in_engine = matches!(action, Action::Cluster { .. } | Action::Image { .. });
        if in_engine && !engine_runs && goes_with_engine(&record) {
            record.forget(&action)?;
            continue;
        }
        if matches!(action, Action::Daemon { .. }) && engine_runs {
            keep_strangers(&progress.unlisted()).await?;
        }
        let outcome = progress
            .stage(&name, async |stage| undo(paths, &action, privilege, &mut record, &stage).await)
            .await;
        match outcome {
            Ok(()) => {
                record.forget(&action)?;
                undone.push(name);
            }
            Err(error) if error.is_interrupted() => return Err(error),
            Err(error) => failed.push(format!("{name}: {}", error.source)),
        }
    }
    if !failed.is_empty() {
        let class = FailureClass::Infrastructure;
        return Err(HarnessError::new(class, "undo", "all of the bootstrap", failed.join("\n"))
            .with_help("mend what is named and run `hodei-e2e pristine` again"));
    }
    clear_state(paths)?;
    Ok(undone)
}

/// Containers that this tool did not make would go with the engine that it brought.
///
/// # Errors
/// There are some; the engine is then left as it is.
async fn keep_strangers(stage: &Stage) -> Result<()> {
    let format = "{{.Names}}|{{.Label \"org.testcontainers.managed-by\"}}";
    let list = docker(["ps", "--all", "--format", format]).run(stage).await;
    let output = list.infrastructure("list", "the engine's containers")?;
    let strangers = strangers(&output.stdout);
    if strangers.is_empty() {
        return Ok(());
    }
    let class = FailureClass::Infrastructure;
    let cause = format!("it has containers of others: {}", strangers.join(", "));
    Err(HarnessError::new(class, "remove", "the container engine", cause)
        .with_help("remove them (docker rm --force NAME) and run `hodei-e2e pristine` again"))
}

fn strangers(listing: &str) -> Vec<String> {
    let fields = listing.lines().filter_map(|line| line.split_once('|'));
    fields.filter(|(_, managed)| managed.is_empty()).map(|(name, _)| name.to_owned()).collect()
}

fn goes_with_engine(record: &Record) -> bool {
    let root = Path::new("/var/lib/docker");
    record
        .entries()
        .iter()
        .any(|entry| matches!(&entry.action, Action::Tree { path, .. } if path == root))
}

async fn undo(
    paths: &Paths,
    action: &Action,
    privilege: Privilege,
    record: &mut Record,
    stage: &Stage,
) -> Result<()> {
    match action {
        Action::Cluster { name } => {
            let own = paths.tools_bin().join("kind");
            let kind = if own.exists() { own } else { "kind".into() };
            cluster::delete(paths, &kind, name, record, stage).await
        }
        Action::Image { reference } => {
            let remove = docker(["image", "rm", "--force", reference]).deadline(UNDO_DEADLINE);
            remove.run(stage).await.infrastructure("remove", reference).map(drop)
        }
        Action::Daemon { pid: Some(pid), start_time: Some(start), .. } => {
            daemon::stop(*pid, *start, privilege, stage).await
        }
        Action::Daemon { pid_file, .. } => daemon::stop_recorded(pid_file, privilege, stage).await,
        Action::AptPackages { names } => purge(paths, names, privilege, stage).await,
        Action::Tree { path, root } => remove_tree(path, *root, privilege, stage).await,
    }
}

async fn purge(paths: &Paths, names: &[String], privilege: Privilege, stage: &Stage) -> Result<()> {
    let purge = privilege
        .command("env")?
        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "purge", "--yes"])
        .args(names)
        .deadline(UNDO_DEADLINE)
        .log_to(paths.log("apt"));
    purge.run(stage).await.infrastructure("purge", names.join(" ")).map(drop)
}

async fn remove_tree(path: &Path, root: bool, privilege: Privilege, stage: &Stage) -> Result<()> {
    if path.parent().is_none() || !path.is_absolute() {
        let cause = "the record names a path that is not below the root";
        return Err(HarnessError::new(
            FailureClass::Harness,
            "remove",
            path.display().to_string(),
            cause,
        ));
    }
    let runner = if root { privilege } else { Privilege::Root };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // dockerd mounts its directory onto itself, and leaves that behind when it is killed.
    for mount in mounts_within(&mounts, path) {
        let unmount = runner.command("umount")?.arg(&mount).run(stage).await;
        unmount.infrastructure("unmount", mount)?;
    }
    let remove = runner.command("rm")?.args(["-rf", "--one-file-system", "--"]).arg(path);
    let removed = remove.deadline(UNDO_DEADLINE).run(stage).await;
    removed.infrastructure("remove", path.display().to_string()).map(drop)
}

/// The mount points at or below a path, the deepest first, from /proc/PID/mountinfo (proc(5)).
fn mounts_within(mountinfo: &str, path: &Path) -> Vec<String> {
    let points = mountinfo.lines().filter_map(|line| line.split_whitespace().nth(4));
    let mut within: Vec<_> =
        points.filter(|point| Path::new(point).starts_with(path)).map(str::to_owned).collect();
    within.sort();
    within.reverse();
    within
}

fn clear_state(paths: &Paths) -> Result<()> {
    for name in STATE_FILES {
        let path = paths.state().join(name);
        if path.is_dir() { paths::remove_tree(&path)? } else { paths::remove_file(&path)? }
    }
    Ok(())
}

fn describe(action: &Action) -> String {
    match action {
        Action::Cluster { name } => format!("delete cluster {name}"),
        Action::Image { reference } => format!("remove image {reference}"),
        Action::Daemon { .. } => "stop the engine".into(),
        Action::AptPackages { names } => format!("purge {} packages", names.len()),
        Action::Tree { path, .. } => format!("remove {}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_container_is_a_stranger() {
        assert_eq!(strangers("mine|\npg|testcontainers\n"), ["mine"]);
        assert!(strangers("").is_empty());
    }

    #[test]
    fn mounts_are_found_deepest_first() {
        let mountinfo = "22 1 254:0 / / rw - ext4 /dev/vda rw\n\
            36 22 254:0 /var/lib/docker /var/lib/docker rw - ext4 /dev/vda rw\n\
            37 36 0:40 / /var/lib/docker/overlay2/x rw - overlay overlay rw\n\
            38 22 0:41 / /var/lib/docker2 rw - tmpfs tmpfs rw\n";
        let found = mounts_within(mountinfo, Path::new("/var/lib/docker"));
        assert_eq!(found, ["/var/lib/docker/overlay2/x", "/var/lib/docker"]);
    }

    #[tokio::test]
    async fn trees_go_and_the_root_never_does() {
        let dir = tempfile::tempdir().unwrap();
        let stage = Progress::silent().unlisted();
        let tree = dir.path().join("cache");
        std::fs::create_dir_all(tree.join("deep")).unwrap();
        remove_tree(&tree, false, Privilege::None, &stage).await.unwrap();
        assert!(!tree.exists());
        for bad in ["/", "relative"] {
            let error = remove_tree(Path::new(bad), false, Privilege::None, &stage).await;
            assert_eq!(error.unwrap_err().class, FailureClass::Harness, "{bad}");
        }
    }
}

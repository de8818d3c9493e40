//! What a run ran on, so that reports can be compared and put together.

use std::path::Path;

use super::RunRequest;
use crate::bootstrap::Bootstrapped;
use crate::cluster::ready;
use crate::digest::Inputs as Digest;
use crate::environment::Environment;
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::paths::Paths;
use crate::postgres::PostgresChoice;
use crate::process::Command;
use crate::progress::Progress;
use crate::report::Fingerprint;
use crate::resume::{COMMIT, Inputs};
use crate::versions::Versions;

/// Of a run of `commit`; `up` is what it had.
pub(super) async fn fingerprint(commit: &str, up: Option<&Bootstrapped>) -> Fingerprint {
    let (host, commit) = (host(), commit.to_owned());
    let Some(up) = up else { return Fingerprint { host, commit, ..Default::default() } };
    let mut kubernetes = "unknown".to_owned();
    if let Ok(client) = ready::client(&up.cluster).await
        && let Ok(version) = client.apiserver_version().await
    {
        kubernetes = version.git_version;
    }
    Fingerprint {
        commit,
        cluster: up.cluster.name.clone(),
        kubernetes,
        nodes: up.cluster.nodes.len(),
        worker_image: format!("{} {}", up.worker_image.reference, up.worker_image.id),
        host,
    }
}

/// What outcomes depend on, as far as it is known before anything is brought up.
///
/// # Errors
/// What was written down of the cluster cannot be read.
pub async fn known_inputs(paths: &Paths, request: &RunRequest) -> Result<Inputs> {
    let kubernetes = request.bootstrap.wanted_kubernetes(paths, &Versions::load()?)?;
    Ok(Inputs::default()
        .with(COMMIT, commit(paths.workspace()).await.unwrap_or_default())
        .with("host", host())
        .with("cluster", &request.bootstrap.cluster_name)
        .with("kubernetes", kubernetes.release.minor())
        .with("nodes", request.bootstrap.wanted_nodes(paths)?.to_string()))
}

/// All that outcomes depend on, once it has been brought up and built.
pub(super) async fn inputs(
    known: &Inputs,
    request: &RunRequest,
    up: &Bootstrapped,
    environment: &Environment,
) -> Result<Inputs> {
    let postgres = match &request.postgres {
        PostgresChoice::Container => up.postgres_image.reference(),
        PostgresChoice::Local => "programs of this machine".to_owned(),
        PostgresChoice::Url(url) => format!("{url:?}"),
    };
    let programs = environment.programs.clone();
    let features: Vec<_> = environment.features.iter().map(|feature| feature.as_str()).collect();
    let digests = tokio::task::spawn_blocking(move || {
        let digest = |path: &Path| Digest::new().add_path(path).map(|digest| digest.tag());
        Ok::<_, HarnessError>((digest(&programs.server)?, digest(&programs.cli)?))
    });
    let (server, cli) = digests.await.classify(FailureClass::Harness, "read", "the programs")??;
    let image = &up.worker_image;
    Ok(known
        .clone()
        .with("cluster", &up.cluster.name)
        .with("nodes", up.cluster.nodes.len().to_string())
        .with("node image", &up.node_image.reference)
        .with("features", features.join(", "))
        .with("worker image", format!("{} {}", image.reference, image.id))
        .with("postgres", postgres)
        .with("server", server)
        .with("hodei", cli))
}

fn host() -> String {
    format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)
}

/// The commit of a checkout, and a digest of what differs from it; `None` outside of one.
pub(crate) async fn commit(workspace: &Path) -> Option<String> {
    // A signal that ended the run must not end this.
    let stage = Progress::silent().unlisted();
    let git = async |args: &[&str]| {
        let command = Command::new("git").args(args).directory(workspace);
        command.run(&stage).await.ok().map(|output| output.stdout)
    };
    let head = git(&["rev-parse", "HEAD"]).await?.trim().to_owned();
    let changes = git(&["status", "--porcelain", "--untracked-files=all"]).await?;
    if changes.is_empty() {
        return Some(head);
    }
    let difference = git(&["diff", "--binary", "HEAD"]).await?;
    let mut digest = Digest::new().add("changes", changes).add("difference", difference);
    // Of a file that git does not know, the difference says nothing.
    let unknown = git(&["ls-files", "--others", "--exclude-standard", "-z"]).await?;
    for name in unknown.split_terminator('\0') {
        let path = workspace.join(name);
        // A pipe would be waited for without end, and a link may lead anywhere.
        if path.symlink_metadata().is_ok_and(|about| about.is_file()) {
            digest = digest.add(name, std::fs::read(path).unwrap_or_default());
        }
    }
    let digest = digest.tag();
    Some(format!("{head}+{digest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn git(dir: &Path, args: &[&str]) {
        let who = ["-c", "user.name=t", "-c", "user.email=t@example.org"];
        let command = Command::new("git").args(who).args(args).directory(dir);
        command.run(&Progress::silent().unlisted()).await.unwrap();
    }

    #[tokio::test]
    async fn a_changed_checkout_is_not_its_commit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        assert_eq!(commit(path).await, None);
        git(path, &["init", "--quiet"]).await;
        std::fs::write(path.join("a"), "one").unwrap();
        git(path, &["add", "a"]).await;
        git(path, &["commit", "--quiet", "--message", "a"]).await;
        let clean = commit(path).await.unwrap();
        assert_eq!(clean.len(), 40, "{clean}");
        let mut seen = vec![clean.clone()];
        for content in ["two", "three"] {
            std::fs::write(path.join("a"), content).unwrap();
            seen.push(commit(path).await.unwrap());
        }
        for content in ["new", "newer"] {
            std::fs::write(path.join("b"), content).unwrap();
            seen.push(commit(path).await.unwrap());
        }
        assert!(seen.iter().all(|one| one.starts_with(&clean)), "{seen:?}");
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 5, "{seen:?}");
    }
}

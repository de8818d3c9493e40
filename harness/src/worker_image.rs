//! The worker image: the binary compiled on the host, put on a base with a shell, loaded into
//! every node, and proved to be there by its id.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cluster::KindCluster;
use crate::component::Root;
use crate::digest::Inputs;
use crate::doctor::host;
use crate::engine::docker;
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::node_image::{Builder, Source};
use crate::process::Command;
use crate::progress::Stage;
use crate::record::Record;
use crate::tools::executable_from_cargo;

/// A release build of the worker and all it needs, cold, on two cores.
const COMPILE_DEADLINE: Duration = Duration::from_secs(1800);
/// Writing an image into every node.
const LOAD_DEADLINE: Duration = Duration::from_secs(300);
/// The repository of the image.
const NAME: &str = "hodei-jobs-worker";

/// An image that every node has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerImage {
    /// Name and tag, for pods with `imagePullPolicy: Never` or `IfNotPresent`.
    pub reference: String,
    /// `sha256:…` of its configuration, the same on the host and on every node.
    pub id: String,
}

/// Builds what is not built, loads what is not loaded, proves that it is what it says.
///
/// # Errors
/// The worker does not compile, the image does not build or load, or a node has another.
pub async fn ensure(
    builder: &Builder<'_>,
    source: Source,
    kind: &Path,
    cluster: &KindCluster,
    record: &mut Record,
    stage: &Stage,
) -> Result<WorkerImage> {
    let binary = compile(builder, stage).await?;
    let base = match source {
        Source::Registry => Base::Published(builder.versions.published_worker_base.clone()),
        Source::Packages => Base::Root(host_root(builder)?),
    };
    let dockerfile = builder.paths.workspace().join("scripts/kubernetes/Dockerfile.worker");
    let reference = reference(&binary, &dockerfile, base.name())?;
    let built = match builder.engine.image_id(&reference, stage).await? {
        Some(_) => false,
        None => {
            let base = match base {
                Base::Published(name) => name,
                Base::Root(root) => builder.root_image(&root, record, stage).await?,
            };
            record.begin_image(&reference)?;
            build(builder, &binary, &dockerfile, &base, &reference, stage).await?;
            record.finish_image(&reference)?;
            true
        }
    };
    let id = builder.engine.image_id(&reference, stage).await?.unwrap_or_default();
    let mut image = WorkerImage { reference, id };
    let loaded = load(&mut image, kind, cluster, stage).await?;
    let did = |yes, what, not| if yes { what } else { not };
    stage.note(format!(
        "{}, {}, {}",
        image.reference,
        did(built, "built", "unchanged"),
        did(loaded, "loaded", "on every node")
    ));
    Ok(image)
}

enum Base {
    Published(String),
    Root(Root),
}

impl Base {
    fn name(&self) -> String {
        match self {
            Self::Published(name) => name.clone(),
            Self::Root(root) => root.reference(),
        }
    }
}

/// A root of the host's own suite, so that the binary finds the C library it was linked with.
fn host_root(builder: &Builder<'_>) -> Result<Root> {
    let suite = host::suite().unwrap_or_else(|| builder.versions.suite.clone());
    Ok(Root::new("worker", &suite, builder.versions.root("worker")?))
}

async fn compile(builder: &Builder<'_>, stage: &Stage) -> Result<PathBuf> {
    stage.line("cargo build --release -p hodei-worker");
    let cargo = Command::cargo("cargo")
        .args([
            "build",
            "--release",
            "-p",
            "hodei-worker",
            "--message-format=json-render-diagnostics",
        ])
        .directory(builder.paths.workspace())
        .deadline(COMPILE_DEADLINE)
        .log_to(builder.paths.log("worker-build"));
    let output = cargo.run(stage).await.classify(FailureClass::Image, "compile", "the worker")?;
    executable_from_cargo(&output.stdout, "hodei-worker")
}

fn reference(binary: &Path, dockerfile: &Path, base: String) -> Result<String> {
    let inputs = Inputs::new().add_path(binary)?.add_path(dockerfile)?.add("base", base);
    Ok(format!("{NAME}:{}", inputs.tag()))
}

async fn build(
    builder: &Builder<'_>,
    binary: &Path,
    dockerfile: &Path,
    base: &str,
    reference: &str,
    stage: &Stage,
) -> Result<()> {
    let context = tempfile::tempdir().classify(FailureClass::Image, "make", "a build context")?;
    let copy = |from: &Path, to: &str| {
        let copied = std::fs::copy(from, context.path().join(to));
        copied.classify(FailureClass::Image, "lay out", "the worker image")
    };
    copy(binary, "hodei-worker")?;
    copy(dockerfile, "Dockerfile")?;
    let base = format!("BASE_IMAGE={base}");
    let args = ["--target", "prebuilt", "--build-arg", &base];
    let log = builder.paths.log("worker-image");
    builder.engine.build(context.path(), reference, &args, &log, stage).await
}

/// Loads the image where it is missing. Returns whether any node lacked it.
async fn load(
    image: &mut WorkerImage,
    kind: &Path,
    cluster: &KindCluster,
    stage: &Stage,
) -> Result<bool> {
    let lacking = lacking_nodes(image, cluster, stage).await?;
    if lacking.is_empty() {
        return Ok(false);
    }
    stage.line("kind load docker-image");
    let load = Command::new(kind)
        .args(["load", "docker-image", &image.reference, "--name", &cluster.name, "--nodes"])
        .arg(lacking.join(","))
        .deadline(LOAD_DEADLINE);
    load.run(stage).await.classify(FailureClass::Image, "load", &image.reference)?;
    let still = lacking_nodes(image, cluster, stage).await?;
    if still.is_empty() {
        return Ok(true);
    }
    let cause =
        format!("these nodes do not have {} after loading it: {}", image.id, still.join(", "));
    Err(HarnessError::new(FailureClass::Image, "prove", &image.reference, cause))
}

async fn lacking_nodes(
    image: &WorkerImage,
    cluster: &KindCluster,
    stage: &Stage,
) -> Result<Vec<String>> {
    let mut lacking = Vec::new();
    for node in &cluster.nodes {
        if !node_has(image, node, stage).await? {
            lacking.push(node.clone());
        }
    }
    Ok(lacking)
}

/// Whether the node's image of this name holds the configuration with this id. The listing of
/// the node names the manifest's digest; the manifest names the configuration.
async fn node_has(image: &WorkerImage, node: &str, stage: &Stage) -> Result<bool> {
    let ctr = ["exec", node, "ctr", "--namespace=k8s.io"];
    let name = format!("docker.io/library/{}", image.reference);
    let subject = || format!("the images of node {node}");
    let list = docker(ctr).args(["images", "list", &format!("name=={name}")]).run(stage).await;
    let list = list.classify(FailureClass::Image, "list", subject())?;
    let Some(digest) = digest_of(&list.stdout, &name) else { return Ok(false) };
    if digest == image.id {
        // An engine with the containerd image store names images by manifest.
        return Ok(true);
    }
    let get = docker(ctr).args(["content", "get", digest]).run(stage).await;
    let manifest = get.classify(FailureClass::Image, "read", subject())?;
    let manifest: serde_json::Value = serde_json::from_str(&manifest.stdout).classify(
        FailureClass::Image,
        "understand",
        subject(),
    )?;
    Ok(manifest["config"]["digest"] == image.id.as_str())
}

fn digest_of<'a>(listing: &'a str, name: &str) -> Option<&'a str> {
    let line = listing.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    line.split_whitespace().find(|word| word.starts_with("sha256:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_named_image() {
        let listing = "REF TYPE DIGEST SIZE PLATFORMS LABELS\n\
            docker.io/library/x:2 application/y sha256:bb 1 MiB linux/amd64 -\n\
            docker.io/library/x:1 application/y sha256:aa 1 MiB linux/amd64 -\n";
        assert_eq!(digest_of(listing, "docker.io/library/x:1"), Some("sha256:aa"));
        assert_eq!(digest_of(listing, "docker.io/library/x:3"), None);
    }

    #[test]
    fn a_change_of_any_input_changes_the_tag() {
        let dir = tempfile::tempdir().unwrap();
        let (binary, dockerfile) = (dir.path().join("b"), dir.path().join("d"));
        std::fs::write(&binary, "1").unwrap();
        std::fs::write(&dockerfile, "2").unwrap();
        let tag = |base: &str| reference(&binary, &dockerfile, base.into()).unwrap();
        let first = tag("x");
        assert_ne!(first, tag("y"));
        std::fs::write(&binary, "3").unwrap();
        assert_ne!(first, tag("x"));
    }
}

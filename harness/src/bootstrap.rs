//! From a bare machine to a cluster with the worker image on it: each step checks what is there
//! and does the rest, so a second pass over a machine that is ready takes seconds.

mod forecast;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use forecast::{Forecast, Standing, Step, forecast};

use crate::cluster::config::ClusterSpec;
use crate::cluster::{self, KindCluster};
use crate::component::Go;
use crate::doctor::{
    self,
    host::{self, CgroupVersion},
};
use crate::engine::{self, Consent, Engine, docker, install, oci};
use crate::failure::Result;
use crate::lock::Lock;
use crate::node_image::choice::KubernetesChoice;
use crate::node_image::{
    Builder, NodeImage, PodNetwork, Source, SourceChoice, is_of_another_release,
};
use crate::paths::Paths;
use crate::postgres_image::{PostgresImage, postgres_image};
use crate::privilege::Privilege;
use crate::progress::{Progress, Stage};
use crate::record::{Action, Record};
use crate::tools::{self, Tools};
use crate::versions::Versions;
use crate::worker_image::{self, WorkerImage};

/// What mmdebstrap verifies Debian's packages by. Debian has it, Ubuntu has it not from the start.
const DEBIAN_KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What to bring up.
#[derive(Debug, Clone)]
pub struct BootstrapOptions {
    /// May the machine be changed without asking?
    pub consent: Consent,
    /// The cluster's name.
    pub cluster_name: String,
    /// Make the cluster again even if it is as wanted.
    pub recreate: bool,
    /// Where the node image comes from.
    pub node_image_source: SourceChoice,
    /// What is asked of its network; `None`: what was asked of the cluster, as long as the image that
    /// takes is there.
    pub network: Option<PodNetwork>,
    /// The Kubernetes release; `None`: that of the cluster, or the default for a new one.
    pub kubernetes: Option<KubernetesChoice>,
    /// How many nodes, 1 to 5; `None`: as many as the cluster has, or one for a new one.
    pub nodes: Option<u8>,
}

impl Default for BootstrapOptions {
    fn default() -> Self {
        Self {
            consent: Consent::from_flag(false),
            cluster_name: cluster::name_from_environment(),
            recreate: false,
            node_image_source: SourceChoice::Auto,
            network: None,
            kubernetes: None,
            nodes: None,
        }
    }
}

impl BootstrapOptions {
    /// How many nodes the cluster will have.
    ///
    /// # Errors
    /// What was written down of it cannot be read.
    pub fn wanted_nodes(&self, paths: &Paths) -> Result<u8> {
        let recorded = cluster::recorded_nodes(paths, &self.cluster_name)?;
        Ok(self.nodes.or(recorded).unwrap_or(1))
    }

    /// What its network will be asked for. The image that enforces policies is built only for who
    /// asks for it.
    async fn wanted_network(
        &self,
        builder: &Builder<'_>,
        source: Source,
        stage: &Stage,
    ) -> Result<PodNetwork> {
        let recorded = cluster::recorded_network(builder.paths, &self.cluster_name)?;
        let network = self.network.or(recorded).unwrap_or_default();
        if self.network.is_none() && network == PodNetwork::Policy {
            let image = builder.wanted_node_image(source, network)?;
            if builder.engine.image_id(&image.reference, stage).await?.is_none() {
                return Ok(PodNetwork::Plain);
            }
        }
        Ok(network)
    }

    /// Which Kubernetes release the cluster will have.
    ///
    /// # Errors
    /// What was written down of it cannot be read.
    pub fn wanted_kubernetes(
        &self,
        paths: &Paths,
        versions: &Versions,
    ) -> Result<KubernetesChoice> {
        if let Some(choice) = &self.kubernetes {
            return Ok(choice.clone());
        }
        let recorded = cluster::recorded_kubernetes(paths, &self.cluster_name)?;
        KubernetesChoice::unasked(recorded.as_deref(), versions)
    }
}

/// What is up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bootstrapped {
    /// The engine that runs it.
    pub engine: Engine,
    /// The programs that drive it.
    pub tools: Tools,
    /// What its nodes are made of.
    pub node_image: NodeImage,
    /// What was asked of its network.
    #[serde(default)]
    pub network: PodNetwork,
    /// The cluster.
    pub cluster: KindCluster,
    /// The worker image on its nodes.
    pub worker_image: WorkerImage,
    /// The database image in the engine.
    pub postgres_image: PostgresImage,
}

/// Brings everything up that is not.
///
/// # Errors
/// The first step that failed, with its class and what to do; what it had half made is gone.
pub async fn bootstrap(
    paths: &Paths,
    options: &BootstrapOptions,
    progress: &Progress,
) -> Result<Bootstrapped> {
    let versions = Versions::load()?;
    let choice = options.wanted_kubernetes(paths, &versions)?;
    let asked = choice.source(options.node_image_source, &versions)?;
    doctor::examine_quickly(paths).require()?;
    let quiet = progress.unlisted();
    let _lock = Lock::acquire(paths, progress, &quiet).await?;
    let mut record = Record::open(&paths.bootstrap_record())?;
    let go = Go::find(paths, &quiet).await?;
    note_caches(paths, &mut record)?;
    let engine = progress
        .stage("engine", async |stage| {
            engine::ensure(paths, &mut record, options.consent, progress, &stage).await
        })
        .await?;
    let kind = progress
        .stage("kind", async |stage| tools::ensure_kind(paths, &versions, &go, &stage).await)
        .await?;
    let privilege = Privilege::detect(&quiet).await;
    let (versions, kubernetes) = (&versions, &choice.release);
    let builder = Builder { paths, versions, kubernetes, engine: &engine, go: &go, privilege };
    let source = builder.source(asked, &quiet).await?;
    let network = options.wanted_network(&builder, source, &quiet).await?;
    let node_image = progress
        .stage("node image", async |stage| {
            if source == Source::Packages {
                need_mmdebstrap(&builder, &mut record, &stage).await?;
            }
            builder.node_image(source, network, &mut record, &stage).await
        })
        .await?;
    let cluster = progress
        .stage("cluster", async |stage| {
            let spec = cluster_spec(&builder, options, &node_image, network, &stage).await?;
            cluster::ensure(paths, &kind, &spec, options.recreate, &mut record, &stage).await
        })
        .await?;
    let postgres_image = progress
        .stage("postgres image", async |stage| {
            postgres_image(&builder, source, &mut record, &stage).await
        })
        .await?;
    let worker_image = progress
        .stage("worker image", async |stage| {
            worker_image::ensure(&builder, source, &kind, &cluster, &mut record, &stage).await
        })
        .await?;
    let nextest = progress
        .stage("nextest", async |stage| tools::ensure_nextest(paths, versions, &stage).await)
        .await?;
    let kept = [&node_image.reference, &worker_image.reference, &postgres_image.reference()];
    prune_superseded(&kept.map(String::as_str), &builder, &mut record, &quiet).await?;
    let tools = Tools { kind, nextest };
    Ok(Bootstrapped { engine, tools, node_image, network, cluster, worker_image, postgres_image })
}

/// Writes down the parts of the cache that are not there yet. The directory itself may be a
/// user's, with other things in it.
fn note_caches(paths: &Paths, record: &mut Record) -> Result<()> {
    for path in paths.cache_trees().into_iter().filter(|path| !path.exists()) {
        record.begin(Action::Tree { path, root: false })?;
    }
    Ok(())
}

/// Removes the images that newer ones of this tool have taken the place of. One that is still
/// in use stays, and stays recorded; so does the node image of another Kubernetes release.
async fn prune_superseded(
    kept: &[&str],
    builder: &Builder<'_>,
    record: &mut Record,
    stage: &Stage,
) -> Result<()> {
    for old in superseded(kept, record) {
        if is_of_another_release(&old, builder.kubernetes, builder.versions) {
            continue;
        }
        if docker(["image", "rm", &old]).run(stage).await.is_ok() {
            record.forget(&Action::Image { reference: old })?;
        }
    }
    Ok(())
}

fn superseded(kept: &[&str], record: &Record) -> Vec<String> {
    let repository = |reference: &str| reference.split(':').next().unwrap_or_default().to_owned();
    let taken: Vec<String> = kept.iter().map(|reference| repository(reference)).collect();
    let recorded = record.entries().iter().filter_map(|entry| match &entry.action {
        Action::Image { reference } => Some(reference.clone()),
        _ => None,
    });
    recorded
        .filter(|old| taken.contains(&repository(old)) && !kept.contains(&old.as_str()))
        .collect()
}

async fn need_mmdebstrap(builder: &Builder<'_>, record: &mut Record, stage: &Stage) -> Result<()> {
    let mut missing = Vec::new();
    if which::which("mmdebstrap").is_err() {
        missing.push("mmdebstrap");
    }
    if which::which("apt-get").is_ok() && !Path::new(DEBIAN_KEYS).exists() {
        missing.push("debian-archive-keyring");
    }
    if missing.is_empty() {
        return Ok(());
    }
    install::packages(builder.paths, record, builder.privilege, &missing, stage).await
}

async fn cluster_spec(
    builder: &Builder<'_>,
    options: &BootstrapOptions,
    image: &NodeImage,
    network: PodNetwork,
    stage: &Stage,
) -> Result<ClusterSpec> {
    let image_id = builder.engine.image_id(&image.reference, stage).await?.unwrap_or_default();
    Ok(ClusterSpec {
        network,
        nodes: options.wanted_nodes(builder.paths)?,
        audit_directory: builder.paths.audit_directory(&options.cluster_name),
        name: options.cluster_name.clone(),
        kubernetes: builder.kubernetes.minor().to_owned(),
        image: image.clone(),
        image_id,
        pod_subnet: builder.versions.pod_subnet.clone(),
        cgroup_v1: host::cgroup_version() == Some(CgroupVersion::V1),
        restrict_oom_score_adj: host::bounding_set().is_some_and(oci::is_missing_from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_recorded_images_of_the_same_name_are_superseded() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::open(&dir.path().join("r.json")).unwrap();
        for reference in ["hodei-kind-node:a", "hodei-kind-node:b", "hodei-root-node:x"] {
            record.begin(Action::Image { reference: reference.into() }).unwrap();
        }
        assert_eq!(superseded(&["hodei-kind-node:b"], &record), ["hodei-kind-node:a"]);
    }
}

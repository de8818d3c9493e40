//! What a bootstrap would do on this machine as it is now. Everything is looked at, as the
//! bootstrap itself looks at it; nothing is made, started or written down.

use std::collections::BTreeSet;

use super::{BootstrapOptions, cluster_spec};
use crate::cluster::{self, KindCluster};
use crate::component::Go;
use crate::doctor;
use crate::engine::Engine;
use crate::failure::{HarnessError, Result};
use crate::feature::{self, Feature};
use crate::node_image::{Builder, PodNetwork, Source, SourceChoice};
use crate::paths::Paths;
use crate::postgres_image;
use crate::privilege::Privilege;
use crate::progress::Stage;
use crate::tools;
use crate::versions::Versions;

/// How a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// What it makes is there.
    There,
    /// It has work to do.
    ToDo,
    /// It would fail: a person has to do something first.
    Fails,
    /// It is not known before an earlier step is done.
    Unknown,
}

/// One step of a bootstrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// As its stage is called.
    pub name: &'static str,
    /// How it stands.
    pub standing: Standing,
    /// What is there, or what would be done.
    pub says: String,
}

impl Step {
    /// A step of this name.
    #[must_use]
    pub fn new(name: &'static str, standing: Standing, says: impl Into<String>) -> Self {
        Self { name, standing, says: says.into() }
    }

    fn of(name: &'static str, there: Option<String>, else_done: impl Into<String>) -> Self {
        match there {
            Some(says) => Self::new(name, Standing::There, says),
            None => Self::new(name, Standing::ToDo, else_done),
        }
    }
}

/// What a bootstrap would find and do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// Its steps, in order.
    pub steps: Vec<Step>,
    /// The cluster as it would be.
    pub cluster: KindCluster,
    /// What it would have, if its probes find what is expected.
    pub features: BTreeSet<Feature>,
}

/// Looks at this machine.
///
/// # Errors
/// This tool's own records or the pinned versions cannot be read, the Kubernetes version is not to
/// be had from where it is asked for, or a signal came.
pub async fn forecast(
    paths: &Paths,
    options: &BootstrapOptions,
    stage: &Stage,
) -> Result<Forecast> {
    let versions = Versions::load()?;
    let choice = options.wanted_kubernetes(paths, &versions)?;
    let asked = choice.source(options.node_image_source, &versions)?;
    let mut steps = Vec::new();
    let mut policies = options.network == Some(PodNetwork::Policy);
    if let Err(error) = doctor::examine_quickly(paths).require() {
        steps.push(Step::new("preflight", Standing::Fails, error.source.to_string()));
    }
    let go = Go::find(paths, stage).await;
    if let Err(error) = &go {
        steps.push(Step::new("go", Standing::Fails, error.to_string()));
    }
    let engine = Engine::connect(stage).await.ok();
    let version = engine.as_ref().map(|engine| format!("docker {}", engine.version));
    steps.push(Step::of("engine", version, "is installed if it is missing, and started"));
    let kind = tools::find_kind(paths, &versions, stage).await;
    let install = format!("kind {} is installed", versions.kind);
    steps.push(Step::of("kind", kind.map(|found| found.version), install));
    match (&engine, &go) {
        (Some(engine), Ok(go)) => {
            let privilege = Privilege::detect(stage).await;
            let (versions, kubernetes) = (&versions, &choice.release);
            let builder = Builder { paths, versions, kubernetes, engine, go, privilege };
            let (of_images, enforces) = made_of_images(&builder, options, asked, stage).await?;
            steps.extend(of_images);
            policies = enforces;
        }
        _ => {
            let after = "known once the engine answers";
            let names = ["node image", "cluster", "postgres image"];
            steps.extend(names.map(|name| Step::new(name, Standing::Unknown, after)));
        }
    }
    let compiled = "known once the worker is compiled";
    steps.push(Step::new("worker image", Standing::Unknown, compiled));
    let nextest = tools::find_nextest(paths, &versions, stage).await;
    let install = format!("cargo-nextest {} is installed", versions.nextest);
    steps.push(Step::of("nextest", nextest.map(|found| found.version), install));
    if stage.is_cancelled() {
        return Err(HarnessError::interrupted("examine", "this machine"));
    }
    let nodes = options.wanted_nodes(paths)?;
    let cluster = KindCluster::planned(paths, &options.cluster_name, nodes);
    Ok(Forecast { steps, features: feature::expected(&cluster, policies), cluster })
}

/// Also whether the network is expected to enforce policies.
async fn made_of_images(
    builder: &Builder<'_>,
    options: &BootstrapOptions,
    asked: SourceChoice,
    stage: &Stage,
) -> Result<(Vec<Step>, bool)> {
    let source = builder.source(asked, stage).await?;
    let network = options.wanted_network(builder, source, stage).await?;
    let image = builder.wanted_node_image(source, network)?;
    let there = builder.engine.image_id(&image.reference, stage).await?;
    let how = match source {
        Source::Registry => "is pulled",
        Source::Packages => "is built from packages, which takes half an hour",
    };
    let named = |there: Option<String>, reference: &str| there.map(|_| reference.to_owned());
    let node_image = Step::of(
        "node image",
        named(there, &image.reference),
        format!("{} {how}", image.reference),
    );
    let spec = cluster_spec(builder, options, &image, network, stage).await?;
    let cluster = cluster::forecast(builder.paths, &spec, options.recreate, stage).await?;
    let postgres = postgres_image::wanted(builder, source)?.reference();
    let there = builder.engine.image_id(&postgres, stage).await?;
    let how = format!("{postgres} is pulled or built");
    let postgres = Step::of("postgres image", named(there, &postgres), how);
    let enforces = source == Source::Registry || network == PodNetwork::Policy;
    Ok((vec![node_image, cluster, postgres], enforces))
}

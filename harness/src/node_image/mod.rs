//! The node image: Kind's published one by digest where a container registry answers, else one
//! that is built from packages and tagged by the hash of everything that goes into it.

mod assemble;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::component::{Go, Root};
use crate::digest::Inputs;
use crate::engine::{Engine, docker};
use crate::failure::{Classify, FailureClass, Result};
use crate::paths::Paths;
use crate::privilege::Privilege;
use crate::progress::Stage;
use crate::record::Record;
use crate::versions::{self, Versions};

/// A registry that takes longer than this to answer is not there.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);
/// A node image is about 300 MB to download.
const PULL_DEADLINE: Duration = Duration::from_secs(1200);
/// Changes when assembling makes something else of the same inputs.
const RECIPE: &str = "1";

/// Which node image is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceChoice {
    /// What is there already, else the registry if it answers, else packages.
    #[default]
    Auto,
    /// Kind's published image.
    Registry,
    /// Debian packages and Go modules.
    Packages,
}

/// Where images come from on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A container registry answers.
    Registry,
    /// Only package registries do.
    Packages,
}

/// The image that nodes are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeImage {
    /// Name and tag, or name and digest.
    pub reference: String,
    /// Where it came from.
    pub source: Source,
}

/// What building images needs.
pub struct Builder<'a> {
    /// Directories.
    pub paths: &'a Paths,
    /// Versions.
    pub versions: &'a Versions,
    /// The engine.
    pub engine: &'a Engine,
    /// The Go toolchain.
    pub go: &'a Go,
    /// The right to run mmdebstrap.
    pub privilege: Privilege,
}

impl Builder<'_> {
    /// The tag of the image from packages: a hash of versions, modules, files, toolchain.
    ///
    /// # Errors
    /// The committed inputs cannot be read.
    pub fn packages_reference(&self) -> Result<String> {
        let inputs = self.paths.workspace().join("deploy/kind/node-image");
        let mut hash = Inputs::new()
            .add("recipe", RECIPE)
            .add("versions", versions::TEXT)
            .add_path(&inputs.join("files"))?
            .add_path(&inputs.join("Dockerfile"))?;
        for component in &self.versions.component {
            hash = hash.add(&component.module, self.go.component(self.paths, component)?.tag);
        }
        for name in ["node", "kube-proxy"] {
            hash = hash.add(name, self.root(name)?.tag());
        }
        Ok(format!("hodei-kind-node:{}-{}", self.versions.kubernetes, hash.tag()))
    }

    /// One of the roots in `versions.toml`, of the pinned suite.
    ///
    /// # Errors
    /// There is no such root.
    pub fn root(&self, name: &str) -> Result<Root> {
        Ok(Root::new(name, &self.versions.suite, self.versions.root(name)?))
    }

    /// A root as an image of the engine.
    ///
    /// # Errors
    /// It could not be made or imported.
    pub async fn root_image(
        &self,
        root: &Root,
        record: &mut Record,
        stage: &Stage,
    ) -> Result<String> {
        let reference = root.reference();
        if self.engine.image_id(&reference, stage).await?.is_none() {
            let tar = root.build(self.paths, self.privilege, stage).await?;
            record.begin_image(&reference)?;
            self.engine.import(&tar, &reference, stage).await?;
            record.finish_image(&reference)?;
        }
        Ok(reference)
    }

    /// Decides where images come from, by what is there and what answers.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn source(&self, choice: SourceChoice, stage: &Stage) -> Result<Source> {
        let published = &self.versions.published_node_image;
        match choice {
            SourceChoice::Registry => return Ok(Source::Registry),
            SourceChoice::Packages => return Ok(Source::Packages),
            SourceChoice::Auto => {}
        }
        if self.engine.image_id(published, stage).await?.is_some() {
            return Ok(Source::Registry);
        }
        if self.engine.image_id(&self.packages_reference()?, stage).await?.is_some() {
            return Ok(Source::Packages);
        }
        Ok(if registry_answers(published, stage).await {
            Source::Registry
        } else {
            Source::Packages
        })
    }

    /// The node image, pulled or built if it is not there.
    ///
    /// # Errors
    /// It can be neither pulled nor built.
    pub async fn node_image(
        &self,
        source: Source,
        record: &mut Record,
        stage: &Stage,
    ) -> Result<NodeImage> {
        let reference = match source {
            Source::Registry => self.versions.published_node_image.clone(),
            Source::Packages => self.packages_reference()?,
        };
        if self.engine.image_id(&reference, stage).await?.is_some() {
            stage.note(format!("{reference}, there already"));
            return Ok(NodeImage { reference, source });
        }
        record.begin_image(&reference)?;
        match source {
            Source::Registry => pull(&reference, stage).await?,
            Source::Packages => self.assemble_node(&reference, record, stage).await?,
        }
        record.finish_image(&reference)?;
        let how = if source == Source::Registry { "pulled" } else { "built from packages" };
        stage.note(format!("{reference}, {how}"));
        Ok(NodeImage { reference, source })
    }
}

/// Pulls an image.
///
/// # Errors
/// The registry does not answer or refuses.
pub async fn pull(reference: &str, stage: &Stage) -> Result<()> {
    stage.line(&format!("pulling {reference}"));
    let command = docker(["pull", reference]).deadline(PULL_DEADLINE);
    command.run(stage).await.classify(FailureClass::Image, "pull", reference)?;
    Ok(())
}

/// Whether the registry of `reference` answers within seconds.
pub async fn registry_answers(reference: &str, stage: &Stage) -> bool {
    stage.line("asking the container registry");
    let probe = docker(["manifest", "inspect", reference]).deadline(PROBE_DEADLINE);
    probe.run(stage).await.is_ok()
}

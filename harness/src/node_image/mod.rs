//! The node image: Kind's published one by digest where a container registry answers, else one
//! that is built from packages and tagged by the hash of everything that goes into it.
//!
//! Kind's published image enforces network policies. The one from packages does not; where that is
//! asked for, another is made on top of it ([`policy`]), which nobody else waits for.

mod assemble;
pub mod choice;
pub mod policy;

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
use crate::versions::{Kubernetes, SystemImage, Versions};

/// A registry that takes longer than this to answer is not there.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);
/// A node image is about 300 MB to download.
const PULL_DEADLINE: Duration = Duration::from_secs(1200);
/// Changes when assembling makes something else of the same inputs.
const RECIPE: &str = "1";
/// The repository of the images from packages.
const NAME: &str = "hodei-kind-node";

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

/// What a cluster's network is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodNetwork {
    /// Pods reach each other and the host.
    #[default]
    #[value(name = "none")]
    Plain,
    /// Network policies are enforced; whether they are is seen by a probe.
    #[value(name = "network-policy")]
    Policy,
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
    /// The Kubernetes release of the nodes.
    pub kubernetes: &'a Kubernetes,
    /// The engine.
    pub engine: &'a Engine,
    /// The Go toolchain.
    pub go: &'a Go,
    /// The right to run mmdebstrap.
    pub privilege: Privilege,
}

impl Builder<'_> {
    /// The tag of the image from packages: a hash of what goes into it, and of nothing else in
    /// `versions.toml`, so that a change for one Kubernetes release leaves the images of the others.
    ///
    /// # Errors
    /// The committed inputs cannot be read.
    pub fn packages_reference(&self) -> Result<String> {
        let inputs = self.paths.workspace().join("deploy/kind/node-image");
        let mut hash = Inputs::new()
            .add("recipe", RECIPE)
            .add("kind", &self.versions.kind)
            .add_path(&inputs.join("files"))?
            .add_path(&inputs.join("Dockerfile"))?;
        for component in self.versions.components(self.kubernetes) {
            hash = hash.add(&component.module, self.go.component(self.paths, &component)?.tag);
        }
        for SystemImage { references, component, binary, root } in
            self.versions.images(self.kubernetes)
        {
            let root = root.unwrap_or_default();
            let made_of = [component, binary, root, references.join(" ")];
            hash = hash.add("image", made_of.join("\n"));
        }
        for name in ["node", "kube-proxy"] {
            hash = hash.add(name, self.root(name)?.tag());
        }
        Ok(format!("{}{}", packages_prefix(NAME, self.kubernetes), hash.tag()))
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
        match choice {
            SourceChoice::Registry => return Ok(Source::Registry),
            SourceChoice::Packages => return Ok(Source::Packages),
            SourceChoice::Auto => {}
        }
        let Some(published) = &self.kubernetes.published else { return Ok(Source::Packages) };
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

    /// The node image that a cluster is to be made of, there or not.
    ///
    /// # Errors
    /// The committed inputs cannot be read.
    pub fn wanted_node_image(&self, source: Source, network: PodNetwork) -> Result<NodeImage> {
        let reference = match (source, network) {
            (Source::Registry, _) => choice::published(self.kubernetes, self.versions)?.to_owned(),
            (Source::Packages, PodNetwork::Plain) => self.packages_reference()?,
            (Source::Packages, PodNetwork::Policy) => self.policy_reference()?,
        };
        Ok(NodeImage { reference, source })
    }

    /// The node image, pulled or built if it is not there.
    ///
    /// # Errors
    /// It can be neither pulled nor built.
    pub async fn node_image(
        &self,
        source: Source,
        network: PodNetwork,
        record: &mut Record,
        stage: &Stage,
    ) -> Result<NodeImage> {
        let image = self.wanted_node_image(source, network)?;
        let reference = &image.reference;
        if self.engine.image_id(reference, stage).await?.is_some() {
            stage.note(format!("{reference}, there already"));
            return Ok(image);
        }
        match (source, network) {
            (Source::Registry, _) => {
                record.begin_image(reference)?;
                pull(reference, stage).await?;
            }
            (Source::Packages, PodNetwork::Plain) => self.plain(reference, record, stage).await?,
            (Source::Packages, PodNetwork::Policy) => {
                let plain = self.packages_reference()?;
                if self.engine.image_id(&plain, stage).await?.is_none() {
                    self.plain(&plain, record, stage).await?;
                    record.finish_image(&plain)?;
                }
                record.begin_image(reference)?;
                self.assemble_policy(&plain, reference, record, stage).await?;
            }
        }
        record.finish_image(reference)?;
        let how = if source == Source::Registry { "pulled" } else { "built from packages" };
        stage.note(format!("{reference}, {how}"));
        Ok(image)
    }

    async fn plain(&self, reference: &str, record: &mut Record, stage: &Stage) -> Result<()> {
        record.begin_image(reference)?;
        self.assemble_node(reference, record, stage).await
    }
}

/// What the reference of an image `name` of `release` from packages begins with.
fn packages_prefix(name: &str, release: &Kubernetes) -> String {
    format!("{name}:v{}-", release.version)
}

/// Whether `reference` is a node image of another release than `used`: one that a cluster of that
/// release will want again.
#[must_use]
pub fn is_of_another_release(reference: &str, used: &Kubernetes, versions: &Versions) -> bool {
    versions.kubernetes.iter().filter(|release| *release != used).any(|release| {
        release.published.as_deref() == Some(reference)
            || [NAME, policy::NAME]
                .iter()
                .any(|name| reference.starts_with(&packages_prefix(name, release)))
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::Go;

    fn references(versions: &Versions) -> Vec<String> {
        let workspace = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let paths = Paths::new("/none/state".into(), "/none/cache".into(), workspace);
        let engine =
            Engine { version: "28".into(), data_root: "/d".into(), default_runtime: "runc".into() };
        let (go, privilege) = (&Go::imaginary(), Privilege::None);
        let (paths, engine) = (&paths, &engine);
        let of = |kubernetes| Builder { paths, versions, kubernetes, engine, go, privilege };
        versions.kubernetes.iter().map(|one| of(one).packages_reference().unwrap()).collect()
    }

    #[test]
    fn each_release_has_a_tag_of_its_own_by_what_goes_into_it() {
        let mut versions = Versions::load().unwrap();
        let before = references(&versions);
        assert!(before[1].starts_with("hodei-kind-node:v1.33.13-"), "{before:?}");
        versions.nextest = "0".into();
        versions.kubernetes[0].published = None;
        versions.kubernetes[1].version = "1.33.14".into();
        let after = references(&versions);
        assert_eq!((&after[0], &after[2..]), (&before[0], &before[2..]), "what is not in them");
        assert_ne!(after[1], before[1]);
        versions.image.pop();
        assert!(references(&versions).iter().zip(&after).all(|(now, then)| now != then));
    }

    #[test]
    fn the_images_of_other_releases_are_known() {
        let versions = Versions::load().unwrap();
        let references = references(&versions);
        let published = versions.kubernetes[0].published.clone().unwrap();
        let used = &versions.kubernetes[1];
        for (reference, another) in [
            (references[0].as_str(), true),
            (published.as_str(), true),
            (references[1].as_str(), false),
            ("hodei-kind-node:v1.33.13-old", false),
            ("hodei-kind-node:v1.32.1-old", false),
            ("hodei-kind-node-policy:v1.34.4-old", true),
            ("hodei-kind-node-policy:v1.33.13-old", false),
            ("hodei-worker:v1", false),
        ] {
            assert_eq!(is_of_another_release(reference, used, &versions), another, "{reference}");
        }
    }
}

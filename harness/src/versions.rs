//! `deploy/kind/versions.toml` as a type: what is installed and built, at which version.

mod kubernetes;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

pub use kubernetes::Kubernetes;

use crate::failure::{Classify, FailureClass, HarnessError, Result};

/// The text that is compiled in.
const TEXT: &str = include_str!("../../deploy/kind/versions.toml");

/// Every pinned version.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// Kind's module version.
    pub kind: String,
    /// cargo-nextest's crate version.
    pub nextest: String,
    /// Base of the worker image where a registry answers.
    pub published_worker_base: String,
    /// Postgres where a registry answers.
    pub published_postgres: String,
    /// The Kubernetes releases that a cluster can have, oldest first.
    pub kubernetes: Vec<Kubernetes>,
    /// The addresses of pods.
    pub pod_subnet: String,
    /// Debian suite of the root file systems.
    pub suite: String,
    /// Packages of each root file system.
    pub roots: BTreeMap<String, Vec<String>>,
    /// Go components, with places for the versions of a release: [`Self::components`] fills them.
    pub component: Vec<GoComponent>,
    /// Images that the node brings with it, with such places, too: see [`Self::images`].
    pub image: Vec<SystemImage>,
}

/// A module below `deploy/kind/node-image` whose tools are compiled.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoComponent {
    /// Its name, and its directory's unless that has another.
    pub module: String,
    /// The directory's name: see [`Self::directory`].
    #[serde(default)]
    pub directory: Option<String>,
    /// Linker flags beside `-s -w`.
    #[serde(default)]
    pub ldflags: String,
    /// Build tags, with commas between them.
    #[serde(default)]
    pub tags: String,
    /// Binaries whose name is not that of their package.
    #[serde(default)]
    pub rename: BTreeMap<String, String>,
    /// A module among those it requires that is compiled from an edited copy.
    #[serde(default)]
    pub edited: Option<EditedModule>,
}

/// A module of which a copy is edited before it is compiled. Its download is verified as any other.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditedModule {
    /// Its path, as in go.mod.
    pub module: String,
    /// What is changed in it.
    pub edit: Vec<Edit>,
}

/// A piece of text that a file has exactly once, and what takes its place.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// Below the module's root.
    pub file: PathBuf,
    /// What is there.
    pub find: String,
    /// What is put there.
    pub replace: String,
}

impl GoComponent {
    /// The name of its directory.
    #[must_use]
    pub fn directory(&self) -> &str {
        self.directory.as_deref().unwrap_or(&self.module)
    }
}

/// One image in the node's content store.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemImage {
    /// The names it goes by.
    pub references: Vec<String>,
    /// Which component made its binary.
    pub component: String,
    /// The binary, its entrypoint.
    pub binary: String,
    /// The root file system below it; none means that the binary is all there is.
    pub root: Option<String>,
}

impl Versions {
    /// The versions this binary was built with.
    ///
    /// # Errors
    /// The committed file is malformed.
    pub fn load() -> Result<Self> {
        toml::from_str(TEXT).classify(FailureClass::Harness, "read", "deploy/kind/versions.toml")
    }

    /// The packages of the root called `name`.
    ///
    /// # Errors
    /// There is no such root.
    pub fn root(&self, name: &str) -> Result<&[String]> {
        self.roots.get(name).map(Vec::as_slice).ok_or_else(|| {
            let cause = "versions.toml lists no such root";
            HarnessError::new(FailureClass::Harness, "find", format!("root {name}"), cause)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_file_is_sound() {
        let versions = Versions::load().unwrap();
        for image in &versions.image {
            let known = versions.component.iter().any(|c| c.module == image.component);
            assert!(known, "{} names a component that is not there", image.binary);
            if let Some(root) = &image.root {
                versions.root(root).unwrap();
            }
        }
    }
}

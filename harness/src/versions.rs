//! `deploy/kind/versions.toml` as a type: what is installed and built, at which version.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::failure::{Classify, FailureClass, HarnessError, Result};

/// The text that is compiled in; part of the hash of every image.
pub const TEXT: &str = include_str!("../../deploy/kind/versions.toml");

/// Every pinned version.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// Kind's module version.
    pub kind: String,
    /// cargo-nextest's crate version.
    pub nextest: String,
    /// Kind's published node image, by digest.
    pub published_node_image: String,
    /// Base of the worker image where a registry answers.
    pub published_worker_base: String,
    /// Postgres where a registry answers.
    pub published_postgres: String,
    /// Kubernetes as built from packages.
    pub kubernetes: String,
    /// The addresses of pods.
    pub pod_subnet: String,
    /// Debian suite of the root file systems.
    pub suite: String,
    /// Packages of each root file system.
    pub roots: BTreeMap<String, Vec<String>>,
    /// Go components.
    pub component: Vec<GoComponent>,
    /// Images that the node brings with it.
    pub image: Vec<SystemImage>,
}

/// A module below `deploy/kind/node-image` whose tools are compiled.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoComponent {
    /// The directory's name.
    pub module: String,
    /// Linker flags beside `-s -w`.
    #[serde(default)]
    pub ldflags: String,
    /// Binaries whose name is not that of their package.
    #[serde(default)]
    pub rename: BTreeMap<String, String>,
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
        assert!(versions.published_node_image.contains("@sha256:"), "published by digest");
        for image in &versions.image {
            let known = versions.component.iter().any(|c| c.module == image.component);
            assert!(known, "{} names a component that is not there", image.binary);
            if let Some(root) = &image.root {
                versions.root(root).unwrap();
            }
        }
        let kubelet = include_str!("../../deploy/kind/node-image/kubernetes/go.mod");
        assert!(kubelet.contains(&format!("k8s.io/kubernetes {}", versions.kubernetes)));
    }
}

//! The Kubernetes releases that a cluster can have: the rows of a table in `versions.toml`.

use serde::Deserialize;

use super::{GoComponent, SystemImage, Versions};
use crate::failure::{FailureClass, HarnessError, Result};

/// One release of Kubernetes. There is one for each minor version.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kubernetes {
    /// The version that is built from packages, as in `1.34.4`.
    pub version: String,
    /// Whether it is taken where none is asked for.
    #[serde(default)]
    pub default: bool,
    /// Kind's published node image, by digest. Its patch release may be another.
    pub published: Option<String>,
    /// The version of etcd that its kubeadm asks for.
    pub etcd: String,
    /// The version of CoreDNS that its kubeadm asks for.
    pub coredns: String,
}

impl Kubernetes {
    /// Major and minor version, as in `1.34`.
    #[must_use]
    pub fn minor(&self) -> &str {
        self.version.rsplit_once('.').map_or(&self.version, |(minor, _)| minor)
    }

    /// The version in the published image, as in `1.34.3`.
    #[must_use]
    pub fn published_version(&self) -> Option<&str> {
        let (_, tag) = self.published.as_deref()?.split_once(":v")?;
        tag.split('@').next()
    }

    /// `text` with this release's versions in the places that `versions.toml` leaves for them.
    fn fill(&self, text: &str) -> String {
        let (_, minor) = self.minor().split_once('.').unwrap_or_default();
        text.replace("{kubernetes}", &self.version)
            .replace("{minor}", minor)
            .replace("{etcd}", &self.etcd)
            .replace("{coredns}", &self.coredns)
    }
}

impl Versions {
    /// The release that is taken where none is asked for.
    ///
    /// # Errors
    /// The committed file marks none.
    pub fn default_kubernetes(&self) -> Result<&Kubernetes> {
        self.kubernetes.iter().find(|release| release.default).ok_or_else(|| {
            let (subject, cause) = ("a Kubernetes release", "versions.toml has no default");
            HarnessError::new(FailureClass::Harness, "find", subject, cause)
        })
    }

    /// The Go components of a node of `release`.
    #[must_use]
    pub fn components(&self, release: &Kubernetes) -> Vec<GoComponent> {
        let filled = |component: &GoComponent| GoComponent {
            directory: component.directory.as_deref().map(|text| release.fill(text)),
            ldflags: release.fill(&component.ldflags),
            ..component.clone()
        };
        self.component.iter().map(filled).collect()
    }

    /// The images that a node of `release` brings with it.
    #[must_use]
    pub fn images(&self, release: &Kubernetes) -> Vec<SystemImage> {
        let filled = |image: &SystemImage| SystemImage {
            references: image.references.iter().map(|text| release.fill(text)).collect(),
            ..image.clone()
        };
        self.image.iter().map(filled).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn module(directory: &str) -> String {
        let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kind/node-image");
        let go_mod = modules.join(directory).join("go.mod");
        std::fs::read_to_string(&go_mod).unwrap_or_else(|e| panic!("{}: {e}", go_mod.display()))
    }

    #[test]
    fn there_is_one_release_for_each_minor_version_and_one_default() {
        let releases = Versions::load().unwrap().kubernetes;
        assert_eq!(releases.iter().filter(|release| release.default).count(), 1);
        let minors: Vec<_> = releases.iter().map(Kubernetes::minor).collect();
        assert_eq!(minors, ["1.32", "1.33", "1.34", "1.35", "1.36"], "oldest first");
        for release in &releases {
            let Some(published) = &release.published else { continue };
            assert!(published.contains("@sha256:"), "published by digest");
            let version = release.published_version().unwrap();
            assert!(version.starts_with(&format!("{}.", release.minor())), "{published}");
        }
    }

    #[test]
    fn the_workflow_runs_the_oldest_the_default_and_the_newest() {
        let versions = Versions::load().unwrap();
        let releases = &versions.kubernetes;
        let (oldest, newest) = (releases.first().unwrap(), releases.last().unwrap());
        let default = versions.default_kubernetes().unwrap();
        let minors = [oldest, default, newest].map(|release| format!("{:?}", release.minor()));
        let workflow = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.github/workflows/e2e.yml");
        let workflow = std::fs::read_to_string(workflow).unwrap();
        assert!(workflow.contains(&format!("kubernetes: [{}]\n", minors.join(", "))));
    }

    #[test]
    fn the_modules_of_each_release_are_of_the_versions_in_the_table() {
        let versions = Versions::load().unwrap();
        for release in &versions.kubernetes {
            let required = [
                ("kubernetes", format!("k8s.io/kubernetes v{}", release.version)),
                ("etcd", format!("go.etcd.io/etcd/server/v3 v{}", release.etcd)),
                ("coredns", format!("github.com/coredns/coredns v{}", release.coredns)),
            ];
            for component in versions.components(release) {
                let go_mod = module(component.directory());
                let required = required.iter().filter(|(module, _)| component.module == *module);
                for (_, line) in required {
                    assert!(
                        go_mod.contains(&format!("\t{line} ")),
                        "{line} in {}",
                        component.directory()
                    );
                }
            }
            // What its staging modules are replaced by is of the same release.
            let go_mod = module(&format!("kubernetes-{}", release.minor()));
            let staged = format!(" v0.{}", release.version.trim_start_matches("1."));
            let replaced: Vec<_> = go_mod.lines().filter(|line| line.contains("=>")).collect();
            assert!(replaced.len() > 30);
            assert!(replaced.iter().all(|line| line.ends_with(&staged)), "{replaced:?}");
        }
    }

    #[test]
    fn everything_is_of_the_release_that_was_chosen() {
        let versions = Versions::load().unwrap();
        let release = &versions.kubernetes[1];
        let images = versions.images(release);
        let names: Vec<_> = images.iter().flat_map(|image| &image.references).collect();
        insta::assert_debug_snapshot!(names, @r#"
        [
            "registry.k8s.io/kube-apiserver:v1.33.13",
            "registry.k8s.io/kube-controller-manager:v1.33.13",
            "registry.k8s.io/kube-scheduler:v1.33.13",
            "registry.k8s.io/kube-proxy:v1.33.13",
            "registry.k8s.io/etcd:3.5.24-0",
            "registry.k8s.io/coredns/coredns:v1.12.0",
            "registry.k8s.io/pause:3.10",
            "registry.k8s.io/pause:3.10.1",
            "registry.k8s.io/pause:3.10.2",
            "docker.io/hodei/local-path-provisioner:v0.0.30",
        ]
        "#);
        for text in versions.components(release).iter().map(|component| format!("{component:?}")) {
            assert!(!text.contains("{m") && !text.contains("{k"), "{text}");
        }
    }
}

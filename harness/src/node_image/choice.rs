//! Which Kubernetes release is asked for, and where its node image can come from.
//!
//! A minor version says nothing of the patch release: published and built images have their own. An
//! exact version is that of one of the two, and so settles where the image comes from.

use std::str::FromStr;

use super::SourceChoice;
use crate::failure::{FailureClass, HarnessError, Result};
use crate::versions::{Kubernetes, Versions};

/// A Kubernetes release that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesChoice {
    /// The release.
    pub release: Kubernetes,
    /// Where the image of the exact version that was asked for comes from; of a minor version it is
    /// [`SourceChoice::Auto`].
    pub exactly: SourceChoice,
}

impl FromStr for KubernetesChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let versions = Versions::load().map_err(|error| error.to_string())?;
        let asked = text.strip_prefix('v').unwrap_or(text);
        let found = versions.kubernetes.iter().find_map(|release| {
            let built = asked == release.version;
            let published = release.published_version() == Some(asked);
            let exactly = match (built, published) {
                (true, true) => SourceChoice::Auto,
                (true, false) => SourceChoice::Packages,
                (false, true) => SourceChoice::Registry,
                (false, false) if asked == release.minor() => SourceChoice::Auto,
                (false, false) => return None,
            };
            Some(Self { release: release.clone(), exactly })
        });
        found.ok_or_else(|| format!("the supported versions are {}", list(&versions)))
    }
}

impl KubernetesChoice {
    /// The release that is taken where none is asked for: that of the minor version `recorded`, if it
    /// is still supported, else the default.
    ///
    /// # Errors
    /// The committed table of versions has no default.
    pub fn unasked(recorded: Option<&str>, versions: &Versions) -> Result<Self> {
        let known = versions.kubernetes.iter().find(|known| Some(known.minor()) == recorded);
        let release = known.map_or_else(|| versions.default_kubernetes(), Ok)?.clone();
        Ok(Self { release, exactly: SourceChoice::Auto })
    }

    /// The word that asks for it.
    #[must_use]
    pub fn word(&self) -> &str {
        match self.exactly {
            SourceChoice::Auto => self.release.minor(),
            SourceChoice::Packages => &self.release.version,
            SourceChoice::Registry => self.release.published_version().unwrap_or_default(),
        }
    }

    /// Where the image comes from, when `asked` is what was asked for.
    ///
    /// # Errors
    /// The exact version, or the release, is not to be had from there; the help says what to ask for.
    pub fn source(&self, asked: SourceChoice, versions: &Versions) -> Result<SourceChoice> {
        let Kubernetes { version, .. } = &self.release;
        match (self.exactly, asked) {
            (SourceChoice::Auto, SourceChoice::Registry) => {
                published(&self.release, versions).map(|_| SourceChoice::Registry)
            }
            (SourceChoice::Auto, SourceChoice::Auto) if self.release.published.is_none() => {
                Ok(SourceChoice::Packages)
            }
            (SourceChoice::Auto, asked) => Ok(asked),
            (exactly, SourceChoice::Auto) => Ok(exactly),
            (exactly, asked) if exactly == asked => Ok(asked),
            _ => {
                let published = self.release.published_version().unwrap_or("none");
                let cause = format!("{version} is built from packages, {published} is published");
                Err(unobtainable(&self.release, cause).with_help(format!(
                    "ask for --kubernetes {}, or leave --node-image-source out",
                    self.release.minor()
                )))
            }
        }
    }
}

/// The published image of `release`.
///
/// # Errors
/// There is none for the pinned version of Kind.
pub(super) fn published<'a>(release: &'a Kubernetes, versions: &Versions) -> Result<&'a str> {
    release.published.as_deref().ok_or_else(|| {
        let cause = format!("no image of it was published for Kind {}", versions.kind);
        unobtainable(release, cause).with_help("build it: --node-image-source packages")
    })
}

fn unobtainable(release: &Kubernetes, cause: String) -> HarnessError {
    let subject = format!("a node image of Kubernetes {}", release.minor());
    HarnessError::new(FailureClass::Image, "choose", subject, cause)
}

/// As in `1.34 (default; 1.34.4 from packages, 1.34.3 published)`, oldest first.
fn list(versions: &Versions) -> String {
    let one = |release: &Kubernetes| {
        let default = if release.default { "default; " } else { "" };
        let published = release.published_version();
        let published = published.map(|version| format!(", {version} published"));
        let (minor, built) = (release.minor(), &release.version);
        format!("{minor} ({default}{built} from packages{})", published.unwrap_or_default())
    };
    versions.kubernetes.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::SourceChoice::{Auto, Packages, Registry};
    use super::*;

    #[test]
    fn a_version_is_said_in_three_ways() {
        for (text, version, exactly) in [
            ("1.33", "1.33.13", Auto),
            ("v1.33", "1.33.13", Auto),
            ("1.33.13", "1.33.13", Packages),
            ("v1.33.13", "1.33.13", Packages),
            ("1.33.7", "1.33.13", Registry),
            ("v1.36.3", "1.36.3", Packages),
        ] {
            let choice: KubernetesChoice = text.parse().unwrap();
            assert_eq!((&*choice.release.version, choice.exactly), (version, exactly), "{text}");
            assert_eq!(choice.word(), text.trim_start_matches('v'));
        }
        for text in ["", "v", "1", "1.3", "1.31", "1.33.", "1.33.1", "vv1.33", "latest"] {
            text.parse::<KubernetesChoice>().unwrap_err();
        }
        insta::assert_snapshot!("1.31".parse::<KubernetesChoice>().unwrap_err(), @"the supported versions are 1.32 (1.32.9 from packages, 1.32.11 published), 1.33 (1.33.13 from packages, 1.33.7 published), 1.34 (default; 1.34.4 from packages, 1.34.3 published), 1.35 (1.35.4 from packages, 1.35.0 published), 1.36 (1.36.3 from packages)");
    }

    #[test]
    fn an_image_comes_from_where_its_version_is() {
        let versions = Versions::load().unwrap();
        let source = |text: &str, asked| {
            let choice: KubernetesChoice = text.parse().unwrap();
            choice.source(asked, &versions)
        };
        for (text, asked, source_of) in [
            ("1.33", Auto, Auto),
            ("1.33", Packages, Packages),
            ("1.33", Registry, Registry),
            ("1.33.13", Auto, Packages),
            ("1.33.13", Packages, Packages),
            ("1.33.7", Auto, Registry),
            ("1.36", Auto, Packages),
        ] {
            assert_eq!(source(text, asked).unwrap(), source_of, "{text} {asked:?}");
        }
        for (text, asked, says) in [
            ("1.33.13", Registry, "1.33.13 is built from packages, 1.33.7 is published"),
            ("1.33.7", Packages, "1.33.13 is built from packages, 1.33.7 is published"),
            ("1.36", Registry, "no image of it was published for Kind v0.31.0"),
        ] {
            let error = source(text, asked).unwrap_err();
            assert!(error.source.to_string().contains(says), "{error:?}");
            assert!(error.help.unwrap().contains("--"), "it says what to ask for");
        }
    }

    #[test]
    fn without_a_wish_the_cluster_keeps_its_release() {
        let versions = Versions::load().unwrap();
        for (recorded, minor) in
            [(Some("1.33"), "1.33"), (Some("1.28"), "1.34"), (Some(""), "1.34"), (None, "1.34")]
        {
            let choice = KubernetesChoice::unasked(recorded, &versions).unwrap();
            assert_eq!(choice.release.minor(), minor, "{recorded:?}");
        }
    }
}

//! The catalogue of cases: what is promised, at which layer, and which test proves it.
//!
//! Data only. How cases are run is `runner`'s, what their outcomes mean is `verdict`'s.

mod selection;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use selection::{SelectError, Selection};

use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::feature::Feature;

/// Layers, in the order in which reports list them: a failure in one explains those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// The cluster, its policies and the way to the host.
    Infra,
    /// One-time passwords and sessions.
    Registration,
    /// One worker, from create to gone.
    Lifecycle,
    /// One job, from submit to result.
    FullJob,
    /// Many workers and jobs.
    MultiWorker,
    /// Nothing stays behind.
    Cleanup,
    /// Faults injected on purpose.
    Faults,
}

impl Layer {
    /// All of them, in order.
    pub const ALL: [Self; 7] = [
        Self::Infra,
        Self::Registration,
        Self::Lifecycle,
        Self::FullJob,
        Self::MultiWorker,
        Self::Cleanup,
        Self::Faults,
    ];

    /// The name used on the command line and in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Infra => "infra",
            Self::Registration => "registration",
            Self::Lifecycle => "lifecycle",
            Self::FullJob => "full-job",
            Self::MultiWorker => "multi-worker",
            Self::Cleanup => "cleanup",
            Self::Faults => "faults",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Layer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = text.replace('_', "-");
        Self::ALL.into_iter().find(|layer| layer.as_str() == wanted).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|layer| layer.as_str()).collect();
            format!("no layer {text:?}; there are {}", names.join(", "))
        })
    }
}

/// Whether a case is part of every verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Always required.
    Core,
    /// Required where it is asked for.
    Extended,
}

impl Profile {
    /// The name used in the catalogue and in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Extended => "extended",
        }
    }
}

/// The part of a test's name by which nextest runs it alone (.config/nextest.toml).
pub const EXCLUSIVE_MARK: &str = "_exclusive_";

/// Ids that are suggested for an unknown one.
const NEAREST: usize = 3;

/// One promise, and the test that proves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// `layer.name`; never changes its meaning.
    pub id: String,
    /// The promise, in one sentence.
    pub title: String,
    /// Where it belongs.
    pub layer: Layer,
    /// Whether it is always required.
    pub profile: Profile,
    /// What the cluster must have.
    #[serde(default)]
    pub features: BTreeSet<Feature>,
    /// Whether it disturbs or fills the whole cluster, so that no other case may run beside it. The name
    /// of its test says so too: that is what nextest goes by.
    #[serde(default)]
    pub exclusive: bool,
    /// The requirement it stands for: `HU-10.4`.
    pub requirement: String,
    /// The public bug it guards against: `argo#2711`.
    #[serde(default)]
    pub guards: Vec<String>,
    /// `module::function` in the test binary.
    pub test: String,
}

impl Case {
    /// The id as a part of a DNS label: at most 36 characters, distinct for distinct ids.
    #[must_use]
    pub fn slug(&self) -> String {
        slug(&self.id)
    }
}

/// All cases, in the file's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// The cases.
    #[serde(rename = "case")]
    pub cases: Vec<Case>,
}

impl Catalogue {
    /// Where the catalogue is in a checkout.
    #[must_use]
    pub fn path(workspace: &Path) -> std::path::PathBuf {
        workspace.join("suites/catalogue.toml")
    }

    /// Reads the catalogue of a checkout.
    ///
    /// # Errors
    /// It cannot be read, or breaks a rule of [`Self::parse`].
    pub fn read(workspace: &Path) -> Result<Self> {
        let path = Self::path(workspace);
        let subject = || format!("the catalogue {}", path.display());
        let text =
            std::fs::read_to_string(&path).classify(FailureClass::Harness, "read", subject())?;
        Self::parse(&text).classify(FailureClass::Harness, "use", subject())
    }

    /// Understands a catalogue.
    ///
    /// # Errors
    /// It is not TOML of this shape, an id or test is there twice, an id does not begin with its
    /// layer, or a case and the name of its test disagree on whether it runs alone.
    pub fn parse(text: &str) -> Result<Self, String> {
        let catalogue: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        let (mut ids, mut tests, mut slugs) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for case in &catalogue.cases {
            if !case.id.starts_with(&format!("{}.", case.layer)) {
                return Err(format!(
                    "case {} is not named after its layer {}",
                    case.id, case.layer
                ));
            }
            if !ids.insert(&case.id) || !slugs.insert(case.slug()) {
                return Err(format!("case {} is there twice", case.id));
            }
            if case.exclusive != case.test.contains(EXCLUSIVE_MARK) {
                return Err(format!(
                    "case {}: exclusive = {}, so its test's name has {} {EXCLUSIVE_MARK}",
                    case.id,
                    case.exclusive,
                    if case.exclusive { "to hold" } else { "not to hold" },
                ));
            }
            if !tests.insert(&case.test) {
                return Err(format!("test {} stands for two cases", case.test));
            }
        }
        Ok(catalogue)
    }

    /// The case of this id.
    ///
    /// # Errors
    /// There is none; the error names close ones.
    pub fn case(&self, id: &str) -> Result<&Case> {
        self.cases.iter().find(|case| case.id == id).ok_or_else(|| {
            HarnessError::new(
                FailureClass::Harness,
                "find",
                format!("case {id}"),
                "it is not in the catalogue",
            )
            .with_help(format!(
                "did you mean {}? `hodei-e2e list` has all; a new one goes into suites/catalogue.toml",
                self.nearest(id).join(", ")
            ))
        })
    }

    /// The ids most like `id`, the likest first; at most [`NEAREST`].
    pub(crate) fn nearest(&self, id: &str) -> Vec<&str> {
        let likeness = |known: &str| strsim::jaro_winkler(known, id);
        let mut near: Vec<_> = self.cases.iter().map(|case| case.id.as_str()).collect();
        near.sort_by(|a, b| likeness(b).total_cmp(&likeness(a)));
        near.truncate(NEAREST);
        near
    }
}

fn slug(id: &str) -> String {
    let text: String = id
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    if text.len() <= 36 {
        return text.trim_matches('-').to_owned();
    }
    let digest = <sha2::Sha256 as sha2::Digest>::digest(id.as_bytes());
    let tail: String = digest.iter().take(2).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{tail}", text[..31].trim_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const TWO: &str = r#"
        [[case]]
        id = "infra.nodes"
        title = "Nodes are ready"
        layer = "infra"
        profile = "core"
        requirement = "HU-10.1"
        test = "infra::nodes"

        [[case]]
        id = "full-job.echo"
        title = "A job runs"
        layer = "full-job"
        profile = "extended"
        requirement = "HU-10.4"
        test = "full_job::echo"
    "#;

    #[test]
    fn the_likest_ids_are_suggested_first() {
        let catalogue = Catalogue::parse(TWO).unwrap();
        assert_eq!(catalogue.nearest("full-jobs.ecko"), ["full-job.echo", "infra.nodes"]);
        assert_eq!(catalogue.nearest("nodes")[0], "infra.nodes");
        assert_eq!(catalogue.nearest("").len(), 2);
    }

    #[test]
    fn broken_catalogues_are_refused() {
        for (from, to, says) in [
            ("id = \"full-job.echo\"", "id = \"infra.nodes\"", "layer"),
            ("full_job::echo", "infra::nodes", "two cases"),
            ("profile = \"core\"", "profile = \"cor\"", "unknown variant"),
            ("title", "titel", "unknown field"),
            ("profile = \"core\"", "profile = \"core\"\nfeatures = [\"gpus\"]", "unknown variant"),
            ("profile = \"core\"", "profile = \"core\"\nexclusive = true", "exclusive"),
            ("infra::nodes", "infra::an_exclusive_test", "exclusive"),
        ] {
            let error = Catalogue::parse(&TWO.replace(from, to)).unwrap_err();
            assert!(error.contains(says), "{from} → {to}: {error}");
        }
    }

    #[test]
    fn slugs_are_short_and_distinct() {
        assert_eq!(slug("full-job.echo"), "full-job-echo");
        let (a, b) = (
            slug(&format!("infra.{}a", "x".repeat(50))),
            slug(&format!("infra.{}b", "x".repeat(50))),
        );
        assert!(a != b && a.len() <= 36, "{a} {b}");
    }
}

//! The quarantine: cases that are known to fail now and then, each with an owner, a reason and a
//! last day. What a quarantined case counts as is `verdict`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::value::Datetime;

use crate::catalogue::Catalogue;
use crate::failure::{Classify, FailureClass, HarnessError, Result};

/// Why a case is in quarantine, and how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Who mends it.
    pub owner: String,
    /// What is known of it.
    pub reason: String,
    /// Where it is followed up.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub issue: Option<String>,
    /// The last day, in UTC.
    pub expires: Date,
}

impl fmt::Display for Quarantined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in quarantine until {} ({}): {}", self.expires, self.owner, self.reason)?;
        self.issue.iter().try_for_each(|issue| write!(f, " {issue}"))
    }
}

/// All entries of a checkout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quarantine {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    line: usize,
    about: Quarantined,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    #[serde(default)]
    quarantine: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    case: Spanned<String>,
    owner: String,
    reason: String,
    issue: Option<String>,
    expires: Datetime,
}

impl Quarantine {
    /// Where it is in a checkout.
    #[must_use]
    pub fn path(workspace: &Path) -> PathBuf {
        workspace.join("suites/quarantine.toml")
    }

    /// Reads the quarantine of a checkout; one without the file has none.
    ///
    /// # Errors
    /// It cannot be read, or breaks a rule of [`Self::parse`].
    pub fn read(workspace: &Path, catalogue: &Catalogue) -> Result<Self> {
        let path = Self::path(workspace);
        let subject = || format!("the quarantine {}", path.display());
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(error).classify(FailureClass::Harness, "read", subject()),
        };
        Self::parse(&text, catalogue).classify(FailureClass::Harness, "use", subject())
    }

    /// Understands a quarantine file.
    ///
    /// # Errors
    /// It is not TOML of this shape, or an entry's case is not in the catalogue or there twice, its
    /// owner or reason is empty, or its last day is no date; the sentence begins with the line.
    pub fn parse(text: &str, catalogue: &Catalogue) -> Result<Self, String> {
        let content: Content = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut entries = BTreeMap::new();
        for written in content.quarantine {
            let line = text[..written.case.span().start].matches('\n').count() + 1;
            let id = written.case.into_inner();
            let wrong = |what: String| Err(format!("line {line}: {what}"));
            if !catalogue.cases.iter().any(|case| case.id == id) {
                let near = catalogue.nearest(&id).join(", ");
                return wrong(format!("there is no case {id}; did you mean {near}?"));
            }
            if written.owner.trim().is_empty() || written.reason.trim().is_empty() {
                return wrong(format!("{id} needs an owner and a reason"));
            }
            let Ok(expires) = written.expires.to_string().parse() else {
                return wrong(format!("{id} needs a date as in `expires = 2026-12-31`"));
            };
            let Written { owner, reason, issue, .. } = written;
            let about = Quarantined { owner, reason, issue, expires };
            if entries.insert(id.clone(), Entry { line, about }).is_some() {
                return wrong(format!("{id} is there twice"));
            }
        }
        Ok(Self { entries })
    }

    /// Why a case is in it; `None` if it is not.
    #[must_use]
    pub fn of(&self, case: &str) -> Option<&Quarantined> {
        self.entries.get(case).map(|entry| &entry.about)
    }

    /// Refuses a quarantine with an entry whose last day is before `today`.
    ///
    /// # Errors
    /// Each such entry, with its line.
    pub fn require_current(&self, today: Date) -> Result<()> {
        let expired: BTreeSet<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.about.expires < today)
            .map(|(id, Entry { line, about })| (*line, format!("line {line}: {id} was {about}")))
            .collect();
        if expired.is_empty() {
            return Ok(());
        }
        let said: Vec<_> = expired.into_iter().map(|(_, text)| text).collect();
        let (class, subject) = (FailureClass::Harness, "suites/quarantine.toml");
        Err(HarnessError::new(class, "begin with", subject, said.join("; ")).with_help(
            "the time is over: mend the case and take the entry out, or give it a new last day",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: &str = r#"
        [[case]]
        id = "infra.nodes"
        title = "Nodes are ready"
        layer = "infra"
        profile = "core"
        requirement = "HU-10.1"
        test = "infra::nodes"
    "#;
    const ONE: &str = "# why\n\n[[quarantine]]\nowner = \"jane\"\ncase = \"infra.nodes\"\n\
                       reason = \"slow disk\"\nissue = \"#7\"\nexpires = 2026-03-31\n";

    fn parse(text: &str) -> Result<Quarantine, String> {
        Quarantine::parse(text, &Catalogue::parse(CASES).unwrap())
    }

    #[test]
    fn an_entry_holds_through_its_last_day_and_its_line_is_told_after_it() {
        let quarantine = parse(ONE).unwrap();
        let said = quarantine.of("infra.nodes").unwrap().to_string();
        assert_eq!(said, "in quarantine until 2026-03-31 (jane): slow disk #7");
        assert_eq!(quarantine.of("infra.node"), None);
        quarantine.require_current("2026-03-31".parse().unwrap()).unwrap();
        let error = quarantine.require_current("2026-04-01".parse().unwrap()).unwrap_err();
        assert_eq!(
            error.source.to_string(),
            "line 5: infra.nodes was in quarantine until 2026-03-31 (jane): slow disk #7"
        );
        assert_eq!(error.subject, "suites/quarantine.toml");
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_with_its_line() {
        let twice = format!("{ONE}{ONE}");
        let with = |from: &str, to: &str| ONE.replace(from, to);
        for (text, says) in [
            (
                with("infra.nodes", "infra.node"),
                "line 5: there is no case infra.node; did you mean infra.nodes?",
            ),
            (twice, "line 13: infra.nodes is there twice"),
            (with("slow disk", " "), "line 5: infra.nodes needs an owner"),
            (with("2026-03-31", "2026-03-31T10:00:00Z"), "line 5: infra.nodes needs a date"),
            (with("2026-03-31", "10:00:00"), "line 5: infra.nodes needs a date"),
            (with("issue", "isue"), "unknown field `isue`"),
            (with("owner = \"jane\"\n", ""), "missing field `owner`"),
            ("[[quarantine".to_owned(), "line 1"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn no_file_and_an_empty_one_are_no_quarantine_and_the_committed_one_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::parse(CASES).unwrap();
        assert_eq!(Quarantine::read(dir.path(), &catalogue).unwrap(), Quarantine::default());
        assert_eq!(parse("# nothing\n").unwrap(), Quarantine::default());
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert!(Quarantine::path(workspace).is_file());
        Quarantine::read(workspace, &Catalogue::read(workspace).unwrap()).unwrap();
    }
}

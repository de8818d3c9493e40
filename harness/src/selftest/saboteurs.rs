//! The saboteurs: for each case, the edits of source that make its promise untrue, in the
//! processes of that case alone. Data and what has to hold of it; nothing here builds or runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::catalogue::{Case, Catalogue};
use crate::failure::{Classify, FailureClass, HarnessError, Result};

/// Where the saboteurs are in a checkout.
pub const FILE: &str = "suites/saboteurs.toml";
/// Stands in an edit for the expression that is true in the processes of the saboteur's case.
const SWITCH: &str = "{on}";
/// What may be edited: never the cases, which are what is under test.
const SOURCES: [&str; 2] = ["platform", "harness"];
/// What mends a saboteur that does not apply.
const HELP: &str = "each `replace` has to be in its file exactly once, after the edits before it: give the entry the \
     text that the source has now, and check with `hodei-e2e selftest --check`";

/// One replacement in one file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// A Rust source, from the top of the checkout.
    pub file: PathBuf,
    /// Text that is in the file exactly once.
    pub replace: String,
    /// What takes its place.
    pub with: String,
}

/// What makes the promise of one case untrue.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saboteur {
    /// The case's id in the catalogue.
    pub case: String,
    /// What it breaks, in one sentence.
    pub breaks: String,
    /// The class that the case has to fail with.
    pub class: FailureClass,
    /// A part of the failure's text, to tell this failure from any other.
    #[serde(default)]
    pub says: Option<String>,
    /// Applied in order.
    #[serde(rename = "edit", default)]
    pub edits: Vec<Edit>,
}

/// All saboteurs, in the file's order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saboteurs {
    /// Edits that take the name of the test to processes that do not inherit it, as in pods.
    #[serde(rename = "carrier", default)]
    pub carriers: Vec<Edit>,
    /// One a case.
    #[serde(rename = "saboteur", default)]
    pub saboteurs: Vec<Saboteur>,
}

/// Edited sources, by their path in the checkout.
pub type Edited = BTreeMap<PathBuf, String>;

impl Saboteurs {
    /// Reads the saboteurs of a checkout.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML of this shape, or an entry breaks a rule; all that do
    /// are named.
    pub fn read(workspace: &Path, catalogue: &Catalogue) -> Result<Self> {
        let path = workspace.join(FILE);
        let subject = || format!("the saboteurs {}", path.display());
        let text =
            std::fs::read_to_string(&path).classify(FailureClass::Harness, "read", subject())?;
        Self::parse(&text, catalogue).classify(FailureClass::Harness, "use", subject())
    }

    /// Understands the file.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn parse(text: &str, catalogue: &Catalogue) -> Result<Self, String> {
        let all: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut problems = Vec::new();
        let mut cases = BTreeSet::new();
        for saboteur in &all.saboteurs {
            let case = &saboteur.case;
            let mut wrong = |what: &str| problems.push(format!("saboteur of {case}: {what}"));
            if let Err(error) = catalogue.case(case) {
                wrong(&format!("{}; {}", error.source, error.help.unwrap_or_default()));
            }
            if !cases.insert(case) {
                wrong("a case has one saboteur, and this is its second");
            }
            if saboteur.breaks.trim().is_empty() {
                wrong("`breaks` says nothing");
            }
            if saboteur.says.as_ref().is_some_and(|says| says.trim().is_empty()) {
                wrong("`says` is empty, which every text holds");
            }
            if saboteur.edits.is_empty() {
                wrong("it edits nothing");
            }
        }
        for (whose, saboteur, edit) in all.edits() {
            let mut wrong = |what: &str| problems.push(format!("{whose}: {what}"));
            if !is_source(&edit.file) {
                wrong("only Rust sources of platform/ and harness/ are edited");
            }
            if edit.replace.is_empty() {
                wrong("`replace` is empty");
            }
            if saboteur.is_some() && !edit.with.contains(SWITCH) {
                wrong(&format!("`with` has no {SWITCH}, so that it would break every case"));
            }
        }
        if problems.is_empty() { Ok(all) } else { Err(problems.join("\n")) }
    }

    /// The saboteur of a case.
    #[must_use]
    pub fn of(&self, case: &str) -> Option<&Saboteur> {
        self.saboteurs.iter().find(|saboteur| saboteur.case == case)
    }

    /// Refuses cases without a saboteur.
    ///
    /// # Errors
    /// Names all of them.
    pub fn require(&self, cases: &[&Case]) -> Result<()> {
        let lacks = |case: &&&Case| self.of(&case.id).is_none();
        let missing: Vec<_> = cases.iter().filter(lacks).map(|case| case.id.as_str()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let cause = format!("{} has no saboteur of {}", FILE, missing.join(", "));
        let error = HarnessError::new(FailureClass::Harness, "sabotage", "every case", cause);
        Err(error.with_help("say there what would make the promise untrue"))
    }

    /// The sources as the edits leave them: carriers first, then saboteurs, in the file's order.
    ///
    /// # Errors
    /// An edit does not apply; all that do not are named.
    pub fn apply(&self, workspace: &Path, catalogue: &Catalogue) -> Result<Edited> {
        let mut edited = Edited::new();
        let mut problems = Vec::new();
        for (whose, saboteur, edit) in self.edits() {
            let on = saboteur.and_then(|saboteur| catalogue.case(&saboteur.case).ok()).map(switch);
            let with = on.map_or_else(|| edit.with.clone(), |on| edit.with.replace(SWITCH, &on));
            let before = match edited.get(&edit.file) {
                Some(text) => Ok(text.clone()),
                None => std::fs::read_to_string(workspace.join(&edit.file))
                    .map_err(|error| error.to_string()),
            };
            match before.and_then(|text| replace_once(&text, &edit.replace, &with)) {
                Ok(text) => drop(edited.insert(edit.file.clone(), text)),
                Err(why) => problems.push(format!("{whose}: {why}")),
            }
        }
        if problems.is_empty() {
            return Ok(edited);
        }
        let (subject, cause) = (format!("the edits of {FILE}"), problems.join("\n"));
        Err(HarnessError::new(FailureClass::Harness, "apply", subject, cause).with_help(HELP))
    }

    /// Every edit in the order of application, with the words for it and its saboteur; a carrier has
    /// none.
    fn edits(&self) -> Vec<(String, Option<&Saboteur>, &Edit)> {
        let carriers =
            self.carriers.iter().enumerate().map(|(at, edit)| ("carriers", at, None, edit));
        let saboteurs = self.saboteurs.iter().flat_map(|saboteur| {
            let edits = saboteur.edits.iter().enumerate();
            edits.map(move |(at, edit)| (saboteur.case.as_str(), at, Some(saboteur), edit))
        });
        let words = |whose: &str, at: usize, saboteur: Option<_>, edit: &Edit| {
            let kind = if saboteur.is_some() { "saboteur of " } else { "" };
            format!("{kind}{whose}, edit {} ({})", at + 1, edit.file.display())
        };
        carriers
            .chain(saboteurs)
            .map(|(whose, at, saboteur, edit)| (words(whose, at, saboteur, edit), saboteur, edit))
            .collect()
    }
}

/// What has to hold of a checkout: its file is well-formed, each case has a saboteur, and each
/// edit applies. Returns a sentence for a person.
///
/// # Errors
/// It does not hold.
pub fn check(workspace: &Path) -> Result<String> {
    let catalogue = Catalogue::read(workspace)?;
    let all = Saboteurs::read(workspace, &catalogue)?;
    all.require(&catalogue.cases.iter().collect::<Vec<_>>())?;
    let edited = all.apply(workspace, &catalogue)?;
    let (count, edits) = (all.saboteurs.len(), all.edits().len());
    Ok(format!(
        "{count} cases, each with its saboteur; their {edits} edits apply to {} files",
        edited.len()
    ))
}

/// An expression of type bool, true in the processes of this case: nextest names the test in its
/// process's environment, and what that starts inherits it.
fn switch(case: &Case) -> String {
    format!("(std::env::var(\"NEXTEST_TEST_NAME\").as_deref() == Ok({:?}))", case.test)
}

fn is_source(path: &Path) -> bool {
    let parts: Option<Vec<_>> = path
        .components()
        .map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect();
    let first = parts.and_then(|parts| parts.first().copied());
    first.is_some_and(|first| SOURCES.contains(&first))
        && path.extension().is_some_and(|extension| extension == "rs")
}

fn replace_once(text: &str, replace: &str, with: &str) -> Result<String, String> {
    match text.matches(replace).count() {
        1 => Ok(text.replacen(replace, with, 1)),
        0 => Err(format!("its text is not there{}", nearest(text, replace))),
        times => Err(format!("its text is there {times} times")),
    }
}

/// Where the first line of what was looked for is, if it is there.
fn nearest(text: &str, replace: &str) -> String {
    let Some(first) = replace.lines().map(str::trim).find(|line| !line.is_empty()) else {
        return String::new();
    };
    let at = text.lines().position(|line| line.contains(first));
    at.map_or_else(String::new, |at| format!("; its first line, `{first}`, is in line {}", at + 1))
}

#[cfg(test)]
#[path = "saboteurs_tests.rs"]
mod tests;

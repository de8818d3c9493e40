//! What a selftest found: for each case, what was broken and whether the case went red for it. A pure
//! function of the saboteurs and the sabotaged run's report; as JSON, Markdown and text.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::saboteurs::Saboteur;
use crate::bounded::{headline, visible};
use crate::catalogue::Case;
use crate::failure::{Classify, EXIT_INCONCLUSIVE, FailureClass, Result};
use crate::paths::write_atomically;
use crate::report::Report;
use crate::verdict::{CaseResult, Result as Counted};

/// The value of [`Matrix::schema`].
pub const SCHEMA: &str = "hodei-e2e-selftest/1";

/// What a case did when its promise was untrue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// It failed, with the right class and for the right reason.
    Red,
    /// It passed: it cannot fail, or what was broken is not what it looks at.
    Green,
    /// It failed with another class.
    WrongClass,
    /// It failed with the right class, and its text does not hold what the saboteur says.
    OtherReason,
    /// It did not run.
    NotRun,
}

impl Finding {
    /// The words for a person.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Green => "green",
            Self::WrongClass => "wrong class",
            Self::OtherReason => "other reason",
            Self::NotRun => "not run",
        }
    }

    fn of(saboteur: &Saboteur, result: Option<&CaseResult>) -> Self {
        let Some(result) = result else { return Self::NotRun };
        match (result.result, &saboteur.says) {
            (Counted::NotRun, _) => Self::NotRun,
            (Counted::Passed, _) => Self::Green,
            (Counted::Failed, _) if result.class != Some(saboteur.class) => Self::WrongClass,
            (Counted::Failed, Some(says)) if !result.message.contains(says) => Self::OtherReason,
            (Counted::Failed, _) => Self::Red,
        }
    }
}

/// One case and its saboteur.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The case's id.
    pub case: String,
    /// Its promise.
    pub title: String,
    /// What was broken.
    pub breaks: String,
    /// What came of it.
    pub found: Finding,
    /// The class that was wanted.
    pub wanted: FailureClass,
    /// The class that it failed with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub class: Option<FailureClass>,
    /// What its text was to hold.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub says: Option<String>,
    /// The first line of its failure, or of why it did not run.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub message: String,
    /// Seconds that it took.
    pub seconds: f64,
}

/// The whole selftest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Matrix {
    /// `hodei-e2e-selftest/1`.
    pub schema: String,
    /// Id of the sabotaged run.
    pub run: String,
    /// The commit that was sabotaged, with a digest of what differs from it; empty if unknown.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub commit: String,
    /// When the selftest began.
    pub started_at: Timestamp,
    /// Seconds in all.
    pub seconds: f64,
    /// Each chosen case, in the catalogue's order.
    pub cases: Vec<Row>,
    /// What the sabotaged run left behind after its clean-up.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub leaks: Vec<String>,
}

impl Matrix {
    /// Grades what a sabotaged run reports of the chosen cases.
    #[must_use]
    pub fn grade(
        chosen: &[(&Case, &Saboteur)],
        report: &Report,
        commit: String,
        started_at: Timestamp,
        seconds: f64,
    ) -> Self {
        let row = |(case, saboteur): &(&Case, &Saboteur)| {
            let result = report.cases.iter().find(|result| result.id == case.id);
            let message = result.map_or("the run's report does not name it", |one| &one.message);
            Row {
                case: case.id.clone(),
                title: case.title.clone(),
                breaks: saboteur.breaks.clone(),
                found: Finding::of(saboteur, result),
                wanted: saboteur.class,
                class: result.and_then(|result| result.class),
                says: saboteur.says.clone(),
                message: visible(&headline(message)).into_owned(),
                seconds: result.map_or(0.0, |result| result.seconds),
            }
        };
        Self {
            schema: SCHEMA.into(),
            run: report.run.clone(),
            commit,
            started_at,
            seconds,
            cases: chosen.iter().map(row).collect(),
            leaks: report.leaks.clone(),
        }
    }

    /// 0 if each case is red for its saboteur, 1 if one is not or something was left behind, 3 if one
    /// did not run.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let any = |of: fn(Finding) -> bool| self.cases.iter().any(|row| of(row.found));
        if any(|found| !matches!(found, Finding::Red | Finding::NotRun)) || !self.leaks.is_empty() {
            FailureClass::Product.exit_code()
        } else if self.cases.is_empty() || any(|found| found == Finding::NotRun) {
            EXIT_INCONCLUSIVE
        } else {
            0
        }
    }

    /// "94 of 96 cases red, 1 green, 1 not run".
    #[must_use]
    pub fn counts(&self) -> String {
        use Finding::{Green, NotRun, OtherReason, Red, WrongClass};
        let count = |found| self.cases.iter().filter(|row| row.found == found).count();
        let mut text = format!("{} of {} case(s) red", count(Red), self.cases.len());
        for found in [Green, WrongClass, OtherReason, NotRun] {
            match count(found) {
                0 => {}
                some => text.push_str(&format!(", {some} {}", found.as_str())),
            }
        }
        text
    }

    /// Writes `selftest.json` and `selftest.md` into `dir`; returns their paths.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<[PathBuf; 2]> {
        let harness = FailureClass::Harness;
        let json =
            serde_json::to_string_pretty(self).classify(harness, "encode", "the selftest")?;
        let paths = ["selftest.json", "selftest.md"].map(|name| dir.join(name));
        for (path, text) in paths.iter().zip([json, self.to_markdown()]) {
            write_atomically(path, text.as_bytes(), 0o644)?;
        }
        Ok(paths)
    }

    /// The matrix for a terminal: three lines a case.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        self.write_text(&mut text).expect("writing to a String cannot fail");
        text
    }

    fn write_text(&self, text: &mut String) -> std::fmt::Result {
        for row in &self.cases {
            let mark = if row.found == Finding::Red { "✓" } else { "✗" };
            writeln!(text, "{mark} {}: {} ({:.1} s)", row.case, row.verdict(), row.seconds)?;
            writeln!(text, "    broken  {}", row.breaks)?;
            if !row.message.is_empty() {
                writeln!(text, "    said    {}", row.message)?;
            }
            if let Some(says) = row.missed() {
                writeln!(text, "    wanted  {says}")?;
            }
        }
        for leak in &self.leaks {
            writeln!(text, "✗ left behind: {leak}")?;
        }
        writeln!(text, "{}", self.counts())
    }

    /// The matrix as GitHub-flavoured Markdown.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        self.write_markdown(&mut text).expect("writing to a String cannot fail");
        text
    }

    fn write_markdown(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "# Hodei selftest: {}\n", self.counts())?;
        writeln!(text, "Each case ran with its promise made untrue, and has to fail for that.\n")?;
        write!(text, "{:.0} s · sabotaged run `{}`", self.seconds, self.run)?;
        match self.commit.as_str() {
            "" => writeln!(text, "\n")?,
            commit => writeln!(text, " · commit `{commit}`\n")?,
        }
        if !self.leaks.is_empty() {
            writeln!(text, "## Left behind\n")?;
            self.leaks.iter().try_for_each(|leak| writeln!(text, "- {leak}"))?;
            writeln!(text)?;
        }
        writeln!(text, "| case | what was broken | found | first line of the failure | seconds |")?;
        writeln!(text, "|---|---|---|---|--:|")?;
        for row in &self.cases {
            let (case, breaks) = (&row.case, cell(&row.breaks));
            let message = match row.missed() {
                Some(says) => cell(&format!("{} (wanted: {says})", row.message)),
                None => cell(&row.message),
            };
            let found = row.verdict();
            let found = if row.found == Finding::Red { found } else { format!("**{found}**") };
            writeln!(text, "| `{case}` | {breaks} | {found} | {message} | {:.1} |", row.seconds)?;
        }
        Ok(())
    }
}

impl Row {
    /// What was looked for in the failure's text in vain.
    fn missed(&self) -> Option<&str> {
        self.says.as_deref().filter(|_| self.found == Finding::OtherReason)
    }

    /// "red, product", "wrong class, network for product".
    fn verdict(&self) -> String {
        let found = self.found.as_str();
        match (self.found, self.class) {
            (Finding::WrongClass, Some(class)) => format!("{found}, {class} for {}", self.wanted),
            (_, Some(class)) => format!("{found}, {class}"),
            (_, None) => found.to_owned(),
        }
    }
}

/// Text that stays in its cell, and shows as it is.
fn cell(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        match c {
            '|' | '\\' | '`' | '<' | '*' | '_' => shown.extend(['\\', c]),
            '\n' => shown.push(' '),
            other => shown.push(other),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{Catalogue, Layer};
    use crate::report::tests as reports;
    use crate::selftest::saboteurs::Saboteurs;

    const IDS: [&str; 6] = ["red", "green", "class", "reason", "not-run", "unnamed"];

    fn catalogue() -> Catalogue {
        let case = |id: &str| {
            format!(
                "[[case]]\nid = \"full-job.{id}\"\ntitle = \"It is {id}\"\nlayer = \"full-job\"\n\
                 profile = \"core\"\nrequirement = \"HU-10.4\"\ntest = \"full_job::{id}\"\n"
            )
        };
        Catalogue::parse(&IDS.map(case).concat()).unwrap()
    }

    fn saboteurs() -> Saboteurs {
        let one = |id: &str| {
            format!(
                "[[saboteur]]\ncase = \"full-job.{id}\"\nbreaks = \"{id}: a|b is always 0\"\n\
                 class = \"product\"\nsays = \"last seen: RUNNING\"\n[[saboteur.edit]]\n\
                 file = \"platform/a.rs\"\nreplace = \"a\"\nwith = \"{{on}}\"\n"
            )
        };
        Saboteurs::parse(&IDS.map(one).concat(), &catalogue()).unwrap()
    }

    /// Of a run in which the first `count` cases came out as they are called.
    fn matrix(count: usize, leaks: &[&str]) -> Matrix {
        let (catalogue, saboteurs) = (catalogue(), saboteurs());
        let (failed, product) = (Counted::Failed, Some(FailureClass::Product));
        let results = [
            (failed, product),
            (Counted::Passed, None),
            (failed, Some(FailureClass::Network)),
            (failed, product),
            (Counted::NotRun, None),
        ];
        let of = |(case, (result, class)): (&Case, _)| {
            let mut result = reports::case(&case.id, Layer::FullJob, result, class);
            if case.id.ends_with("reason") {
                result.message = "`left` == <right>\nlast seen: \u{1b}PENDING".into();
            }
            result
        };
        let cases = catalogue.cases.iter().take(count).zip(results).map(of).collect();
        let leaks = leaks.iter().map(|leak| (*leak).to_owned()).collect();
        let report = Report { cases, leaks, ..reports::report() };
        let with = |case| (case, saboteurs.of(&Case::clone(case).id).unwrap());
        let chosen: Vec<_> = catalogue.cases.iter().take(count).map(with).collect();
        let at = "2026-01-01T12:00:00Z".parse().unwrap();
        Matrix::grade(&chosen, &report, "4433e5f1".into(), at, 61.5)
    }

    #[test]
    fn a_person_reads_this() {
        let matrix = matrix(IDS.len(), &["namespace x"]);
        insta::assert_snapshot!("text", matrix.to_text());
        insta::assert_snapshot!("markdown", matrix.to_markdown());
        insta::assert_snapshot!("json", serde_json::to_string_pretty(&matrix).unwrap());
    }

    #[test]
    fn only_red_for_the_right_reason_is_success() {
        assert_eq!(matrix(1, &[]).exit_code(), 0);
        assert_eq!(matrix(1, &["namespace x"]).exit_code(), 1);
        assert_eq!(matrix(0, &[]).exit_code(), 3, "nothing was proved");
        let all = matrix(IDS.len(), &[]);
        let of = |row: &Row| {
            Matrix { cases: vec![all.cases[0].clone(), row.clone()], ..all.clone() }.exit_code()
        };
        assert_eq!(all.cases.iter().map(of).collect::<Vec<_>>(), [0, 1, 1, 1, 3, 3]);
        assert_eq!(all.exit_code(), 1, "a green one weighs more than one that did not run");
    }

    #[test]
    fn both_files_are_written_and_the_json_is_the_matrix() {
        let (dir, matrix) = (tempfile::tempdir().unwrap(), matrix(IDS.len(), &[]));
        let [json, markdown] = matrix.save(&dir.path().join("deep")).unwrap();
        let read: Matrix = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
        assert_eq!(read, matrix);
        assert_eq!(std::fs::read_to_string(markdown).unwrap(), matrix.to_markdown());
    }
}

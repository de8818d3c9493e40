//! Preflight: what this machine has, what it lacks, and what mends it.
//!
//! Nothing is changed here. `missing` is what `hodei-e2e up` mends by itself; `fail` is what a
//! person has to. Of a cluster that is there already the same is said by `cluster`.

mod checks;
pub mod cluster;
pub mod host;

use serde::{Deserialize, Serialize};

use crate::bounded::visible;
use crate::failure::{FailureClass, HarnessError, Result};
use crate::paths::Paths;
use crate::progress::Stage;

/// Columns of the report's table at most, where it has long words.
const WIDTH: u16 = 150;

/// How one check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It will work, with a caveat.
    Warn,
    /// Not there; `hodei-e2e up` mends it.
    Missing,
    /// Not as it must be; a person has to mend it.
    Fail,
}

impl Status {
    /// The word in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Missing => "missing",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// A stable name: "engine", "disk".
    pub id: String,
    /// How it came out.
    pub status: Status,
    /// What is there.
    pub found: String,
    /// What is needed.
    pub needed: String,
    /// What mends it; empty when nothing is to be mended.
    pub fix: String,
}

impl Check {
    fn new(id: &str, needed: impl Into<String>, status: Status, found: impl Into<String>) -> Self {
        let (id, found, needed) = (id.into(), found.into(), needed.into());
        Self { id, status, found, needed, fix: String::new() }
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        if self.status != Status::Ok {
            self.fix = fix.into();
        }
        self
    }
}

/// All checks of one visit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// In the order in which a bootstrap, or a worker, needs them.
    pub checks: Vec<Check>,
    /// What else has to be known, in a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub notes: Vec<String>,
}

impl Report {
    /// The worst status among the checks.
    #[must_use]
    pub fn worst(&self) -> Status {
        self.checks.iter().map(|check| check.status).max().unwrap_or(Status::Ok)
    }

    /// 0 if all is well or `up` mends the rest, else the code of an infrastructure failure.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.worst() == Status::Fail { FailureClass::Infrastructure.exit_code() } else { 0 }
    }

    /// An error that names every check that a person has to mend.
    ///
    /// # Errors
    /// There is at least one.
    pub fn require(&self) -> Result<()> {
        let failed: Vec<&Check> =
            self.checks.iter().filter(|check| check.status == Status::Fail).collect();
        if failed.is_empty() {
            return Ok(());
        }
        let join = |text: fn(&Check) -> String, with| {
            failed.iter().map(|check| text(check)).collect::<Vec<_>>().join(with)
        };
        let cause = join(|c| format!("{}: {} (needed: {})", c.id, c.found, c.needed), "; ");
        let class = FailureClass::Infrastructure;
        Err(HarnessError::new(class, "use", "this machine", cause)
            .with_help(join(|check| check.fix.clone(), "; ")))
    }

    /// The table that a person reads.
    #[must_use]
    pub fn render(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        // What a cluster says may be long.
        table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic).set_width(WIDTH);
        table.set_header(["check", "status", "found", "needed"]);
        for check in &self.checks {
            table.add_row([&check.id, check.status.as_str(), &check.found, &check.needed]);
        }
        let mut lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        lines.extend(
            self.checks
                .iter()
                .filter(|check| !check.fix.is_empty())
                .map(|check| format!("\n{} {}: {}", check.status.as_str(), check.id, check.fix)),
        );
        lines.extend(self.notes.iter().map(|note| format!("\nnote: {note}")));
        let verdict = match self.worst() {
            Status::Ok => "all is there",
            Status::Warn => "all that is needed is there",
            Status::Missing => "`hodei-e2e up` brings what is missing",
            Status::Fail => "something has to be mended by hand first",
        };
        // A cluster may say anything.
        visible(&format!("{}\n\n{verdict}\n", lines.join("\n"))).into_owned()
    }
}

/// Looks at everything, including what takes a moment (the container registry).
///
/// # Errors
/// A signal came. What is wrong with the machine is in the report and not an error.
pub async fn examine(paths: &Paths, stage: &Stage) -> Result<Report> {
    let checks = checks::all(paths, stage).await?;
    if stage.is_cancelled() {
        return Err(HarnessError::interrupted("examine", "this machine"));
    }
    Ok(Report { checks, notes: Vec::new() })
}

/// Looks only at what would make a bootstrap fail late and takes no time to see: disk, memory,
/// kernel, toolchains.
#[must_use]
pub fn examine_quickly(paths: &Paths) -> Report {
    Report { checks: checks::quick(paths), notes: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(statuses: &[Status]) -> Report {
        let check = |(index, status): (usize, &Status)| {
            Check::new(&format!("check-{index}"), "10 GiB", *status, "2 GiB").fix("free some")
        };
        Report { checks: statuses.iter().enumerate().map(check).collect(), notes: Vec::new() }
    }

    #[test]
    fn only_what_nobody_mends_is_an_error() {
        use Status::{Fail, Missing, Ok as Good, Warn};
        for (statuses, code) in
            [(&[Good][..], 0), (&[Good, Warn], 0), (&[Missing, Warn], 0), (&[Missing, Fail], 10)]
        {
            let report = report(statuses);
            assert_eq!(report.exit_code(), code, "{statuses:?}");
            assert_eq!(report.require().is_ok(), code == 0, "{statuses:?}");
        }
    }

    #[test]
    fn a_person_reads_this() {
        let report = report(&[Status::Ok, Status::Missing, Status::Fail]);
        insta::assert_snapshot!(report.render());
    }
}

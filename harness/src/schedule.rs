//! In which order and beside how many others cases run: what `.config/nextest.toml` makes of them.
//! nextest does it; this only says it beforehand, and how long it may take.

use std::path::Path;
use std::time::Duration;

use jiff::SignedDuration;
use serde::Deserialize;

use crate::catalogue::Case;
use crate::expression::Expression;
use crate::failure::{Classify, FailureClass, Result};

/// The profile of the cluster cases, as far as it decides order, lanes and deadlines.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Schedule {
    test_threads: usize,
    slow_timeout: SlowTimeout,
    #[serde(default)]
    overrides: Vec<Override>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SlowTimeout {
    period: SignedDuration,
    terminate_after: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Override {
    /// nextest's expressions of tests' names are ours as well.
    #[serde(deserialize_with = "expression")]
    filter: Expression,
    priority: Option<i8>,
    slow_timeout: Option<SlowTimeout>,
}

#[derive(Deserialize)]
struct Content {
    profile: Profiles,
}

#[derive(Deserialize)]
struct Profiles {
    e2e: Schedule,
}

fn expression<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Expression, D::Error> {
    let text = String::deserialize(from)?;
    Expression::parse(&text).map_err(serde::de::Error::custom)
}

/// Cases in the order in which they begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order<'a> {
    /// Side by side, as many at a time as there are lanes.
    pub beside: Vec<&'a Case>,
    /// After those, each alone.
    pub alone: Vec<&'a Case>,
}

impl Schedule {
    /// Reads the schedule of a checkout.
    ///
    /// # Errors
    /// The file cannot be read, or has no profile of this shape.
    pub fn read(workspace: &Path) -> Result<Self> {
        let path = workspace.join(".config/nextest.toml");
        let (harness, subject) = (FailureClass::Harness, || path.display().to_string());
        let text = std::fs::read_to_string(&path).classify(harness, "read", subject())?;
        Self::parse(&text).classify(harness, "understand", subject())
    }

    fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text).map(|content: Content| content.profile.e2e)
    }

    /// Cases at a time, where `asked` does not say otherwise.
    #[must_use]
    pub fn lanes(&self, asked: Option<usize>) -> usize {
        asked.unwrap_or(self.test_threads).max(1)
    }

    /// The order of these cases: by priority, then by their tests' names.
    #[must_use]
    pub fn order<'a>(&self, cases: &[&'a Case]) -> Order<'a> {
        let mut all = cases.to_vec();
        all.sort_by(|one, other| {
            let priority = self.priority(other).cmp(&self.priority(one));
            priority.then_with(|| one.test.cmp(&other.test))
        });
        let (alone, beside) = all.into_iter().partition(|case| case.exclusive);
        Order { beside, alone }
    }

    fn priority(&self, case: &Case) -> i8 {
        self.of(case, |one| one.priority).unwrap_or_default()
    }

    /// When nextest ends a case that hangs; a case's own deadline comes before.
    #[must_use]
    pub fn deadline(&self, case: &Case) -> Option<Duration> {
        let SlowTimeout { period, terminate_after } =
            self.of(case, |one| one.slow_timeout.clone()).unwrap_or(self.slow_timeout.clone());
        period.unsigned_abs().checked_mul(terminate_after?)
    }

    /// What the first override of the case that says something says.
    fn of<T>(&self, case: &Case, said: impl Fn(&Override) -> Option<T>) -> Option<T> {
        let of_case = self.overrides.iter().filter(|one| one.filter.chooses(case, false));
        of_case.filter_map(said).next()
    }
}

/// How long it takes, in seconds, if each case takes what `seconds` says: each begins on the lane
/// that is free first.
#[must_use]
pub fn makespan(order: &Order<'_>, lanes: usize, seconds: impl Fn(&Case) -> f64) -> f64 {
    let mut lanes = vec![0.0_f64; lanes.max(1)];
    for case in &order.beside {
        let first = lanes.iter_mut().min_by(|one, other| one.total_cmp(other));
        *first.expect("there is a lane at least") += seconds(case);
    }
    let alone: f64 = order.alone.iter().map(|case| seconds(case)).sum();
    lanes.into_iter().fold(0.0, f64::max) + alone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;

    const PROFILE: &str = r#"
        [profile.default]
        slow-timeout = { period = "30s", terminate-after = 4 }
        [profile.e2e]
        retries = 0
        test-threads = 2
        slow-timeout = { period = "60s", terminate-after = 6, grace-period = "10s" }
        [[profile.e2e.overrides]]
        filter = "test(/_exclusive_/)"
        threads-required = "num-test-threads"
        priority = -100
        [[profile.e2e.overrides]]
        filter = "test(=infra::test_b)"
        priority = 100
        slow-timeout = { period = "1m", terminate-after = 16 }
    "#;

    fn catalogue() -> Catalogue {
        let case = |(id, test, exclusive): &(&str, &str, bool)| {
            format!(
                "[[case]]\nid = \"infra.{id}\"\ntitle = \"T\"\nlayer = \"infra\"\nprofile = \"core\"\n\
                 requirement = \"R\"\nexclusive = {exclusive}\ntest = \"infra::test_{test}\"\n"
            )
        };
        let cases =
            [("x", "exclusive_x", true), ("c", "c", false), ("a", "a", false), ("b", "b", false)];
        Catalogue::parse(&cases.iter().map(case).collect::<String>()).unwrap()
    }

    #[test]
    fn cases_begin_by_priority_and_name_and_exclusive_ones_last() {
        let (schedule, catalogue) = (Schedule::parse(PROFILE).unwrap(), catalogue());
        let cases: Vec<_> = catalogue.cases.iter().collect();
        let order = schedule.order(&cases);
        let ids = |cases: &[&Case]| cases.iter().map(|case| case.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&order.beside), ["infra.b", "infra.a", "infra.c"]);
        assert_eq!(ids(&order.alone), ["infra.x"]);
        assert_eq!(
            (schedule.lanes(None), schedule.lanes(Some(0)), schedule.lanes(Some(9))),
            (2, 1, 9)
        );
        let deadline = |case| schedule.deadline(case).unwrap().as_secs();
        assert_eq!((deadline(order.beside[0]), deadline(order.beside[1])), (960, 360));
        // b on one lane, a and then c on the other, x after them.
        let seconds = |case: &Case| if case.id == "infra.b" { 10.0 } else { 3.0 };
        assert!((makespan(&order, 2, seconds) - 13.0).abs() < 1e-9);
        assert!((makespan(&order, 1, seconds) - 19.0).abs() < 1e-9);
    }

    #[test]
    fn the_committed_profile_is_understood_and_ends_with_what_is_exclusive() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let schedule = Schedule::read(workspace).unwrap();
        let catalogue = Catalogue::read(workspace).unwrap();
        let cases: Vec<_> = catalogue.cases.iter().collect();
        for case in &cases {
            assert!(schedule.deadline(case).is_some(), "{}", case.id);
            assert_eq!(schedule.priority(case) < 0, case.exclusive, "{}", case.id);
        }
        assert!(Schedule::parse("[profile.e2e]\ntest-threads = 1").is_err());
        let unknown = PROFILE.replace("test(=infra::test_b)", "binary(x)");
        assert!(Schedule::parse(&unknown).unwrap_err().to_string().contains("not understood"));
    }
}

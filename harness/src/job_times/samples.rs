//! How long jobs took from one moment to another: every sample that the timelines of a report's
//! cases have, and what is said of them.

use super::JobTimeline;

/// From what to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// From a job's submission to the session of its first worker that registered. Jobs that were
    /// given a warm worker have none.
    Registered,
    /// From a job's submission to its final state, whatever it ran meanwhile.
    Result,
    /// From the end of an attempt to the moment at which its pod was seen gone.
    Gone,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Registered, Self::Result, Self::Gone];

    /// The words for a person.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "submit → registered",
            Self::Result => "submit → result",
            Self::Gone => "result → pod gone",
        }
    }

    fn of(self, job: &JobTimeline) -> Vec<f64> {
        let attempts = job.attempts.iter();
        match self {
            Self::Registered => attempts.filter_map(|one| one.registered).take(1).collect(),
            Self::Result => job.finished.into_iter().collect(),
            Self::Gone => attempts.filter_map(|one| Some(one.gone? - one.finished?)).collect(),
        }
    }
}

/// Samples of one measure, in seconds, smallest first. None is negative.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// What these jobs have of it. What cannot be a length of time is passed over.
    pub fn of<'a>(measure: Measure, jobs: impl Iterator<Item = &'a JobTimeline>) -> Self {
        let all = jobs.flat_map(|job| measure.of(job));
        let mut all: Vec<f64> = all.filter(|one| one.is_finite() && *one >= 0.0).collect();
        all.sort_by(f64::total_cmp);
        Self(all)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The smallest sample that `percent` (0 to 100) of all are not above (nearest rank: a sample
    /// that was really seen). `None` without samples.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        let all = u32::try_from(self.0.len()).ok()?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and the number of samples, which fits"
        )]
        let rank = (percent.clamp(0.0, 100.0) / 100.0 * f64::from(all)).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied()
    }

    /// The samples, smallest first.
    #[must_use]
    pub fn sorted(&self) -> &[f64] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_percentile_is_a_sample_that_as_many_are_not_above(
            given in proptest::collection::vec(0.0_f64..100.0, 1..60), percent in 0.0_f64..=100.0
        ) {
            let mut sorted = given.clone();
            sorted.sort_by(f64::total_cmp);
            let samples = Samples(sorted);
            let found = samples.percentile(percent).unwrap();
            prop_assert!(given.contains(&found));
            let below = given.iter().filter(|one| **one <= found).count();
            let under = given.iter().filter(|one| **one < found).count();
            let part = |count: usize| f64::from(u32::try_from(count).unwrap()) * 100.0
                / f64::from(u32::try_from(given.len()).unwrap());
            prop_assert!(part(below) >= percent - 1e-9);
            prop_assert!(under == 0 || part(under) < percent);
        }
    }

    #[test]
    fn percentiles_of_few_samples_are_samples() {
        assert_eq!(Samples::default().percentile(50.0), None);
        let four = Samples(vec![1.0, 2.0, 3.0, 4.0]);
        for (percent, is) in
            [(0.0, 1.0), (25.0, 1.0), (50.0, 2.0), (51.0, 3.0), (99.0, 4.0), (100.0, 4.0)]
        {
            assert_eq!(four.percentile(percent), Some(is), "{percent}");
        }
    }
}

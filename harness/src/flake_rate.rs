//! In which part of its executions a case fails, and between which bounds the true rate lies: what
//! `run --repeat` and `report history` say of a case, and its only implementation.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The quantile of the normal distribution for 95 %, 2.5 % on either side.
const Z: f64 = 1.959_963_984_540_054;

/// How often a case fails, with the bounds of the true rate at a confidence of 95 %.
///
/// The bounds are those of the score interval: E. B. Wilson, *Probable Inference, the Law of
/// Succession, and Statistical Inference*, Journal of the American Statistical Association 22 (1927)
/// 209–212. It holds for few executions and for rates near 0 and 1, where an interval of the normal
/// approximation has no width; compared in L. D. Brown, T. T. Cai, A. DasGupta, *Interval Estimation
/// for a Binomial Proportion*, Statistical Science 16 (2001) 101–133.
///
/// It supposes that executions do not depend on each other. Those of one run share a machine and a
/// cluster, so that the truth may be less certain than the bounds say.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FlakeRate {
    /// How often it ran and came to an end; at least 1.
    pub executions: usize,
    /// How many of these failed.
    pub failures: usize,
    /// The part that failed, in percent.
    pub percent: f64,
    /// The true rate is hardly lower, in percent.
    pub lower: f64,
    /// The true rate is hardly higher, in percent.
    pub upper: f64,
}

impl FlakeRate {
    /// The rate of `failures` in `executions`; `None` without executions, of which nothing can be
    /// said. More failures than executions count as that many.
    #[must_use]
    pub fn of(failures: usize, executions: usize) -> Option<Self> {
        if executions == 0 {
            return None;
        }
        let failures = failures.min(executions);
        // So many executions are counted exactly.
        let (count, rate) = (executions as f64, failures as f64 / executions as f64);
        let square = Z * Z / count;
        let centre = (rate + square / 2.0) / (1.0 + square);
        let spread = (rate * (1.0 - rate) / count + square / (4.0 * count)).sqrt();
        let half = spread * Z / (1.0 + square);
        // At the ends a bound is the end itself, which rounding would miss by a hair.
        let lower = if failures == 0 { 0.0 } else { centre - half };
        let upper = if failures == executions { 1.0 } else { centre + half };
        let [percent, lower, upper] = [rate, lower.min(rate), upper.max(rate)].map(percent);
        Some(Self { executions, failures, percent, lower, upper })
    }
}

/// Percent with three decimals: more say nothing, and these are the same when they are read again.
fn percent(part: f64) -> f64 {
    (part * 100_000.0).round() / 1000.0
}

impl fmt::Display for FlakeRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { percent, lower, upper, .. } = self;
        write!(f, "{percent:.1} %, at 95 % between {lower:.1} and {upper:.1} %")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(failures: usize, executions: usize) -> FlakeRate {
        FlakeRate::of(failures, executions).unwrap()
    }

    /// The examples that R. G. Newcombe computes, *Two-sided confidence intervals for the single
    /// proportion*, Statistics in Medicine 17 (1998) 857–872, table I, method 3; and the ends.
    #[test]
    fn the_bounds_are_wilsons() {
        for (failures, executions, lower, upper) in [
            (81, 263, 25.53, 36.62),
            (15, 148, 6.24, 16.05),
            (0, 20, 0.0, 16.11),
            (1, 29, 0.61, 17.18),
            (0, 1, 0.0, 79.35),
            (1, 1, 20.65, 100.0),
            (10, 10, 72.25, 100.0),
        ] {
            let rate = of(failures, executions);
            let off = (rate.lower - lower).abs().max((rate.upper - upper).abs());
            assert!(off < 0.006, "{failures} of {executions}: {rate:?}");
        }
        assert_eq!(FlakeRate::of(0, 0), None);
        assert_eq!(of(9, 4), of(4, 4));
        assert_eq!(of(1, 4).to_string(), "25.0 %, at 95 % between 4.6 and 69.9 %");
    }

    fn tries() -> impl Strategy<Value = (usize, usize)> {
        (1_usize..5000).prop_flat_map(|executions| (0..=executions, Just(executions)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn the_rate_is_between_its_bounds_and_these_are_a_part_of_all((failures, executions) in tries()) {
            let rate = of(failures, executions);
            prop_assert!(0.0 <= rate.lower && rate.lower <= rate.percent, "{:?}", rate);
            prop_assert!(rate.percent <= rate.upper && rate.upper <= 100.0, "{:?}", rate);
            prop_assert!(rate.lower < rate.upper, "{:?}", rate);
            let text = serde_json::to_string(&rate).unwrap();
            prop_assert_eq!(serde_json::from_str::<FlakeRate>(&text).unwrap(), rate);
        }

        #[test]
        fn one_more_failure_is_never_better((failures, executions) in tries()) {
            prop_assume!(failures < executions);
            let (one, more) = (of(failures, executions), of(failures + 1, executions));
            prop_assert!(one.lower <= more.lower && one.upper <= more.upper, "{:?} {:?}", one, more);
        }

        #[test]
        fn the_same_rate_of_more_executions_is_more_certain((failures, executions) in tries()) {
            let (few, many) = (of(failures, executions), of(failures * 4, executions * 4));
            prop_assert!(many.lower >= few.lower && many.upper <= few.upper, "{:?} {:?}", few, many);
        }

        #[test]
        fn what_fails_and_what_passes_mirror_each_other((failures, executions) in tries()) {
            let (fails, passes) = (of(failures, executions), of(executions - failures, executions));
            prop_assert!((fails.lower + passes.upper - 100.0).abs() < 0.002);
        }
    }
}

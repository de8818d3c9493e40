//! Latency of all jobs of a run: of each measure how many of its samples are how long at most, as a
//! line, with percentiles, and the same as a table.

use std::fmt::Write;

use super::Report;
use super::chart::{Tick, believed, clock};
use crate::job_times::{JobTimeline, Measure, Samples};

/// Points of a line, at most: more than there are on a screen.
const POINTS: usize = 300;
/// The shortest time that is drawn, in seconds: a line of logarithms has no zero.
const SHORTEST: f64 = 0.001;
/// The percentiles that are marked.
const PERCENTILES: [(&str, f64); 3] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0)];

/// The section of a page.
pub(super) struct Latency {
    pub(super) plots: Vec<Plot>,
    pub(super) ticks: Vec<Tick>,
    /// Jobs whose times are in it.
    pub(super) jobs: usize,
    /// Jobs of which no times are kept.
    pub(super) left_out: usize,
}

/// One measure.
pub(super) struct Plot {
    pub(super) name: &'static str,
    pub(super) samples: usize,
    /// `x,y` of each point, in percent, the origin above.
    pub(super) points: String,
    pub(super) dots: Vec<Dot>,
    pub(super) largest: String,
}

/// A percentile: where it is on the line, in percent, and what it is.
pub(super) struct Dot {
    pub(super) name: &'static str,
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) value: String,
}

impl Dot {
    /// The place as declarations of a style.
    pub(super) fn style(&self) -> String {
        format!("left:{:.2}%;top:{:.2}%", self.left, self.top)
    }
}

/// The latency of the jobs that ran in this run; `None` if there are no times of any.
pub(super) fn latency(report: &Report) -> Option<Latency> {
    let ran = report.cases.iter().filter(|case| case.taken_over.is_none());
    let cases: Vec<_> = ran.filter_map(|case| case.jobs.as_ref()).collect();
    let jobs: Vec<&JobTimeline> = cases.iter().flat_map(|case| &case.jobs).collect();
    let of = |measure| (measure, Samples::of(measure, jobs.iter().copied()));
    let measured: Vec<(Measure, Samples)> =
        Measure::ALL.into_iter().map(of).filter(|(_, samples)| !samples.is_empty()).collect();
    let all = measured.iter().flat_map(|(_, samples)| samples.sorted());
    let scale = Scale::over(all.copied())?;
    Some(Latency {
        plots: measured.iter().map(|(measure, samples)| plot(*measure, samples, scale)).collect(),
        ticks: scale.ticks(),
        jobs: jobs.len(),
        left_out: cases.iter().map(|case| case.left_out).sum(),
    })
}

fn plot(measure: Measure, samples: &Samples, scale: Scale) -> Plot {
    let dot = |(name, percent): (&'static str, f64)| {
        let at = samples.percentile(percent)?;
        Some(Dot { name, left: scale.at(at), top: 100.0 - percent, value: length(at) })
    };
    Plot {
        name: measure.as_str(),
        samples: samples.len(),
        points: line(samples.sorted(), scale),
        dots: PERCENTILES.into_iter().filter_map(dot).collect(),
        largest: samples.percentile(100.0).map(length).unwrap_or_default(),
    }
}

/// The steps of the line, from the bottom to the top.
fn line(sorted: &[f64], scale: Scale) -> String {
    let of = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let every = sorted.len().div_ceil(POINTS).max(1);
    let mut text = String::from("0,100");
    let mut top = 100.0;
    for (index, seconds) in sorted.iter().enumerate() {
        let is_last = index + 1 == sorted.len();
        if index % every != every - 1 && !is_last {
            continue;
        }
        let left = scale.at(*seconds);
        let next = 100.0 - of(index + 1) / of(sorted.len()) * 100.0;
        write!(text, " {left:.2},{top:.2} {left:.2},{next:.2}").expect("a String takes all");
        top = next;
    }
    text.push_str(" 100,0");
    text
}

/// Logarithms of seconds, from one power of ten to another.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scale {
    from: f64,
    to: f64,
}

impl Scale {
    fn over(seconds: impl Iterator<Item = f64>) -> Option<Self> {
        let logs = seconds.map(power);
        let (low, high) = logs.fold(None, |bounds, log| {
            let (low, high) = bounds.unwrap_or((log, log));
            Some((f64::min(low, log), f64::max(high, log)))
        })?;
        let from = low.floor();
        Some(Self { from, to: high.ceil().max(from + 1.0) })
    }

    /// Where a time is on it, in percent.
    fn at(self, seconds: f64) -> f64 {
        ((power(seconds) - self.from) / (self.to - self.from) * 100.0).clamp(0.0, 100.0)
    }

    /// A mark at each power of ten: eleven at most, since no time is longer than is believed.
    fn ticks(self) -> Vec<Tick> {
        let mut ticks = Vec::new();
        let mut log = self.from;
        while log <= self.to {
            let seconds = 10_f64.powf(log);
            ticks.push(Tick { left: self.at(seconds), label: round_length(seconds) });
            log += 1.0;
        }
        ticks
    }
}

fn power(seconds: f64) -> f64 {
    believed(seconds).max(SHORTEST).log10()
}

fn round_length(seconds: f64) -> String {
    match seconds {
        ..0.999 => format!("{:.0} ms", seconds * 1000.0),
        _ => format!("{seconds:.0} s"),
    }
}

/// "0.4 ms", "12 ms", "1.25 s", "42.4 s", "5 min 24 s".
pub(super) fn length(seconds: f64) -> String {
    let seconds = believed(seconds);
    match seconds * 1000.0 {
        ..9.95 => format!("{:.1} ms", seconds * 1000.0),
        ..999.5 => format!("{:.0} ms", seconds * 1000.0),
        ..9_995.0 => format!("{seconds:.2} s"),
        ..99_950.0 => format!("{seconds:.1} s"),
        _ => clock(seconds),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::report;
    use super::*;
    use crate::job_times::JobTimes;
    use crate::job_times::tests::usual;

    proptest! {
        #[test]
        fn a_line_rises_from_corner_to_corner_and_is_bounded(
            given in proptest::collection::vec(prop_oneof![0.0_f64..1e3, 0.0_f64..1e-3, Just(1e300)], 1..700)
        ) {
            let mut sorted = given;
            sorted.sort_by(f64::total_cmp);
            let scale = Scale::over(sorted.iter().copied()).unwrap();
            let line = line(&sorted, scale);
            let point = |point: &str| {
                let (x, y) = point.split_once(',').unwrap();
                (x.parse::<f64>().unwrap(), y.parse::<f64>().unwrap())
            };
            let points: Vec<_> = line.split(' ').map(point).collect();
            prop_assert!(points.len() <= 2 * POINTS + 4, "{}", points.len());
            prop_assert_eq!((points[0], points[points.len() - 1]), ((0.0, 100.0), (100.0, 0.0)));
            prop_assert!(points.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 >= pair[1].1));
            let ticks = scale.ticks();
            prop_assert!((2..=11).contains(&ticks.len()), "{:?}", ticks);
        }
    }

    #[test]
    fn every_job_that_ran_in_the_run_counts_and_no_other() {
        let mut report = report();
        assert!(latency(&report).is_none());
        let jobs =
            |count, left_out| Some(JobTimes { jobs: (0..count).map(usual).collect(), left_out });
        report.cases[0].jobs = jobs(10, 0);
        report.cases[1].jobs = jobs(4, 5);
        report.cases[2].jobs = jobs(50, 0);
        report.cases[2].taken_over = Some("another".into());
        let view = latency(&report).unwrap();
        assert_eq!((view.jobs, view.left_out), (14, 5));
        let plots: Vec<_> = view.plots.iter().map(|plot| (plot.name, plot.samples)).collect();
        let expected =
            [("submit → registered", 14), ("submit → result", 14), ("result → pod gone", 14)];
        assert_eq!(plots, expected);
        let values: Vec<_> = view.plots[1].dots.iter().map(|dot| dot.value.as_str()).collect();
        assert_eq!(values, ["5.50 s", "10.5 s", "11.5 s"]);
        let labels: Vec<_> = view.ticks.iter().map(|tick| tick.label.as_str()).collect();
        assert_eq!(labels, ["1 s", "10 s", "100 s"]);
    }

    #[test]
    fn lengths_are_short_and_exact_enough() {
        for (seconds, shown) in [
            (0.0004, "0.4 ms"),
            (0.0124, "12 ms"),
            (0.9996, "1.00 s"),
            (1.25, "1.25 s"),
            (42.44, "42.4 s"),
            (324.0, "5 min 24 s"),
            (f64::NAN, "0.0 ms"),
        ] {
            assert_eq!(length(seconds), shown);
        }
    }
}

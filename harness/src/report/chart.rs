//! Stretches of time as bars: where on a line they begin and how wide they are, in percent, and
//! on which lane, so that none covers another.

use jiff::Timestamp;

/// Longest stretch that is believed, in seconds: a report may hold any number.
const LONGEST: f64 = 30.0 * 24.0 * 3600.0;

/// A place on a line, in percent of its length.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Place {
    pub(super) left: f64,
    pub(super) width: f64,
}

impl Place {
    /// The place as declarations of a style.
    pub(super) fn style(&self) -> String {
        format!("left:{:.3}%;width:{:.3}%", self.left, self.width)
    }
}

/// A mark below a line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    pub(super) left: f64,
    pub(super) label: String,
}

/// A line that all given stretches fit on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Axis {
    from: Timestamp,
    seconds: f64,
}

impl Axis {
    /// The line from `from` on that holds all stretches, each with its beginning and seconds.
    pub(super) fn over(from: Timestamp, stretches: impl Iterator<Item = (Timestamp, f64)>) -> Self {
        let ends = stretches.map(|(began, seconds)| since(from, began) + believed(seconds));
        Self { from, seconds: ends.fold(f64::MIN_POSITIVE, f64::max) }
    }

    /// The line of so many seconds, from a moment that nobody asks for.
    pub(super) fn lasting(seconds: f64) -> Self {
        let seconds = believed(seconds).max(f64::MIN_POSITIVE);
        Self { from: Timestamp::UNIX_EPOCH, seconds }
    }

    /// Where a stretch is on it.
    pub(super) fn place(&self, began: Timestamp, seconds: f64) -> Place {
        self.place_at(since(self.from, began), seconds)
    }

    /// Where a stretch is that begins so many seconds after the line does.
    pub(super) fn place_at(&self, began: f64, seconds: f64) -> Place {
        let percent = |seconds: f64| (seconds / self.seconds * 100.0).clamp(0.0, 100.0);
        let left = percent(believed(began));
        Place { left, width: percent(believed(seconds)).min(100.0 - left) }
    }

    /// Five marks, from the beginning to the end.
    pub(super) fn ticks(&self) -> Vec<Tick> {
        let at = |quarter: u8| f64::from(quarter) * 25.0;
        let label = |left: f64| clock(self.seconds * left / 100.0);
        (0..=4).map(|quarter| Tick { left: at(quarter), label: label(at(quarter)) }).collect()
    }
}

/// Lanes, as few as there were ever stretches at the same time; in each, indices of `stretches`
/// by their beginning.
pub(super) fn lanes(stretches: &[(Timestamp, f64)]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..stretches.len()).collect();
    order.sort_by_key(|index| stretches[*index].0);
    let mut lanes: Vec<(Timestamp, f64, Vec<usize>)> = Vec::new();
    for index in order {
        let (began, seconds) = stretches[index];
        let free = lanes.iter_mut().find(|(at, lasted, _)| since(*at, began) >= believed(*lasted));
        match free {
            Some(lane) => {
                (lane.0, lane.1) = (began, seconds);
                lane.2.push(index);
            }
            None => lanes.push((began, seconds, vec![index])),
        }
    }
    lanes.into_iter().map(|(_, _, indices)| indices).collect()
}

/// "0.3 s", "42 s", "5 min 24 s".
pub(super) fn clock(seconds: f64) -> String {
    let seconds = believed(seconds);
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    if seconds < 99.5 {
        return format!("{seconds:.0} s");
    }
    let (minutes, rest) = ((seconds / 60.0).floor(), (seconds % 60.0).floor());
    format!("{minutes:.0} min {rest:.0} s")
}

/// A number of seconds that can be drawn.
pub(super) fn believed(seconds: f64) -> f64 {
    if seconds.is_finite() { seconds.clamp(0.0, LONGEST) } else { 0.0 }
}

/// Seconds from one moment to a later one; 0 to an earlier one.
pub(super) fn since(from: Timestamp, to: Timestamp) -> f64 {
    believed(to.duration_since(from).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(1_767_268_800_000 + milliseconds).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn no_bar_covers_another_and_all_are_on_the_line(
            given in proptest::collection::vec((0_i64..60_000, prop_oneof![0.0_f64..40.0, Just(-1.0), Just(f64::INFINITY)]), 0..40)
        ) {
            let stretches: Vec<_> = given.iter().map(|(began, s)| (at(*began), *s)).collect();
            let lanes = lanes(&stretches);
            let axis = Axis::over(at(0), stretches.iter().copied());
            prop_assert_eq!(lanes.iter().map(Vec::len).sum::<usize>(), stretches.len());
            for pair in lanes.iter().flat_map(|lane| lane.windows(2)) {
                let (before, after) = (stretches[pair[0]], stretches[pair[1]]);
                prop_assert!(since(before.0, after.0) >= believed(before.1));
            }
            for (began, seconds) in &stretches {
                let place = axis.place(*began, *seconds);
                prop_assert!(place.left >= 0.0 && place.width >= 0.0);
                prop_assert!(place.left + place.width <= 100.0 + 1e-9, "{:?}", place);
            }
            // Itself, and the others that are under way when it begins.
            let beside = |index: usize| 1 + stretches.iter().enumerate()
                .filter(|(other, (began, s))| *other != index && *began <= stretches[index].0
                    && since(*began, stretches[index].0) < believed(*s)).count();
            let most = (0..stretches.len()).map(beside).max().unwrap_or(0);
            prop_assert!(lanes.len() <= most, "{} lanes for {} at a time", lanes.len(), most);
        }
    }

    #[test]
    fn times_are_short() {
        for (seconds, shown) in [
            (0.04, "0.0 s"),
            (9.94, "9.9 s"),
            (42.4, "42 s"),
            (324.9, "5 min 24 s"),
            (-1.0, "0.0 s"),
            (f64::NAN, "0.0 s"),
        ] {
            assert_eq!(clock(seconds), shown);
        }
    }
}

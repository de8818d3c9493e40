//! What a person is told in the place of output that is lost.

use hodei_proto::{
    moment,
    v1::{LogFrame, LogGapCause},
};
use jiff::Timestamp;

/// Output that is lost in one place: records that follow on each other are one loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost {
    bytes: u64,
    /// 0: not known.
    frames: u64,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    cause: LogGapCause,
}

impl Lost {
    /// What a frame stands for, if it stands for lost output.
    pub(crate) fn of(frame: &LogFrame) -> Option<Self> {
        if frame.gap.is_none() && frame.dropped_bytes == 0 {
            return None;
        }
        let gap = frame.gap.as_deref();
        Some(Self {
            bytes: frame.dropped_bytes,
            frames: gap.map_or(0, |gap| gap.frames),
            since: moment(gap.and_then(|gap| gap.since.as_ref())),
            until: moment(frame.time.as_ref()),
            cause: gap.map_or(LogGapCause::Unspecified, |gap| gap.cause()),
        })
    }

    /// Together with what is lost right after it.
    pub(crate) fn and(self, next: Self) -> Self {
        let known = self.frames > 0 && next.frames > 0;
        Self {
            bytes: self.bytes.saturating_add(next.bytes),
            frames: if known { self.frames.saturating_add(next.frames) } else { 0 },
            since: self.since,
            until: next.until,
            cause: if self.cause == next.cause { self.cause } else { LogGapCause::Unspecified },
        }
    }

    /// One line.
    pub(crate) fn line(&self) -> String {
        let about = if self.cause == LogGapCause::SpoolUnreadable { "about " } else { "" };
        let frames = match self.frames {
            0 => String::new(),
            1 => " in 1 frame".to_owned(),
            frames => format!(" in {frames} frames"),
        };
        let when = match (self.since, self.until) {
            (Some(since), Some(until)) => {
                format!(", read {} to {} UTC", since.strftime("%F %T"), until.strftime("%T"))
            }
            _ => String::new(),
        };
        let why = match self.cause {
            LogGapCause::Unspecified => "",
            LogGapCause::SpoolFull => ": the worker's link was down and its spool full",
            LogGapCause::SpoolUnreadable => ": the worker's disk did not give it back",
        };
        format!("hodei: {about}{} of output lost here{frames}{when}{why}\n", size(self.bytes))
    }
}

/// Bytes for a person: three digits, in binary units.
fn size(bytes: u64) -> String {
    let mut tenths = u128::from(bytes) * 10;
    let mut units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].iter();
    let mut unit = "bytes";
    while tenths >= 10_240
        && let Some(next) = units.next()
    {
        (tenths, unit) = (tenths / 1024, next);
    }
    match (bytes, unit) {
        (1, _) => "1 byte".to_owned(),
        (_, "bytes") => format!("{bytes} bytes"),
        _ => format!("{}.{} {unit}", tenths / 10, tenths % 10),
    }
}

#[cfg(test)]
mod tests {
    use hodei_proto::v1::LogGap;

    use super::*;

    fn frame(bytes: u64, gap: Option<(u64, LogGapCause)>) -> LogFrame {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let gap = gap
            .map(|(frames, cause)| Box::new(LogGap { frames, since: at(0), cause: cause.into() }));
        LogFrame { dropped_bytes: bytes, gap, time: at(95), ..LogFrame::default() }
    }

    #[test]
    fn the_table_of_lines() {
        use LogGapCause as C;
        for (bytes, gap, line) in [
            (
                12_900_000,
                Some((999, C::SpoolFull)),
                "12.3 MiB of output lost here in 999 frames, read 1970-01-01 00:00:00 to 00:01:35 UTC: \
                 the worker's link was down and its spool full",
            ),
            (
                1536,
                Some((1, C::SpoolUnreadable)),
                "about 1.5 KiB of output lost here in 1 frame, read 1970-01-01 00:00:00 to 00:01:35 UTC: \
                 the worker's disk did not give it back",
            ),
            (1023, None, "1023 bytes of output lost here"),
            (1, None, "1 byte of output lost here"),
            (u64::MAX, None, "15.9 EiB of output lost here"),
        ] {
            let lost = Lost::of(&frame(bytes, gap)).unwrap();
            assert_eq!(lost.line(), format!("hodei: {line}\n"));
        }
        assert_eq!(Lost::of(&frame(0, None)), None);
        assert!(Lost::of(&frame(0, Some((3, C::SpoolFull)))).is_some());
    }

    #[test]
    fn losses_in_a_row_are_one() {
        let one = Lost::of(&frame(1024, Some((1, LogGapCause::SpoolUnreadable)))).unwrap();
        let unsaid = Lost::of(&frame(1024, None)).unwrap();
        assert!(
            one.and(one).line().starts_with("hodei: about 2.0 KiB of output lost here in 2 frames")
        );
        assert_eq!(one.and(unsaid).frames, 0);
        assert!(one.and(unsaid).line().ends_with("UTC\n"), "of two causes none is named");
    }
}

#[cfg(test)]
mod outside_input {
    use hodei_proto::v1::LogGap;
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn time() -> impl Strategy<Value = Option<prost_types::Timestamp>> {
        let any = prop_oneof![
            (any::<i64>(), any::<i32>()),
            (-400_000_000_000_i64..300_000_000_000, 0_i32..1_000_000_000),
        ];
        option::of(any)
            .prop_map(|at| at.map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos }))
    }

    fn frame() -> impl Strategy<Value = LogFrame> {
        let gap = option::of((any::<u64>(), time(), -1_i32..5));
        (any::<u64>(), gap, time()).prop_map(|(dropped_bytes, gap, time)| {
            let gap = gap.map(|(frames, since, cause)| Box::new(LogGap { frames, since, cause }));
            LogFrame { dropped_bytes, gap, time, ..LogFrame::default() }
        })
    }

    proptest! {
        #[test]
        fn any_losses_are_one_line(frames in vec(frame(), 1..5)) {
            let lost = frames.iter().filter_map(Lost::of).reduce(Lost::and);
            prop_assert_eq!(
                lost.is_some(),
                frames.iter().any(|frame| frame.gap.is_some() || frame.dropped_bytes > 0)
            );
            if let Some(lost) = lost {
                let line = lost.line();
                prop_assert!(line.starts_with("hodei: ") && line.ends_with('\n'), "{line:?}");
                prop_assert_eq!(line.lines().count(), 1);
            }
        }
    }
}

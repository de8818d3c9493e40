//! A file that grows at its end and is shortened at its beginning, read in pieces.

use proptest::prelude::*;

use super::*;

/// One record: nanoseconds and what was written.
type Record = (i64, &'static str);

fn line((nanos, text): Record) -> String {
    format!("{} {text}", Timestamp::from_nanosecond(nanos.into()).unwrap())
}

/// Reads a file from where the machine asks, at most `count` lines; whether it is behind afterwards.
fn read(resume: &mut Resume, file: &[Record], count: usize, all: &mut Vec<LogEntry>) -> bool {
    let since = resume.ask_since();
    resume.piece_began();
    let from = since.map_or(i128::MIN, Timestamp::as_nanosecond);
    let piece = file.iter().filter(|(nanos, _)| i128::from(*nanos) >= from);
    for record in piece.take(count) {
        resume.take(&line(*record), |entry| all.push(entry));
    }
    resume.is_behind()
}

fn entries(file: &[Record]) -> Vec<LogEntry> {
    file.iter().map(|record| parse_log_line(&line(*record))).collect()
}

const SECOND: i64 = 1_000_000_000;

fn records() -> impl Strategy<Value = Vec<Record>> {
    // Few instants, so that many lines share one; they are not in order.
    let instant = prop::sample::select(vec![
        5 * SECOND,
        5 * SECOND + 1,
        6 * SECOND - 1,
        6 * SECOND,
        6 * SECOND + 7,
        9 * SECOND,
    ]);
    prop::collection::vec((instant, prop::sample::select(vec!["a", "b", ""])), 0..30)
}

proptest! {
    #[test]
    fn pieces_of_any_length_give_each_line_once_and_in_order(
        file in records(),
        sizes in prop::collection::vec((0..40_usize, 0..40_usize), 0..12),
    ) {
        let mut resume = Resume::new(LogQuery::default());
        let mut all = Vec::new();
        let mut written = 0;
        for (grown, count) in sizes {
            written = (written + grown).min(file.len());
            read(&mut resume, &file[..written], count, &mut all);
        }
        let behind = read(&mut resume, &file, usize::MAX, &mut all);
        prop_assert_eq!(all, entries(&file));
        prop_assert!(!behind);
    }
}

#[test]
fn a_tail_is_no_gap() {
    let file = [(1, "old"), (2, "old"), (2, "last"), (3, "new")];
    let mut resume = Resume::new(LogQuery { tail: Some(1), ..LogQuery::default() });
    let mut all = Vec::new();
    resume.piece_began();
    resume.take(&line(file[2]), |entry| all.push(entry));
    read(&mut resume, &file, usize::MAX, &mut all);
    assert_eq!(all, entries(&file[2..]));
}

#[test]
fn a_rotation_that_took_what_was_told_is_no_gap() {
    let file = [(1, "a"), (2, "b"), (3, "c"), (4, "d")];
    let mut resume = Resume::new(LogQuery::default());
    let mut all = Vec::new();
    read(&mut resume, &file[..3], usize::MAX, &mut all);
    read(&mut resume, &file[2..], usize::MAX, &mut all);
    assert_eq!(all, entries(&file));
}

#[test]
fn a_rotation_that_may_have_taken_more_is_told_once() {
    let file = [(1, "a"), (2, "b"), (3, "c"), (4, "d")];
    let mut resume = Resume::new(LogQuery::default());
    let mut all = Vec::new();
    read(&mut resume, &file[..1], usize::MAX, &mut all);
    read(&mut resume, &file[2..], usize::MAX, &mut all);
    let gap = LogEntry { time: None, line: GAP.to_owned() };
    let mut expected = entries(&[file[0], file[2], file[3]]);
    expected.insert(1, gap);
    assert_eq!(all, expected);
    assert!(read(&mut resume, &[], usize::MAX, &mut all), "an empty file lacks what was told");
}

#[test]
fn the_rest_of_a_long_line_is_not_told_again() {
    let mut resume = Resume::new(LogQuery::default());
    let mut all = Vec::new();
    let file = [(SECOND - 1, "a long line"), (SECOND, "next")];
    read(&mut resume, &file, usize::MAX, &mut all);
    // The parts of the long line that were written in the next second come without a time.
    resume.piece_began();
    for text in ["long line", &line(file[1]), "rpc error: of the kubelet"] {
        resume.take(text, |entry| all.push(entry));
    }
    let mut expected = entries(&file);
    expected.push(parse_log_line("rpc error: of the kubelet"));
    assert_eq!(all, expected);
}

#[test]
fn what_is_remembered_is_bounded() {
    let count = REMEMBERED + 100;
    let lines: Vec<_> = (0..count).map(|index| line((1000 + index as i64, "x"))).collect();
    let mut resume = Resume::new(LogQuery::default());
    let mut told = 0;
    for _ in 0..2 {
        resume.piece_began();
        for line in &lines {
            resume.take(line, |_| told += 1);
        }
    }
    assert_eq!(told, count);
    assert_eq!(resume.told.len(), REMEMBERED);
}

#[test]
fn lines_before_the_query_are_left_out() {
    let since = Timestamp::from_nanosecond(1_500_000_000).unwrap();
    let mut resume = Resume::new(LogQuery { since: Some(since), ..LogQuery::default() });
    assert_eq!(resume.ask_since(), Some(Timestamp::from_second(1).unwrap()));
    let file = [(SECOND + 1, "early"), (SECOND + SECOND / 2, "at"), (2 * SECOND, "late")];
    let mut all = Vec::new();
    read(&mut resume, &file, usize::MAX, &mut all);
    assert_eq!(all, entries(&file[1..]));
    resume.take(&line((20 * SECOND + 1, "later")), |_| ());
    assert_eq!(resume.ask_since(), Some(Timestamp::from_second(15).unwrap()));
}

use proptest::prelude::*;

use super::*;
use crate::catalogue::Catalogue;
use crate::report::tests::{repeated, report, resumed};

/// The execution number `index` of a case, a second after the one before.
pub(super) fn execution(case: &str, index: u32, status: Counted) -> Execution {
    let class = (status == Counted::Failed).then_some(FailureClass::Product);
    let message = if class.is_some() { "await job: not so after 30 s" } else { "" };
    let begin: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
    Execution {
        run: format!("20260101-120000-{index:06x}"),
        case: case.into(),
        round: None,
        status,
        class,
        seconds: f64::from(index),
        started_at: begin + jiff::SignedDuration::from_secs(i64::from(index)),
        commit: "c0".into(),
        dirty: false,
        message: message.into(),
    }
}

fn passed(index: u32) -> Execution {
    execution("infra.a", index, Counted::Passed)
}

/// As another process would.
fn append_now(history: &History, executions: &[Execution]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(append(history, executions));
}

async fn append(history: &History, executions: &[Execution]) {
    history.append(executions).await.unwrap();
}

#[test]
fn what_came_to_an_end_in_a_run_itself_is_written_down() {
    let of = |report: &Report| -> Vec<_> {
        let all = Execution::of(report).into_iter();
        all.map(|one| (one.case, one.round, one.status)).collect()
    };
    let (pass, fail) = (Counted::Passed, Counted::Failed);
    let id = |id: &str| id.to_owned();
    // Neither the case that did not run,
    let plain = [(id("infra.nodes"), None, pass), (id("full-job.echo"), None, fail)];
    assert_eq!(of(&report()), plain);
    // nor the one that passed in another run.
    let cases: Vec<_> = of(&resumed()).into_iter().map(|(case, ..)| case).collect();
    assert_eq!(cases, ["full-job.exit", "full-job.echo", "full-job.output"]);
    let rounds = of(&repeated());
    assert_eq!(rounds.len(), 8);
    assert_eq!(rounds[1], (id("full-job.echo"), Some(2), fail));
    let mut changed = report();
    changed.environment.commit = "4433e5f1+0123456789ab".into();
    let one = Execution::of(&changed).remove(1);
    assert_eq!((one.commit.as_str(), one.dirty), ("4433e5f1", true));
    assert_eq!(one.message, "await job: not so after 30 s");
    assert!(!Execution::of(&report())[0].dirty);
}

#[tokio::test]
async fn what_is_appended_is_read_by_everybody() {
    let state = tempfile::tempdir().unwrap();
    let history = History::at(state.path());
    assert_eq!(history.read().unwrap(), Contents::default());
    append(&history, &[]).await;
    assert!(!history.path().exists());
    let all = [passed(1), execution("infra.b", 2, Counted::Failed)];
    append(&history, &all[..1]).await;
    append(&History::at(state.path()), &all[1..]).await;
    assert_eq!(history.read().unwrap(), Contents { executions: all.into(), unreadable: 0 });
}

#[test]
fn runs_that_end_at_once_lose_nothing_even_while_the_history_is_made_smaller() {
    let state = tempfile::tempdir().unwrap();
    let history = History { most: 64 * 1024, ..History::at(state.path()) };
    let run = |case: &str| {
        for index in 0..20 {
            append_now(&history, &vec![execution(case, index, Counted::Passed); 4]);
        }
    };
    std::thread::scope(|scope| {
        for writer in 0..4 {
            scope.spawn(move || run(&format!("infra.w{writer}")));
        }
    });
    let contents = history.read().unwrap();
    assert_eq!(contents.unreadable, 0);
    assert!(std::fs::metadata(history.path()).unwrap().len() <= 64 * 1024);
    for writer in 0..4 {
        let case = format!("infra.w{writer}");
        let own: Vec<_> = contents.executions.iter().filter(|one| one.case == case).collect();
        assert_eq!(own.last().unwrap().seconds, 19.0, "{own:?}");
        assert!(own.windows(2).all(|two| two[0].seconds <= two[1].seconds));
    }
}

#[tokio::test]
async fn a_full_history_keeps_the_newest_of_each_case() {
    let state = tempfile::tempdir().unwrap();
    let history = History { most: 40_000, ..History::at(state.path()) };
    append(&history, &[execution("infra.rare", 0, Counted::Failed)]).await;
    let often: Vec<_> = (1..=300).map(passed).collect();
    append(&history, &often).await;
    let kept = history.read().unwrap().executions;
    assert_eq!(kept[0].case, "infra.rare");
    let newest: Vec<_> = kept[1..].iter().map(|one| one.seconds as u32).collect();
    assert!(newest.len() > 50, "{}", newest.len());
    assert!(newest.iter().copied().eq(301 - u32::try_from(newest.len()).unwrap()..=300));
    assert!(std::fs::metadata(history.path()).unwrap().len() <= 20_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Cut anywhere, then written on by another run: every whole line before the cut and every line
    /// after it is there.
    #[test]
    fn a_torn_line_loses_nothing_but_itself(count in 1_u32..8, cut in 0.0_f64..1.0, more in 1_u32..4) {
        let state = tempfile::tempdir().unwrap();
        let history = History::at(state.path());
        let all: Vec<_> = (0..count).map(passed).collect();
        let text = lines(&all);
        let at = (text.len() as f64 * cut) as usize;
        std::fs::write(history.path(), &text[..at]).unwrap();
        let whole = Contents::parse(&text.as_bytes()[..at]).executions.len();
        let later: Vec<_> = (100..100 + more).map(passed).collect();
        append_now(&history, &later);
        let contents = history.read().unwrap();
        prop_assert!(contents.unreadable <= 1);
        prop_assert_eq!(&contents.executions[..whole], &all[..whole]);
        prop_assert_eq!(&contents.executions[whole..], &later[..]);
    }

    /// Lines of other tools, of a later harness, or of nobody, between those of this one.
    #[test]
    fn foreign_lines_are_counted_and_passed_over(
        foreign in proptest::collection::vec(prop_oneof![
            proptest::collection::vec(any::<u8>().prop_filter("one line", |byte| *byte != b'\n'), 1..80),
            Just(br#"{"case":"infra.a"}"#.to_vec()),
            Just(lines(&[Execution { status: Counted::NotRun, ..passed(1) }]).trim().as_bytes().to_vec()),
        ], 0..8),
        place in any::<prop::sample::Index>(),
    ) {
        let own = [passed(1), passed(2)];
        let mut all: Vec<Vec<u8>> = foreign.clone();
        for one in &own {
            all.insert(place.index(all.len() + 1), lines(std::slice::from_ref(one)).into_bytes());
        }
        let contents = Contents::parse(&all.join(&b'\n'));
        prop_assert_eq!((contents.executions.len(), contents.unreadable), (2, foreign.len()));
    }

    #[test]
    fn what_is_kept_fits_and_is_the_newest(cases in proptest::collection::vec(0_u8..5, 0..60), bytes in 0_usize..12_000) {
        let of = |(index, case): (usize, &u8)| {
            execution(&format!("infra.c{case}"), u32::try_from(index).unwrap(), Counted::Passed)
        };
        let executions: Vec<_> = cases.iter().enumerate().map(of).collect();
        let kept = Contents { executions: executions.clone(), unreadable: 0 }.newest(bytes);
        prop_assert!(lines(&kept).len() <= bytes);
        for case in cases {
            let case = format!("infra.c{case}");
            let of = |all: &[Execution]| -> Vec<_> {
                all.iter().filter(|one| one.case == case).cloned().collect()
            };
            prop_assert!(of(&executions).ends_with(&of(&kept)));
        }
    }
}

#[tokio::test]
async fn a_later_harness_may_say_more() {
    let text = r#"{"run":"r","case":"infra.a","status":"passed","seconds":1.0,"started_at":"2026-01-01T12:00:00Z","zone":"a"}"#;
    let contents = Contents::parse(text.as_bytes());
    assert_eq!((contents.executions.len(), contents.unreadable), (1, 0));
}

#[tokio::test]
async fn the_median_of_the_last_passes_counts() {
    let state = tempfile::tempdir().unwrap();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let catalogue = Catalogue::read(workspace).unwrap();
    let cases: Vec<_> = catalogue.cases.iter().take(2).collect();
    assert_eq!(seconds(state.path(), &cases).unwrap(), BTreeMap::new());
    let took = |status, seconds| Execution { seconds, ..execution(&cases[0].id, 1, status) };
    let of = |seconds| took(Counted::Passed, seconds);
    let all = [of(4.0), of(2.0), took(Counted::Failed, 900.0), of(3.0)];
    append(&History::at(state.path()), &all).await;
    let known = seconds(state.path(), &cases).unwrap();
    assert_eq!(known, BTreeMap::from([(cases[0].id.clone(), 3.0)]));
}

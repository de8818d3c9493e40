use proptest::prelude::*;
use serde_json::json;

use super::*;

fn any_attempt() -> impl Strategy<Value = AttemptTimes> {
    let time = || proptest::option::weighted(0.8, -5.0_f64..50.0);
    let early = (time(), time(), time(), time(), time());
    (early, (time(), time(), time(), time(), time(), time())).prop_map(|(early, late)| {
        let (claimed, pod_created, scheduled, image, running) = early;
        let (registered, started, output, finished, terminating, gone) = late;
        AttemptTimes {
            epoch: 1,
            claimed,
            pod_created,
            scheduled,
            image,
            running,
            registered,
            started,
            output,
            finished,
            terminating,
            gone,
            ..AttemptTimes::default()
        }
    })
}

proptest! {
    #[test]
    fn the_order_is_one_and_only_what_is_known_is_in_it(attempt in any_attempt()) {
        let order = attempt.in_order();
        prop_assert!(order.windows(2).all(|pair| pair[0].1 <= pair[1].1 && pair[0].0 < pair[1].0));
        prop_assert!(order.iter().all(|(mark, at)| attempt.at(*mark) == Some(*at)));
    }
}

/// A job that went the usual way, `index` seconds after others; it took `index` seconds longer, too.
pub(crate) fn usual(index: u32) -> JobTimeline {
    let late = f64::from(index);
    let submitted_at: Timestamp = "2026-01-01T12:00:01Z".parse().unwrap();
    JobTimeline {
        id: format!("018f0000-0000-7000-8000-{index:012}"),
        name: format!("echo-{index}"),
        state: "succeeded".into(),
        round: None,
        submitted_at: submitted_at + jiff::SignedDuration::from_secs(i64::from(index)),
        finished: Some(2.5 + late),
        attempts: vec![AttemptTimes {
            epoch: 1,
            node: "node-1".into(),
            warm: false,
            claimed: Some(0.0125),
            pod_created: Some(0.0583),
            scheduled: Some(0.0611),
            image: Some(0.45),
            running: Some(1.9),
            registered: Some(1.2),
            started: Some(1.25),
            output: Some(1.3),
            finished: Some(2.5 + late),
            terminating: Some(2.51 + late),
            gone: Some(4.75 + late),
        }],
        attempts_left_out: 0,
    }
}

#[test]
fn what_a_watch_saw_late_does_not_part_what_the_server_wrote_down() {
    let order: Vec<_> = usual(0).attempts[0].in_order();
    let marks: Vec<_> = order.iter().map(|(mark, _)| *mark).collect();
    let all_but_running: Vec<_> =
        Mark::ALL.into_iter().filter(|mark| *mark != Mark::Running).collect();
    assert_eq!(marks, all_but_running);
}

#[test]
fn what_is_unknown_is_absent_and_unknown_fields_are_passed_over() {
    let text = json!({"jobs": [{"id": "j", "name": "n", "state": "queued", "submitted_at": "2026-01-01T12:00:00Z",
        "attempts": [{"epoch": 1, "claimed": 0.5, "of a later harness": 1}]}]});
    let read: JobTimes = serde_json::from_value(text.clone()).unwrap();
    assert_eq!(read.jobs[0].attempts[0].in_order(), [(Mark::Claimed, 0.5)]);
    let again = serde_json::to_value(&read).unwrap();
    assert_eq!(again["jobs"][0]["attempts"][0], json!({"epoch": 1, "claimed": 0.5}));
}

#[test]
fn rounds_share_one_list_and_what_does_not_fit_is_counted() {
    let of = |jobs: u32| JobTimes { jobs: (0..jobs).map(usual).collect(), left_out: 0 };
    let mut all = of(300).in_round("round 1");
    all.extend(of(300).in_round("round 2"));
    assert_eq!((all.jobs.len(), all.left_out), (500, 100));
    assert_eq!(all.jobs[299].round.as_deref(), Some("round 1"));
    assert_eq!(all.jobs[300].round.as_deref(), Some("round 2"));
    all.extend(JobTimes { left_out: 7, ..of(1) });
    assert_eq!((all.jobs.len(), all.left_out), (500, 108));
    let named = all.of_run("r1").in_round("another");
    assert_eq!(named.jobs[0].round.as_deref(), Some("round 1 of run r1"));
}

//! Jobs and tables as people and programs see them.

use hodei_core::attempt::Outcome;
use hodei_proto::{moment, v1};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

/// A job as JSON. Values of the environment are left out: they may be secrets.
#[derive(Debug, Serialize)]
pub(crate) struct JobView {
    id: String,
    name: String,
    state: String,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<OutcomeView>,
    priority: i32,
    labels: std::collections::BTreeMap<String, String>,
    attempts: Vec<AttemptView>,
    submitted_at: Option<Timestamp>,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    version: u64,
    correlation_id: String,
}

#[derive(Debug, Serialize)]
struct AttemptView {
    epoch: u32,
    worker_id: String,
    provider: String,
    state: String,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<OutcomeView>,
    created_at: Option<Timestamp>,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
}

/// How it ended, and the exit code `hodei job run` ends with.
#[derive(Debug, Serialize)]
struct OutcomeView {
    summary: String,
    exit_code: i32,
    out_of_memory: bool,
}

impl OutcomeView {
    fn new(wire: Option<&v1::AttemptOutcome>) -> Option<Self> {
        let out_of_memory = wire?.out_of_memory;
        let outcome = Outcome::try_from(wire?.clone()).ok()?;
        Some(Self { summary: outcome.to_string(), exit_code: outcome.exit_code(), out_of_memory })
    }
}

impl JobView {
    pub(crate) fn new(job: &v1::Job) -> Self {
        let spec = job.spec.clone().unwrap_or_default();
        Self {
            id: job.id.clone(),
            name: spec.name,
            state: state_name(job.state()),
            reason: job.reason.clone(),
            outcome: OutcomeView::new(job.outcome.as_ref()),
            priority: spec.priority,
            labels: spec.labels.into_iter().collect(),
            attempts: job.attempts.iter().map(AttemptView::new).collect(),
            submitted_at: moment(job.submitted_at.as_ref()),
            started_at: moment(job.started_at.as_ref()),
            finished_at: moment(job.finished_at.as_ref()),
            version: job.version,
            correlation_id: job.correlation_id.clone(),
        }
    }

    /// One job in full, for a person.
    pub(crate) fn describe(&self, now: Timestamp) -> String {
        let mut rows = vec![
            ["Job".to_owned(), self.id.clone()],
            ["Name".to_owned(), dash(&self.name)],
            ["State".to_owned(), self.state.clone()],
        ];
        if !self.reason.is_empty() {
            rows.push(["Reason".to_owned(), self.reason.clone()]);
        }
        if let Some(outcome) = &self.outcome {
            rows.push(["Result".to_owned(), outcome.summary.clone()]);
        }
        if self.priority != 0 {
            rows.push(["Priority".to_owned(), self.priority.to_string()]);
        }
        for (name, time) in [
            ("Submitted", self.submitted_at),
            ("Started", self.started_at),
            ("Finished", self.finished_at),
        ] {
            let text = time.map(|time| format!("{time:.0} ({} ago)", age(Some(time), now)));
            rows.push([name.to_owned(), text.unwrap_or_else(|| "-".to_owned())]);
        }
        for attempt in &self.attempts {
            rows.push([format!("Attempt {}", attempt.epoch), attempt.describe()]);
        }
        table(None, rows)
    }

    /// One change of a job in one line: when it was seen, the state, and why.
    pub(crate) fn change(&self, now: Timestamp) -> String {
        let mut line = format!("{now:.0} {}", self.state);
        let summary = self.outcome.as_ref().map(|outcome| outcome.summary.as_str());
        for text in [summary.unwrap_or_default(), self.reason.as_str()] {
            if !text.is_empty() && !line.ends_with(text) {
                line = format!("{line}: {}", one_line(text));
            }
        }
        line + "\n"
    }

    fn row(&self, now: Timestamp) -> [String; 6] {
        let end = self.finished_at.unwrap_or(now);
        [
            self.id.clone(),
            dash(&self.name),
            self.state.clone(),
            self.outcome.as_ref().map_or_else(|| "-".to_owned(), |o| o.summary.clone()),
            self.started_at.map_or_else(|| "-".to_owned(), |start| age(Some(start), end)),
            age(self.submitted_at, now),
        ]
    }
}

impl AttemptView {
    fn new(attempt: &v1::Attempt) -> Self {
        Self {
            epoch: attempt.epoch,
            worker_id: attempt.worker_id.clone(),
            provider: attempt.provider.clone(),
            state: attempt.state.clone(),
            reason: attempt.reason.clone(),
            outcome: OutcomeView::new(attempt.outcome.as_ref()),
            created_at: moment(attempt.created_at.as_ref()),
            started_at: moment(attempt.started_at.as_ref()),
            finished_at: moment(attempt.finished_at.as_ref()),
        }
    }

    fn describe(&self) -> String {
        let worker =
            format!("{}, worker {} of {}", self.state, dash(&self.worker_id), dash(&self.provider));
        let outcome = self.outcome.as_ref().map(|o| o.summary.as_str()).unwrap_or_default();
        let parts = [worker.as_str(), outcome, self.reason.as_str()];
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join("; ")
    }
}

/// Jobs as a table.
pub(crate) fn job_table(jobs: &[JobView], now: Timestamp) -> String {
    let head = ["ID", "NAME", "STATE", "RESULT", "RAN", "AGE"];
    table(Some(head.map(str::to_owned)), jobs.iter().map(|job| job.row(now)).collect())
}

/// Columns without lines, as kubectl shows them.
pub(crate) fn table<const N: usize>(head: Option<[String; N]>, rows: Vec<[String; N]>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    if let Some(head) = head {
        table.set_header(head);
    }
    table.add_rows(rows.into_iter().map(|row| row.map(|cell| one_line(&cell))));
    let lines: Vec<_> = table.lines().map(|line| line.trim().to_owned()).collect();
    lines.join("\n") + "\n"
}

/// A text that breaks no line and reaches no terminal as a command.
pub(crate) fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// A text that may have several lines and reaches no terminal as a command.
pub(crate) fn plain(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\n', " ")
}

/// JSON in one line, for programs that read a stream.
pub(crate) fn json_line(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("plain data can be written as JSON");
    text + "\n"
}

/// JSON for programs.
pub(crate) fn json(value: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(value).expect("plain data can be written as JSON");
    text + "\n"
}

/// How long ago, in the two largest units.
pub(crate) fn age(time: Option<Timestamp>, now: Timestamp) -> String {
    let Some(time) = time else { return "-".to_owned() };
    let seconds = now.duration_since(time).max(SignedDuration::ZERO).as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

pub(crate) fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn state_name(state: v1::JobState) -> String {
    state.to_core().map_or_else(|| "unknown".to_owned(), |state| state.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds: second, nanos: 0 })
    }

    fn jobs() -> [v1::Job; 2] {
        let failed = v1::Job {
            id: "0190a6f0-0000-7000-8000-000000000001".into(),
            spec: Some(v1::JobSpec { name: "build".into(), priority: 7, ..Default::default() }),
            state: v1::JobState::Failed.into(),
            reason: "the command failed".into(),
            outcome: Some((&Outcome::Exited { code: 3, out_of_memory: false }).into()),
            attempts: vec![v1::Attempt {
                epoch: 1,
                worker_id: "0190a6f0-0000-7000-8000-00000000000a".into(),
                provider: "k8s-local".into(),
                state: "finished".into(),
                outcome: Some((&Outcome::Exited { code: 3, out_of_memory: false }).into()),
                ..Default::default()
            }],
            submitted_at: at(0),
            started_at: at(5),
            finished_at: at(70),
            version: 4,
            correlation_id: "c".into(),
        };
        let queued = v1::Job {
            id: "0190a6f0-0000-7000-8000-000000000002".into(),
            state: v1::JobState::Queued.into(),
            submitted_at: at(80),
            ..Default::default()
        };
        [failed, queued]
    }

    #[test]
    fn tables_and_json() {
        let now = Timestamp::from_second(90_000).unwrap();
        let views: Vec<_> = jobs().iter().map(JobView::new).collect();
        insta::assert_snapshot!("job_table", job_table(&views, now));
        insta::assert_snapshot!("job_description", views[0].describe(now));
        insta::assert_snapshot!("job_json", json(&views[0]));
        let line = "1970-01-02T01:00:00Z failed: exit code 3: the command failed\n";
        assert_eq!(views[0].change(now), line);
        assert_eq!(json_line(&views[0]).lines().count(), 1);
    }

    #[test]
    fn ages() {
        let now = Timestamp::from_second(200_000).unwrap();
        for (seconds, text) in
            [(0, "0s"), (61, "1m1s"), (3_700, "1h1m"), (90_000, "1d1h"), (-5, "0s")]
        {
            let time = now.checked_sub(SignedDuration::from_secs(seconds)).unwrap();
            assert_eq!(age(Some(time), now), text);
        }
    }

    #[test]
    fn a_cell_cannot_break_the_table_or_reach_the_terminal() {
        let text = table(None, vec![["a\nb\x1b[31m".to_owned()]]);
        assert_eq!(text, "a b [31m\n");
    }
}

#[cfg(test)]
mod outside_input {
    use proptest::{collection::vec, option, prelude::*};
    use v1::attempt_outcome::How;

    use super::*;

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![any::<String>(), "[a\\x1b\\x07\u{9b}\n]{0,5}", Just(String::new())]
    }

    fn time() -> impl Strategy<Value = Option<prost_types::Timestamp>> {
        let any = prop_oneof![
            (any::<i64>(), any::<i32>()),
            (-400_000_000_000_i64..300_000_000_000, -2_i32..1_000_000_002),
        ];
        option::of(any)
            .prop_map(|at| at.map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos }))
    }

    fn outcome() -> impl Strategy<Value = Option<v1::AttemptOutcome>> {
        let how = prop_oneof![
            any::<i32>().prop_map(How::ExitCode),
            (0_i32..300).prop_map(How::ExitCode),
            any::<i32>().prop_map(How::Signal),
            text().prop_map(How::Failure),
            any::<bool>().prop_map(How::Cancelled),
        ];
        let outcome = (option::of(how), any::<bool>());
        option::of(
            outcome.prop_map(|(how, out_of_memory)| v1::AttemptOutcome { how, out_of_memory }),
        )
    }

    fn attempt() -> impl Strategy<Value = v1::Attempt> {
        (any::<u32>(), [text(), text(), text(), text()], outcome(), [time(), time(), time()])
            .prop_map(
                |(
                    epoch,
                    [worker_id, provider, state, reason],
                    outcome,
                    [created_at, started_at, finished_at],
                )| {
                    v1::Attempt {
                        epoch,
                        worker_id,
                        provider,
                        state,
                        reason,
                        outcome,
                        created_at,
                        started_at,
                        finished_at,
                    }
                },
            )
    }

    fn job() -> impl Strategy<Value = v1::Job> {
        let spec = option::of((text(), any::<i32>()).prop_map(|(name, priority)| v1::JobSpec {
            name,
            priority,
            ..Default::default()
        }));
        let parts = (spec, vec(attempt(), 0..3), outcome(), -1_i32..12);
        (parts, [text(), text(), text()], [time(), time(), time()], any::<u64>()).prop_map(
            |((spec, attempts, outcome, state), [id, reason, correlation_id], times, version)| {
                let [submitted_at, started_at, finished_at] = times;
                v1::Job {
                    id,
                    spec,
                    state,
                    reason,
                    outcome,
                    attempts,
                    submitted_at,
                    started_at,
                    finished_at,
                    version,
                    correlation_id,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn any_job_is_shown_and_none_reaches_the_terminal_as_a_command(job in job(), now in any::<i32>()) {
            let (view, now) = (JobView::new(&job), Timestamp::from_second(now.into()).unwrap());
            let change = view.change(now);
            prop_assert_eq!(change.lines().count(), 1);
            prop_assert_eq!(json_line(&view).lines().count(), 1);
            for text in [view.describe(now), change, job_table(&[view], now)] {
                prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
            }
        }

        #[test]
        fn a_plain_text_keeps_its_lines_and_what_can_be_seen(text in text()) {
            let (plain, line) = (plain(&text), one_line(&text));
            prop_assert_eq!(plain.matches('\n').count(), text.matches('\n').count());
            prop_assert_eq!(line.chars().count(), text.chars().count());
            let seen = |text: &str| text.replace(|c: char| c.is_control() || c == ' ', "");
            prop_assert_eq!((seen(&plain), seen(&line)), (seen(&text), seen(&text)));
        }
    }
}

//! Says what a job waits for, once that lasts.

use std::{convert::Infallible, time::Duration};

use hodei_proto::v1::{self, JobState};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::view::one_line;

/// A shorter wait needs no explanation.
const LASTS: Duration = Duration::from_secs(2);

/// What a job waits for at present.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    reason: watch::Sender<Option<String>>,
}

impl Waiting {
    /// The job has changed.
    pub(crate) fn turn(&self, job: &v1::Job) {
        let waits = matches!(job.state(), JobState::Queued | JobState::Starting);
        self.reason.send_replace(Some(job.reason.clone()).filter(|r| waits && !r.is_empty()));
    }

    /// Says what is waited for whenever it is worth saying.
    pub(crate) async fn explain(&self, say: impl Fn(&str)) -> Infallible {
        let mut reason = self.reason.subscribe();
        reason.mark_changed();
        let mut rule = Rule::default();
        loop {
            let due = rule.due();
            let timer = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The sender is this object's own: it is there.
                _ = reason.changed() => {
                    rule.turn(Instant::now(), reason.borrow_and_update().clone());
                }
                () = timer => if let Some(text) = rule.take(Instant::now()) {
                    say(&text);
                }
            }
        }
    }
}

/// When to say what: each kind of reason once, when the job has waited for 2 s without a pause. A reason
/// that comes again in other words (a quota is refused anew for every worker) is of the same kind.
#[derive(Debug, Default)]
struct Rule {
    since: Option<Instant>,
    reason: Option<String>,
    said: Option<String>,
}

impl Rule {
    fn turn(&mut self, now: Instant, reason: Option<String>) {
        self.since = reason.as_ref().map(|_| self.since.unwrap_or(now));
        self.reason = reason;
    }

    /// When there is something to say, if nothing changes.
    fn due(&self) -> Option<Instant> {
        let new = self.said.as_deref() != Some(kind(self.reason.as_deref()?));
        self.since.filter(|_| new).map(|since| since + LASTS)
    }

    /// What is to be said now.
    fn take(&mut self, now: Instant) -> Option<String> {
        self.due().filter(|due| *due <= now)?;
        let text = self.reason.clone()?;
        self.said = Some(kind(&text).to_owned());
        Some(one_line(&text))
    }
}

/// Its first two parts: `waiting: quota`, `worker pending: Unschedulable`.
fn kind(reason: &str) -> &str {
    let end = reason.match_indices(':').nth(1).map_or(reason.len(), |(at, _)| at);
    &reason[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said when the reasons come at these moments, in milliseconds, and nothing after the last.
    fn told(changes: &[(u64, &str)]) -> Vec<(u64, String)> {
        let start = Instant::now();
        let (mut rule, mut said) = (Rule::default(), Vec::new());
        let ends = changes.iter().skip(1).map(|(at, _)| *at).chain([u64::MAX >> 32]);
        for ((at, reason), end) in changes.iter().zip(ends) {
            let reason = Some(reason.to_string()).filter(|reason| !reason.is_empty());
            rule.turn(start + Duration::from_millis(*at), reason);
            let due = rule.due().map(|due| due.max(start + Duration::from_millis(*at)));
            if let Some(now) = due.filter(|due| *due < start + Duration::from_millis(end)) {
                let text = rule.take(now).expect("it is due");
                said.push(((now - start).as_millis() as u64, text));
                assert_eq!(rule.due(), None, "once is enough");
            }
        }
        said
    }

    #[test]
    fn a_short_wait_is_not_explained() {
        assert_eq!(told(&[(0, "waiting: quota: a"), (1999, "")]), []);
        let interrupted =
            [(0, "waiting: quota: a"), (1500, ""), (1600, "waiting: quota: a"), (3500, "")];
        assert_eq!(told(&interrupted), []);
    }

    #[test]
    fn each_kind_of_reason_is_said_once() {
        let seen = [
            (0, "waiting: quota: a"),
            (1500, "waiting: quota: b"),
            (5000, "waiting: quota: c"),
            (6000, "worker pending: Unschedulable: 0/1 nodes"),
            (7000, "worker pending: Unschedulable: 0/2 nodes"),
            (8000, ""),
            (9000, "waiting: quota: d\x1b[31m"),
        ];
        let expect = [
            (2000, "waiting: quota: b".to_owned()),
            (6000, "worker pending: Unschedulable: 0/1 nodes".to_owned()),
            (11_000, "waiting: quota: d [31m".to_owned()),
        ];
        assert_eq!(told(&seen), expect);
    }
}

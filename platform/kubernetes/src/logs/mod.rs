//! The agent's own log, as the kubelet keeps it. The job's log takes another way: the agent's stream.

mod follow;
mod lines;
mod resume;

use futures::stream::BoxStream;
use hodei_core::{
    failure::{Failure, FailureCause},
    provider::{LogEntry, LogQuery, ProviderError, WorkerHandle},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::core::subresource::LogParams;

use self::follow::Follow;
use crate::{
    api::{ApiFailure, Call},
    names::CONTAINER,
    provider::KubernetesProvider,
    watch::Presence,
};

const OPERATION: &str = "read worker log";

/// Most bytes of a log that are read at once.
const LIMIT_BYTES: i64 = 16 << 20;

impl KubernetesProvider {
    /// Lines of the agent's log; none yet is an empty answer.
    pub(crate) async fn read_logs(
        &self,
        handle: &WorkerHandle,
        query: LogQuery,
    ) -> Result<Vec<LogEntry>, ProviderError> {
        // The API names a log by the pod's name only; a namesake's log is not this worker's.
        let namesake = self.watch.handle_of(handle.worker).is_some_and(|now| now != *handle);
        let gone = matches!(self.watch.find(handle), Some((Presence::Gone, _)));
        if namesake || (gone && self.watch.is_fresh()) {
            return Err(is_gone(OPERATION, handle));
        }
        let params = LogParams {
            container: Some(CONTAINER.to_owned()),
            tail_lines: query.tail.map(i64::from),
            since_time: query.since.map(whole_second_before),
            previous: query.previous,
            timestamps: true,
            limit_bytes: Some(LIMIT_BYTES),
            ..LogParams::default()
        };
        let request = self.api.requests::<Pod>().logs(&handle.resource, &params);
        let sent = match Call::new(request) {
            Ok(call) => self.api.send(&call).await,
            Err(failure) => Err(failure),
        };
        match sent {
            Ok(answer) => Ok(parse_log(&answer.into_text(), query.since)),
            Err(failure) if has_no_log_yet(&failure) => Ok(Vec::new()),
            Err(failure) if failure.is_not_found() => Err(is_gone(OPERATION, handle)),
            Err(failure) => Err(failure.into_error(OPERATION, &handle.resource)),
        }
    }

    /// Lines of the agent's log as they are written, each once and in order.
    pub(crate) fn follow_logs(
        &self,
        handle: &WorkerHandle,
        query: LogQuery,
    ) -> BoxStream<'static, Result<LogEntry, ProviderError>> {
        Follow::new(self.api.clone(), self.watch.reader(), handle.clone(), query).into_stream()
    }
}

fn is_gone(operation: &'static str, handle: &WorkerHandle) -> ProviderError {
    ProviderError {
        operation,
        subject: handle.resource.clone(),
        failure: Failure {
            cause: FailureCause::DeletedExternally,
            message: "the pod is gone, and its log with it".to_owned(),
        },
        retry_after: None,
        source: None,
    }
}

/// 400 is what the API server says while the container has not started, and for `previous` where
/// there was none before (pkg/registry/core/pod/strategy.go and the kubelet's getContainerLogs).
fn has_no_log_yet(failure: &ApiFailure) -> bool {
    const SIGNS: [&str; 4] =
        ["is waiting to start", "previous terminated container", "not available", "host assigned"];
    failure.code() == Some(400) && SIGNS.iter().any(|sign| failure.message().contains(sign))
}

/// The API takes whole seconds, and kube would round to the nearest: lines could be lost.
fn whole_second_before(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second() - i64::from(time.subsec_nanosecond() < 0))
        .unwrap_or(time)
}

fn parse_log(text: &str, since: Option<Timestamp>) -> Vec<LogEntry> {
    let entries = text.lines().map(parse_log_line);
    let wanted = |entry: &LogEntry| match (since, entry.time) {
        (Some(since), Some(time)) => time >= since,
        _ => true,
    };
    entries.filter(wanted).collect()
}

/// One line as the API gives it with `timestamps=true`: an RFC 3339 time to the nanosecond, a space,
/// and what was written. A line without a time (an error of the kubelet) is kept whole.
#[must_use]
pub fn parse_log_line(line: &str) -> LogEntry {
    let line = line.strip_suffix('\n').unwrap_or(line);
    let line = line.strip_suffix('\r').unwrap_or(line);
    let (stamp, rest) = line.split_once(' ').unwrap_or((line, ""));
    match stamp.parse() {
        Ok(time) => LogEntry { time: Some(time), line: rest.to_owned() },
        Err(_) => LogEntry { time: None, line: line.to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_to_the_nanosecond() {
        for (text, nanos, line) in [
            ("2026-01-02T03:04:05.123456789Z hello world", 123_456_789, "hello world"),
            ("2026-01-02T03:04:05.1Z  indented", 100_000_000, " indented"),
            ("2026-01-02T03:04:05Z ", 0, ""),
            ("2026-01-02T03:04:05Z", 0, ""),
            ("2026-01-02T04:04:05.000000001+01:00 zone\r\n", 1, "zone"),
        ] {
            let entry = parse_log_line(text);
            let second: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
            let time = entry.time.unwrap();
            assert_eq!(time.as_second(), second.as_second(), "{text}");
            assert_eq!(time.subsec_nanosecond(), nanos, "{text}");
            assert_eq!(entry.line, line);
        }
    }

    #[test]
    fn a_line_without_a_time_is_kept_whole() {
        for text in ["unable to retrieve container logs", "", "2026 was a year"] {
            assert_eq!(parse_log_line(text), LogEntry { time: None, line: text.to_owned() });
        }
    }

    #[test]
    fn since_is_exact_although_the_api_takes_whole_seconds() {
        let since: Timestamp = "2026-01-02T03:04:05.6Z".parse().unwrap();
        assert_eq!(whole_second_before(since).to_string(), "2026-01-02T03:04:05Z");
        let text = "2026-01-02T03:04:05.5Z early\n2026-01-02T03:04:05.6Z due\n";
        let lines: Vec<_> = parse_log(text, Some(since)).into_iter().map(|e| e.line).collect();
        assert_eq!(lines, ["due"]);
    }
}

#[cfg(test)]
mod outside_input {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_stamped_line_is_its_time_and_its_words(nanos in any::<i64>(), words in "[^\r\n]{0,40}") {
            let time = Timestamp::from_nanosecond(nanos.into()).unwrap();
            let entry = parse_log_line(&format!("{time} {words}\n"));
            prop_assert_eq!(entry, LogEntry { time: Some(time), line: words });
        }

        #[test]
        fn any_line_is_kept_whole_or_without_its_time(
            text in prop_oneof![any::<String>(), "[0-9TZ:.+ -]{0,40}"],
        ) {
            let line = text.strip_suffix('\n').unwrap_or(&text);
            let line = line.strip_suffix('\r').unwrap_or(line);
            let entry = parse_log_line(&text);
            prop_assert!(line.ends_with(&entry.line), "{entry:?}");
            prop_assert!(entry.time.is_some() || entry.line == line, "{entry:?}");
        }

        #[test]
        fn any_moment_is_rounded_down_by_less_than_a_second(nanos in any::<i64>()) {
            let time = Timestamp::from_nanosecond(nanos.into()).unwrap();
            let whole = whole_second_before(time);
            prop_assert_eq!(whole.subsec_nanosecond(), 0);
            prop_assert!((0..1_000_000_000).contains(&(time.as_nanosecond() - whole.as_nanosecond())));
        }
    }
}

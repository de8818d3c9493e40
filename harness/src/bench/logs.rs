//! The output of one pod and one job, followed to its end: how long it takes, how late a line is, and
//! whether all of them come.
//!
//! The bare side asks as `kubectl logs --follow` does. Both clocks that a line is stamped with, the
//! container runtime's and the agent's, are this machine's on a Kind cluster; elsewhere the latencies
//! mean nothing.

use std::time::Instant;

use futures::AsyncBufReadExt;
use hodei_proto::v1::{JobSpec, StreamLogsRequest, job_spec};
use jiff::Timestamp;
use kube::api::LogParams;

use super::{Comparison, Goal, JobSide, PodSide, percentile};
use crate::failure::{Classify, FailureClass, Result};
use crate::progress::Progress;

/// Lines of 100 bytes that make 50 MiB.
const VOLUME_LINES: u64 = 524_288;
/// Lines of one paced measure.
const PACED_LINES: u64 = 2_000;

/// What a container writes.
#[derive(Debug, Clone, Copy)]
enum Writing {
    /// 50 MiB as fast as it can.
    Volume,
    /// So many lines after each pause of 10 ms.
    Paced(u64),
}

impl Writing {
    fn lines(self) -> u64 {
        match self {
            Self::Volume => VOLUME_LINES,
            Self::Paced(_) => PACED_LINES,
        }
    }

    /// Numbered lines, so that it can be told which are missing.
    fn script(self) -> String {
        match self {
            Self::Volume => format!("seq -f %099.0f {VOLUME_LINES}"),
            Self::Paced(burst) => format!(
                "i=0; while [ $i -lt {PACED_LINES} ]; do i=$((i+1)); echo $i; \
                 [ $((i % {burst})) -ne 0 ] || sleep 0.01; done"
            ),
        }
    }
}

/// What was read of one output.
#[derive(Debug)]
struct Reading {
    /// When it was asked for. What was written before is late through no fault of the way.
    asked: Timestamp,
    begun: Option<Instant>,
    /// From the first byte to the last, in seconds.
    seconds: f64,
    /// The number of the line before.
    last: u64,
    /// Lines that did not come where they had to.
    misplaced: u64,
    lines: u64,
    partial: Vec<u8>,
    /// How late each line was, in seconds.
    latencies: Vec<f64>,
}

impl Reading {
    fn begin() -> Self {
        Self {
            asked: Timestamp::now(),
            begun: None,
            seconds: 0.0,
            last: 0,
            misplaced: 0,
            lines: 0,
            partial: Vec::new(),
            latencies: Vec::new(),
        }
    }

    fn take(&mut self, data: &[u8], written: Timestamp) {
        let begun = *self.begun.get_or_insert_with(Instant::now);
        self.seconds = begun.elapsed().as_secs_f64();
        let late = (Timestamp::now() - written).total(jiff::Unit::Second).unwrap_or(0.0);
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let number = String::from_utf8_lossy(&self.partial).trim().parse::<u64>();
                self.partial.clear();
                self.lines += 1;
                if written >= self.asked {
                    self.latencies.push(late);
                }
                let number = number.unwrap_or(0);
                self.misplaced += u64::from(number != self.last + 1);
                self.last = number;
            }
        }
    }

    /// In words, what is wrong with it; nothing is the empty text.
    fn faults(&self, writing: Writing) -> String {
        let missing = writing.lines().saturating_sub(self.lines);
        if missing == 0 && self.misplaced == 0 {
            return String::new();
        }
        format!("{missing} lines missing, {} out of place", self.misplaced)
    }
}

impl PodSide {
    async fn read_output(&self, writing: Writing) -> Result<Reading> {
        let subject = "the log of a bare pod";
        let read = async |name: &str| {
            // A stamp makes a line longer, which the volume must not pay for.
            let timestamps = matches!(writing, Writing::Paced(_));
            let follow = LogParams { follow: true, timestamps, ..LogParams::default() };
            let mut reading = Reading::begin();
            let log = self.pods.log_stream(name, &follow).await;
            let mut log = std::pin::pin!(log.infrastructure("follow", subject)?);
            let mut line = Vec::new();
            while log.read_until(b'\n', &mut line).await.infrastructure("read", subject)? > 0 {
                let (time, text) = if timestamps {
                    let text = std::str::from_utf8(&line).infrastructure("read", subject)?;
                    let (time, text) = text.split_once(' ').unwrap_or_default();
                    (time.parse().infrastructure("read", subject)?, text.as_bytes())
                } else {
                    (Timestamp::now(), &*line)
                };
                reading.take(text, time);
                line.clear();
            }
            Ok(reading)
        };
        self.with_running(&["sh", "-c", &writing.script()], read).await
    }
}

impl JobSide {
    async fn read_output(&self, writing: Writing) -> Result<Reading> {
        let (class, subject) = (FailureClass::Product, "the output of a job");
        let run = Some(job_spec::Run::Script(writing.script()));
        let id = self.submit(JobSpec { run, ..Default::default() }).await?;
        let request = StreamLogsRequest { job_id: id, follow: true, ..Default::default() };
        let mut reading = Reading::begin();
        let answer = self.clients.logs().stream(request).await;
        let mut stream = answer.classify(class, "follow", subject)?.into_inner();
        while let Some(part) = stream.message().await.classify(class, "read", subject)? {
            for frame in part.frames {
                let time = frame.time.unwrap_or_default();
                let time = Timestamp::new(time.seconds, time.nanos);
                let time = time.classify(class, "read", "a frame's time")?;
                reading.take(&frame.data, time);
            }
        }
        Ok(reading)
    }
}

/// Measures both sides.
///
/// # Errors
/// As for [`compare`](super::compare).
pub async fn compare_logs(
    pods: &PodSide,
    jobs: &JobSide,
    progress: &Progress,
) -> Result<Vec<Comparison>> {
    let mut found = Vec::new();
    for (what, writing) in [
        ("50 MiB of output", Writing::Volume),
        ("100 lines/s", Writing::Paced(1)),
        ("1,000 lines/s", Writing::Paced(10)),
    ] {
        let (pod, job) = progress
            .stage(what.to_owned(), async |stage| {
                stage.line("pod");
                let pod = pods.read_output(writing).await?;
                stage.line("job");
                Ok((pod, jobs.read_output(writing).await?))
            })
            .await?;
        let faults = [("pod", pod.faults(writing)), ("job", job.faults(writing))];
        let faults: Vec<_> = faults.iter().filter(|(_, text)| !text.is_empty()).collect();
        let faults: String =
            faults.iter().map(|(side, text)| format!(" ({side}: {text})")).collect();
        match writing {
            Writing::Volume => found.push(Comparison::of(
                format!("{what}, first byte to last{faults}"),
                pod.seconds,
                job.seconds,
                Goal::Ratio(0.1),
            )),
            Writing::Paced(_) => {
                for (share, name, goal) in [(0.5, "p50", 0.001), (0.99, "p99", 0.005)] {
                    found.push(Comparison::of(
                        format!("a line's way at about {what}, {name}{faults}"),
                        percentile(&pod.latencies, share),
                        percentile(&job.latencies, share),
                        Goal::Seconds(goal),
                    ));
                }
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_missing_or_doubled_is_told() {
        for (written, expect) in [
            ("1\n2\n3\n", "1997 lines missing, 0 out of place"),
            ("1\n3\n4\n", "1997 lines missing, 1 out of place"),
            ("1\n2\n2\n3\n", "1996 lines missing, 1 out of place"),
        ] {
            let mut reading = Reading::begin();
            for piece in written.as_bytes().chunks(3) {
                reading.take(piece, Timestamp::now());
            }
            assert_eq!(reading.faults(Writing::Paced(1)), expect, "{written:?}");
        }
        let mut reading = Reading::begin();
        for line in 1..=PACED_LINES {
            reading.take(format!("{line}\n").as_bytes(), Timestamp::now());
        }
        assert_eq!(reading.faults(Writing::Paced(1)), "");
    }
}

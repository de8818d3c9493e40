//! Conversions between the wire and `hodei-core`.

use std::time::Duration;

use hodei_core::{
    attempt::Outcome,
    id::{AttemptKey, Epoch, InvalidId},
    job::JobState,
    session::{Frame, Gap, GapCause, MAX_FRAME_BYTES, OutputStream},
    spec::{InvalidSpec, JobSpec, Resources, RetryPolicy, Run, Timeouts, Violation},
};
use jiff::Timestamp;

use crate::v1;

/// Largest message either side takes, in bytes: a batch of frames with room for the envelope.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// A message that says nothing sensible.
#[derive(Debug, thiserror::Error)]
pub enum InvalidMessage {
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An identifier is malformed.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// A value is outside its range.
    #[error("{field}: {problem}")]
    OutOfRange {
        /// Path of the field.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
}

/// A moment as the wire has it; `Timestamp`'s whole range fits.
#[must_use]
pub fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let mut seconds = time.as_second();
    let mut nanos = time.subsec_nanosecond();
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    prost_types::Timestamp { seconds, nanos }
}

/// A moment of the wire, where it is one.
#[must_use]
pub fn moment(wire: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    wire.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok())
}

/// A frame as the wire has it.
#[must_use]
pub fn frame_to_wire(frame: Frame) -> v1::LogFrame {
    let stream = match frame.stream {
        OutputStream::Stdout => v1::OutputStream::Stdout,
        OutputStream::Stderr => v1::OutputStream::Stderr,
    };
    v1::LogFrame {
        sequence: frame.sequence,
        stream: stream.into(),
        time: Some(timestamp(frame.time)),
        data: frame.data,
        dropped_bytes: frame.gap.map_or(0, |gap| gap.bytes),
        gap: frame.gap.map(|gap| Box::new(gap_to_wire(&gap))),
    }
}

fn gap_to_wire(gap: &Gap) -> v1::LogGap {
    let cause = match gap.cause {
        GapCause::Unstated => v1::LogGapCause::Unspecified,
        GapCause::SpoolFull => v1::LogGapCause::SpoolFull,
        GapCause::SpoolUnreadable => v1::LogGapCause::SpoolUnreadable,
    };
    v1::LogGap { frames: gap.frames, since: Some(timestamp(gap.since)), cause: cause.into() }
}

/// The gap that a frame of this time says, if it says one. What it leaves open is not guessed.
fn gap_from_wire(frame: &v1::LogFrame, time: Timestamp) -> Option<Gap> {
    let bytes = frame.dropped_bytes;
    let Some(gap) = &frame.gap else {
        let unstated = Gap { bytes, frames: 0, since: time, cause: GapCause::Unstated };
        return (bytes > 0).then_some(unstated);
    };
    let cause = match gap.cause() {
        v1::LogGapCause::Unspecified => GapCause::Unstated,
        v1::LogGapCause::SpoolFull => GapCause::SpoolFull,
        v1::LogGapCause::SpoolUnreadable => GapCause::SpoolUnreadable,
    };
    let since = moment(gap.since.as_ref()).unwrap_or(time);
    Some(Gap { bytes, frames: gap.frames, since, cause })
}

/// A frame from the wire.
///
/// # Errors
/// When a field is missing or out of range: sequence 0, an unknown stream, too much data.
pub fn frame_from_wire(frame: v1::LogFrame) -> Result<Frame, InvalidMessage> {
    let stream = match frame.stream() {
        v1::OutputStream::Stdout => OutputStream::Stdout,
        v1::OutputStream::Stderr => OutputStream::Stderr,
        v1::OutputStream::Unspecified => return Err(InvalidMessage::Missing("frame.stream")),
    };
    let out_of_range = |field, problem| InvalidMessage::OutOfRange { field, problem };
    if frame.sequence == 0 {
        return Err(out_of_range("frame.sequence", "counts from 1".to_owned()));
    }
    if frame.data.len() > MAX_FRAME_BYTES {
        let problem = format!("{} bytes; at most {MAX_FRAME_BYTES}", frame.data.len());
        return Err(out_of_range("frame.data", problem));
    }
    let time = frame.time.as_ref().ok_or(InvalidMessage::Missing("frame.time"))?;
    let time =
        moment(Some(time)).ok_or_else(|| out_of_range("frame.time", "is no moment".to_owned()))?;
    let gap = gap_from_wire(&frame, time);
    Ok(Frame { sequence: frame.sequence, stream, time, data: frame.data, gap })
}

impl From<AttemptKey> for v1::AttemptRef {
    fn from(key: AttemptKey) -> Self {
        Self { job_id: key.job.to_string(), epoch: key.epoch.0 }
    }
}

impl TryFrom<&v1::AttemptRef> for AttemptKey {
    type Error = InvalidMessage;

    fn try_from(wire: &v1::AttemptRef) -> Result<Self, InvalidMessage> {
        Ok(Self { job: wire.job_id.parse()?, epoch: Epoch(wire.epoch) })
    }
}

impl From<&Outcome> for v1::AttemptOutcome {
    fn from(outcome: &Outcome) -> Self {
        use v1::attempt_outcome::How;
        let (how, out_of_memory) = match outcome {
            Outcome::Exited { code, out_of_memory } => (How::ExitCode(*code), *out_of_memory),
            Outcome::Signalled { signal, out_of_memory } => (How::Signal(*signal), *out_of_memory),
            Outcome::NotRun { reason } => (How::Failure(reason.clone()), false),
            Outcome::Cancelled => (How::Cancelled(true), false),
        };
        Self { how: Some(how), out_of_memory }
    }
}

impl TryFrom<v1::AttemptOutcome> for Outcome {
    type Error = InvalidMessage;

    fn try_from(wire: v1::AttemptOutcome) -> Result<Self, InvalidMessage> {
        use v1::attempt_outcome::How;
        let out_of_memory = wire.out_of_memory;
        let out_of_range = |field, value: i32, range| InvalidMessage::OutOfRange {
            field,
            problem: format!("{value} is not in {range}"),
        };
        match wire.how.ok_or(InvalidMessage::Missing("outcome.how"))? {
            How::ExitCode(code @ 0..=255) => Ok(Self::Exited { code, out_of_memory }),
            How::ExitCode(code) => Err(out_of_range("outcome.exit_code", code, "0 to 255")),
            How::Signal(signal @ 1..=64) => Ok(Self::Signalled { signal, out_of_memory }),
            How::Signal(signal) => Err(out_of_range("outcome.signal", signal, "1 to 64")),
            How::Failure(reason) => {
                // PostgreSQL keeps no NUL.
                let reason = reason.replace('\0', "\u{fffd}").chars().take(4096).collect();
                Ok(Self::NotRun { reason })
            }
            How::Cancelled(_) => Ok(Self::Cancelled),
        }
    }
}

impl From<JobState> for v1::JobState {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Queued => Self::Queued,
            JobState::Starting => Self::Starting,
            JobState::Running => Self::Running,
            JobState::Cancelling => Self::Cancelling,
            JobState::Succeeded => Self::Succeeded,
            JobState::Failed => Self::Failed,
            JobState::Cancelled => Self::Cancelled,
            JobState::TimedOut => Self::TimedOut,
        }
    }
}

impl v1::JobState {
    /// The state of the domain; `None` for what this build does not know.
    #[must_use]
    pub fn to_core(self) -> Option<JobState> {
        JobState::ALL.into_iter().find(|&state| Self::from(state) == self)
    }
}

impl From<&JobSpec> for v1::JobSpec {
    fn from(spec: &JobSpec) -> Self {
        let run = match &spec.run {
            Run::Command(argv) => v1::job_spec::Run::Command(v1::Command { argv: argv.clone() }),
            Run::Script(text) => v1::job_spec::Run::Script(text.clone()),
        };
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        Self {
            name: text(&spec.name),
            run: Some(run),
            env: spec.env.clone().into_iter().collect(),
            working_directory: text(&spec.working_directory),
            resources: Some(v1::Resources {
                cpu_request: text(&spec.resources.cpu_request),
                cpu_limit: text(&spec.resources.cpu_limit),
                memory_request: text(&spec.resources.memory_request),
                memory_limit: text(&spec.resources.memory_limit),
            }),
            timeouts: Some(v1::Timeouts {
                queue: duration(spec.timeouts.queue),
                startup: duration(spec.timeouts.startup),
                run: duration(spec.timeouts.run),
            }),
            retry: Some(v1::RetryPolicy {
                infrastructure: Some(spec.retry.infrastructure),
                command: Some(spec.retry.command),
            }),
            labels: spec.labels.clone().into_iter().collect(),
            image: text(&spec.image),
            priority: spec.priority,
        }
    }
}

impl TryFrom<v1::JobSpec> for JobSpec {
    type Error = InvalidSpec;

    /// Reads and checks a specification; the error names every bad field.
    fn try_from(wire: v1::JobSpec) -> Result<Self, InvalidSpec> {
        let violation = |field: &str, problem: &str| {
            InvalidSpec(vec![Violation { field: field.to_owned(), problem: problem.to_owned() }])
        };
        let run = match wire.run {
            Some(v1::job_spec::Run::Command(command)) => Run::Command(command.argv),
            Some(v1::job_spec::Run::Script(text)) => Run::Script(text),
            None => return Err(violation("spec", "needs a command or a script")),
        };
        let text = |value: String| Some(value).filter(|value| !value.is_empty());
        let resources = wire.resources.unwrap_or_default();
        let timeouts = wire.timeouts.unwrap_or_default();
        let retry = wire.retry.unwrap_or_default();
        let period = |field, wire: Option<prost_types::Duration>, default| match wire {
            None => Ok(default),
            Some(wire) => Duration::try_from(wire)
                .map_err(|_| violation(field, "is negative or out of range")),
        };
        let default = Timeouts::default();
        let spec = Self {
            name: text(wire.name),
            run,
            env: wire.env.into_iter().collect(),
            working_directory: text(wire.working_directory),
            resources: Resources {
                cpu_request: text(resources.cpu_request),
                cpu_limit: text(resources.cpu_limit),
                memory_request: text(resources.memory_request),
                memory_limit: text(resources.memory_limit),
            },
            timeouts: Timeouts {
                queue: period("spec.timeouts.queue", timeouts.queue, default.queue)?,
                startup: period("spec.timeouts.startup", timeouts.startup, default.startup)?,
                run: period("spec.timeouts.run", timeouts.run, default.run)?,
            },
            retry: RetryPolicy {
                infrastructure: retry
                    .infrastructure
                    .unwrap_or(RetryPolicy::default().infrastructure),
                command: retry.command.unwrap_or(RetryPolicy::default().command),
            },
            labels: wire.labels.into_iter().collect(),
            image: text(wire.image),
            priority: wire.priority,
        };
        spec.validate()?;
        Ok(spec)
    }
}

fn duration(value: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_specification_survives_the_wire() {
        let mut spec = JobSpec::command(["sh", "-c", "exit 3"]);
        spec.name = Some("build".into());
        spec.env.insert("A".into(), "b".into());
        spec.resources.cpu_limit = Some("500m".into());
        spec.retry.command = 1;
        spec.priority = -7;
        assert_eq!(JobSpec::try_from(v1::JobSpec::from(&spec)).unwrap(), spec);
    }

    #[test]
    fn an_empty_specification_is_refused_with_its_field() {
        let error = JobSpec::try_from(v1::JobSpec::default()).unwrap_err();
        assert_eq!(error.to_string(), "spec: needs a command or a script");
    }

    #[test]
    fn outcomes_survive_the_wire_and_keep_their_range() {
        for outcome in [
            Outcome::Exited { code: 3, out_of_memory: false },
            Outcome::Signalled { signal: 9, out_of_memory: true },
            Outcome::NotRun { reason: "no such file".into() },
            Outcome::Cancelled,
        ] {
            let wire = v1::AttemptOutcome::from(&outcome);
            assert_eq!(Outcome::try_from(wire).unwrap(), outcome);
        }
        let how = Some(v1::attempt_outcome::How::ExitCode(256));
        assert!(Outcome::try_from(v1::AttemptOutcome { how, out_of_memory: false }).is_err());
    }

    #[test]
    fn moments_before_1970_survive_the_wire() {
        for nanoseconds in [-1, -1_000_000_000, 0, 1_500_000_000] {
            let time = Timestamp::from_nanosecond(nanoseconds).unwrap();
            assert_eq!(moment(Some(&timestamp(time))), Some(time));
        }
    }

    #[test]
    fn frames_out_of_range_are_refused() {
        let good = v1::LogFrame {
            sequence: 1,
            stream: v1::OutputStream::Stdout.into(),
            time: Some(timestamp(Timestamp::UNIX_EPOCH)),
            ..Default::default()
        };
        assert!(frame_from_wire(good.clone()).is_ok());
        type Change = fn(&mut v1::LogFrame);
        let changes: [Change; 4] = [
            |frame| frame.sequence = 0,
            |frame| frame.stream = 0,
            |frame| frame.time = None,
            |frame| frame.data = vec![0; MAX_FRAME_BYTES + 1].into(),
        ];
        for change in changes {
            let mut frame = good.clone();
            change(&mut frame);
            assert!(frame_from_wire(frame).is_err());
        }
    }

    #[test]
    fn what_is_lost_is_said_on_the_wire_to_older_readers_too() {
        for cause in [GapCause::Unstated, GapCause::SpoolFull, GapCause::SpoolUnreadable] {
            let time = Timestamp::UNIX_EPOCH;
            let gap = Some(Gap { bytes: 7, frames: 2, since: time, cause });
            let (stream, data) = (OutputStream::Stderr, bytes::Bytes::new());
            let frame = Frame { sequence: 3, stream, time, data, gap };
            let wire = frame_to_wire(frame.clone());
            assert_eq!((wire.dropped_bytes, wire.data.len()), (7, 0));
            assert_eq!(frame_from_wire(wire.clone()).unwrap(), frame);
            let old = v1::LogFrame { gap: None, ..wire };
            let unstated = Gap { bytes: 7, frames: 0, since: time, cause: GapCause::Unstated };
            assert_eq!(frame_from_wire(old).unwrap().gap, Some(unstated));
        }
    }

    #[test]
    fn every_state_is_known_on_the_wire() {
        for state in JobState::ALL {
            assert_eq!(v1::JobState::from(state).to_core(), Some(state));
        }
        assert_eq!(v1::JobState::Unspecified.to_core(), None);
    }
}

//! Typed waits of a case. Each has a deadline and reports the last state it saw.

use std::time::Duration;

use futures::StreamExt;
use hodei_proto::v1::{GetJobRequest, Job, JobState, LogFrame, OutputStream, StreamLogsRequest};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::{CaseEnv, PodRecord};
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::wait::{Observed, await_until};

/// From submit to a running command, on a busy two-core machine.
const JOB_DEADLINE: Duration = Duration::from_secs(90);
/// From an action to its pod's answer. A kubelet on two busy cores was seen to take 68 s from a container's
/// end to its pod's.
const POD_DEADLINE: Duration = Duration::from_secs(120);
/// From a job's end to its last line of output.
const LOG_DEADLINE: Duration = Duration::from_secs(60);

/// What a job wrote, as a client was sent it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    /// Each frame with the epoch of its attempt, in the order of arrival.
    pub frames: Vec<(u32, LogFrame)>,
}

impl Output {
    /// Standard output, all of it.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.text(OutputStream::Stdout)
    }

    /// Standard output, byte for byte.
    #[must_use]
    pub fn stdout_bytes(&self) -> Vec<u8> {
        self.bytes(OutputStream::Stdout)
    }

    /// Standard error, all of it.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.text(OutputStream::Stderr)
    }

    /// The sequence numbers, in the order of arrival.
    #[must_use]
    pub fn sequences(&self) -> Vec<u64> {
        self.frames.iter().map(|(_, frame)| frame.sequence).collect()
    }

    fn text(&self, stream: OutputStream) -> String {
        String::from_utf8_lossy(&self.bytes(stream)).into_owned()
    }

    fn bytes(&self, stream: OutputStream) -> Vec<u8> {
        let of = self.frames.iter().filter(|(_, frame)| frame.stream == stream as i32);
        of.flat_map(|(_, frame)| frame.data.iter().copied()).collect()
    }
}

/// Whether a job in this state will never be in another.
#[must_use]
pub fn is_final(state: JobState) -> bool {
    use JobState::{Cancelled, Failed, Succeeded, TimedOut};
    matches!(state, Succeeded | Failed | Cancelled | TimedOut)
}

/// Whether a pod's containers all report ready.
#[must_use]
pub fn pod_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// The exit code of a pod's first container, once it has ended.
#[must_use]
pub fn pod_terminated(pod: &Pod) -> Option<i32> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let status = statuses.first()?;
    let ended = status.state.as_ref()?.terminated.as_ref();
    let before = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    ended.or(before).map(|ended| ended.exit_code)
}

impl CaseEnv {
    /// A job as it is now.
    ///
    /// # Errors
    /// The server does not know it or does not answer.
    pub async fn job(&self, id: &str) -> Result<Job> {
        let answer = self.clients()?.jobs().get(GetJobRequest { id: id.to_owned() }).await;
        let answer = answer.classify(FailureClass::Product, "get", format!("job {id}"))?;
        answer.into_inner().job.ok_or_else(|| {
            HarnessError::new(
                FailureClass::Product,
                "get",
                format!("job {id}"),
                "no job in the answer",
            )
        })
    }

    /// Waits until a job satisfies `wanted`.
    ///
    /// # Errors
    /// It does not within `deadline`, or it ended in another state, which it will never leave.
    pub async fn await_job(
        &self,
        id: &str,
        what: &str,
        deadline: Duration,
        wanted: impl Fn(&Job) -> bool,
    ) -> Result<Job> {
        await_until(format!("job {id} to be {what}"), deadline, async || {
            // A server that is just being restarted answers a little later.
            let job = match self.job(id).await {
                Ok(job) => job,
                Err(error) => return Ok(Observed::NotYet(error.source.to_string())),
            };
            if wanted(&job) {
                return Ok(Observed::Ready(job));
            }
            let seen = describe_job(&job);
            if is_final(job.state()) {
                let subject = format!("job {id} to be {what}");
                let cause = format!("it ended otherwise: {seen}");
                return Err(HarnessError::new(FailureClass::Product, "wait for", subject, cause));
            }
            Ok(Observed::NotYet(seen))
        })
        .await
    }

    /// Waits until a job is in `state`.
    ///
    /// # Errors
    /// As for [`Self::await_job`].
    pub async fn await_job_state(&self, id: &str, state: JobState) -> Result<Job> {
        self.await_job(id, state.as_str_name(), JOB_DEADLINE, |job| job.state() == state).await
    }

    /// Waits until a job has ended, however it did.
    ///
    /// # Errors
    /// It does not within a minute and a half.
    pub async fn await_job_end(&self, id: &str) -> Result<Job> {
        self.await_job(id, "final", JOB_DEADLINE, |job| is_final(job.state())).await
    }

    /// Waits until some pod of the namespace, living or gone, satisfies `wanted`.
    ///
    /// # Errors
    /// None does within two minutes; the error lists the pods.
    pub async fn await_pod(&self, what: &str, wanted: impl Fn(&PodRecord) -> bool) -> Result<Pod> {
        let found = self.await_pods(what, POD_DEADLINE, |all| {
            all.iter().find(|record| wanted(record)).map(|record| record.pod.clone())
        });
        found.await
    }

    /// Waits until the pods of the namespace are as wanted; told of each change by the watch.
    ///
    /// # Errors
    /// They are not within `deadline`; the error lists them.
    pub async fn await_pods<T>(
        &self,
        what: &str,
        deadline: Duration,
        wanted: impl Fn(&[PodRecord]) -> Option<T>,
    ) -> Result<T> {
        let mut changes = self.recorder.changes();
        let waiting = async {
            loop {
                let pods: Vec<_> = changes.borrow_and_update().values().cloned().collect();
                if let Some(found) = wanted(&pods) {
                    return Some(found);
                }
                if changes.changed().await.is_err() {
                    return None;
                }
            }
        };
        if let Ok(Some(found)) = tokio::time::timeout(deadline, waiting).await {
            return Ok(found);
        }
        let seen: Vec<_> = self.recorder.pods().iter().map(describe_pod).collect();
        let seen = if seen.is_empty() { "no pod at all".to_owned() } else { seen.join("; ") };
        let cause = format!("not so after {} s; last seen: {seen}", deadline.as_secs());
        Err(HarnessError::new(FailureClass::Product, "wait for", what, cause))
    }

    /// Waits until no pod is left in the namespace.
    ///
    /// # Errors
    /// One is still there after two minutes.
    pub async fn await_gone(&self) -> Result<()> {
        let none = |pods: &[PodRecord]| pods.iter().all(|record| record.gone).then_some(());
        self.await_pods("every pod to be gone", POD_DEADLINE, none).await
    }

    /// A job's output from its beginning, followed to its end.
    ///
    /// # Errors
    /// The stream fails or does not end within a minute.
    pub async fn job_output(&self, id: &str) -> Result<Output> {
        self.job_output_from(id, 0, 0).await
    }

    /// A job's output from a sequence number of an attempt on, followed to its end.
    ///
    /// # Errors
    /// As for [`Self::job_output`].
    pub async fn job_output_from(&self, id: &str, epoch: u32, sequence: u64) -> Result<Output> {
        self.read_output(id, (epoch, sequence), |_| false).await
    }

    /// A job's standard output so far, once it contains `text`, by `LogStreamService`.
    ///
    /// # Errors
    /// The job ends, or a minute passes, and the text did not come.
    pub async fn await_output(&self, id: &str, text: &str) -> Result<String> {
        let stdout =
            self.read_output(id, (0, 0), |output| output.stdout().contains(text)).await?.stdout();
        if stdout.contains(text) {
            return Ok(stdout);
        }
        let subject = format!("{text:?} in the output of job {id}");
        Err(HarnessError::new(FailureClass::Product, "find", subject, stdout))
    }

    /// Waits until a job runs and has written `text`, both: its output can be seen a moment before its
    /// state says that it runs.
    ///
    /// # Errors
    /// As for [`Self::await_job_state`] and [`Self::await_output`].
    pub async fn await_running(&self, id: &str, text: &str) -> Result<()> {
        self.await_job_state(id, JobState::Running).await?;
        self.await_output(id, text).await?;
        Ok(())
    }

    async fn read_output(
        &self,
        id: &str,
        (from_epoch, from_sequence): (u32, u64),
        enough: impl Fn(&Output) -> bool,
    ) -> Result<Output> {
        let subject = || format!("the output of job {id}");
        let class = FailureClass::Product;
        let request =
            StreamLogsRequest { job_id: id.to_owned(), from_epoch, from_sequence, follow: true };
        let reading = async {
            let answer = self.clients()?.logs().stream(request).await;
            let mut stream = answer.classify(class, "read", subject())?.into_inner();
            let mut output = Output::default();
            while !enough(&output)
                && let Some(part) = stream.next().await
            {
                let part = part.classify(class, "read", subject())?;
                output.frames.extend(part.frames.into_iter().map(|frame| (part.epoch, frame)));
            }
            Ok(output)
        };
        let read = tokio::time::timeout(LOG_DEADLINE, reading).await;
        read.map_err(|_| {
            let cause = format!("the stream did not end within {} s", LOG_DEADLINE.as_secs());
            HarnessError::new(class, "read", subject(), cause)
        })?
    }
}

fn describe_job(job: &Job) -> String {
    let attempts: Vec<_> =
        job.attempts.iter().map(|a| format!("#{} {} {}", a.epoch, a.state, a.reason)).collect();
    let outcome = job.outcome.as_ref().map(|outcome| format!("{outcome:?}")).unwrap_or_default();
    format!(
        "{} {:?} {outcome} attempts: [{}]",
        job.state().as_str_name(),
        job.reason,
        attempts.join(", ")
    )
}

fn describe_pod(record: &PodRecord) -> String {
    let status = record.pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.clone()).unwrap_or_default();
    let container = status.and_then(|status| status.container_statuses.as_ref()?.first().cloned());
    let state = container.map_or_else(String::new, |container| {
        let state = container.state.unwrap_or_default();
        let why = state
            .waiting
            .and_then(|waiting| waiting.reason)
            .or_else(|| Some(format!("exit {}", state.terminated?.exit_code)));
        format!(" {} restarts {}", why.unwrap_or_default(), container.restart_count)
    });
    let gone = if record.gone { " (gone)" } else { "" };
    format!("{} {phase}{state}{gone}", record.pod.name_any())
}

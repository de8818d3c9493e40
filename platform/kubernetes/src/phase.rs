//! What a pod's status means for a worker. A pure function from a pod to a [`Sighting`]; the one
//! thing that depends on time, a state that is a failure only when it lasts, is carried as a moment
//! in the sighting and judged by [`Sighting::at`].
//!
//! Rules that are not obvious:
//! - A pod that is being deleted is `Terminating`, unless the cluster says that it is being deleted
//!   because it was disrupted: then the disruption is the news.
//! - An image is reported as failed at the first `ErrImagePull`. The kubelet would go on trying, but
//!   the control plane knows better than the kubelet whether to wait or to try elsewhere.
//! - A container that is being created is a failure when that lasts: a volume that can't be mounted
//!   and a sandbox that can't be made have no reason in the status, only events.
//! - A missing Secret is a failure only when it lasts: the Secret is made before the pod, but a
//!   kubelet may see the pod first.

use hodei_core::{
    failure::{Failure, FailureCause},
    id::WorkerId,
    provider::{ObservedWorker, WorkerHandle, WorkerPhase},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Pod,
    PodCondition, PodStatus,
};

use crate::names::{CONTAINER, attempt};

/// A worker as one version of its pod shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sighting {
    /// What it is at the time of the pod's last change.
    pub(crate) observed: ObservedWorker,
    /// What it becomes if nothing changes until that moment.
    pub(crate) overdue: Option<(Timestamp, Failure)>,
    /// Where its log stands.
    pub(crate) log: LogState,
    /// The finalizers that keep it when it is deleted.
    pub(crate) finalizers: Vec<String>,
}

/// Where the log of a worker's container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogState {
    /// The container was not started yet.
    NotStarted,
    /// It runs, or will run again.
    Running,
    /// Nothing will be written any more.
    Ended,
}

impl Sighting {
    /// What the worker is at a moment, if the pod has not changed.
    pub(crate) fn at(&self, now: Timestamp) -> ObservedWorker {
        match &self.overdue {
            Some((due, failure)) if now >= *due => ObservedWorker {
                phase: WorkerPhase::Failed(failure.clone()),
                ..self.observed.clone()
            },
            _ => self.observed.clone(),
        }
    }
}

/// What is seen of `worker` in its pod. `patience` is how long a state may last that can heal.
pub(crate) fn sight(pod: &Pod, worker: WorkerId, patience: SignedDuration) -> Sighting {
    let meta = &pod.metadata;
    let created_at = meta.creation_timestamp.as_ref().map(|time| time.0);
    let (phase, overdue) = read_phase(pod, created_at, patience);
    // That a start takes long is our word, not the cluster's.
    let said = overdue.as_ref().filter(|(_, late)| late.cause != FailureCause::StartupTimeout);
    let waiting_for = said.map(|(_, late)| late.message.clone());
    let observed = ObservedWorker {
        handle: WorkerHandle {
            worker,
            resource: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
        },
        phase,
        restarts: container(pod).map_or(0, |c| u32::try_from(c.restart_count).unwrap_or(0)),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        attempt: attempt(meta),
        created_at,
        waiting_for,
    };
    let finalizers = meta.finalizers.clone().unwrap_or_default();
    Sighting { observed, overdue, log: log_state(pod), finalizers }
}

fn log_state(pod: &Pod) -> LogState {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let state = container(pod).and_then(|seen| Some((seen, seen.state.as_ref()?)));
    match (phase, state) {
        (Some("Succeeded" | "Failed"), _) => LogState::Ended,
        (_, Some((_, ContainerState { running: Some(_), .. }))) => LogState::Running,
        (_, Some((_, ContainerState { terminated: Some(end), .. }))) => match after_end(pod, end) {
            WorkerPhase::Starting => LogState::Running,
            _ => LogState::Ended,
        },
        (_, Some((seen, _))) if has_run(seen) => LogState::Running,
        _ => LogState::NotStarted,
    }
}

fn has_run(seen: &ContainerStatus) -> bool {
    seen.restart_count > 0 || seen.last_state.as_ref().is_some_and(|last| last.terminated.is_some())
}

type Overdue = Option<(Timestamp, Failure)>;

fn read_phase(
    pod: &Pod,
    created_at: Option<Timestamp>,
    patience: SignedDuration,
) -> (WorkerPhase, Overdue) {
    let no_status = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&no_status);
    if let Some(failure) = disruption(status) {
        return (WorkerPhase::Failed(failure), None);
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return (WorkerPhase::Terminating, None);
    }
    let ended = container(pod).and_then(|c| c.state.as_ref()?.terminated.as_ref());
    match status.phase.as_deref() {
        Some("Succeeded") => return (WorkerPhase::Succeeded, None),
        Some("Failed") => return (WorkerPhase::Failed(end_of(status, ended)), None),
        Some("Unknown") => {
            let message = pod_words(status, "the node does not report");
            return (failed(FailureCause::NodeLost, message), None);
        }
        _ => {}
    }
    match container(pod).and_then(|c| Some((c, c.state.as_ref()?))) {
        Some((_, ContainerState { running: Some(_), .. })) => (WorkerPhase::Running, None),
        Some((_, ContainerState { terminated: Some(end), .. })) => (after_end(pod, end), None),
        Some((seen, ContainerState { waiting: Some(waiting), .. })) => {
            read_waiting(seen, waiting, created_at, patience, stuck(pod, status, patience))
        }
        _ => read_unstarted(pod, status, patience),
    }
}

/// The worker's container; a sidecar that a webhook injected says nothing about the worker.
pub(crate) fn container(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == CONTAINER)
}

/// The disruption the cluster tells of, by the pod's reason or the condition `DisruptionTarget`.
fn disruption(status: &PodStatus) -> Option<Failure> {
    let by_reason = match status.reason.as_deref() {
        // Out-of-resources: the kubelet refused a pod the scheduler had given it; see
        // pkg/kubelet/lifecycle/predicate.go. Another attempt may fare better.
        Some("Evicted" | "OutOfcpu" | "OutOfmemory" | "OutOfpods" | "OutOfephemeral-storage")
        | Some("UnexpectedAdmissionError" | "NodeAffinity") => Some(FailureCause::Evicted),
        Some("Preempting" | "Preempted") => Some(FailureCause::Preempted),
        Some("NodeLost" | "NodeShutdown" | "Shutdown" | "Terminated") => {
            Some(FailureCause::NodeLost)
        }
        Some("DeadlineExceeded") => Some(FailureCause::Deadline),
        _ => None,
    };
    if let Some(cause) = by_reason {
        return Some(Failure { cause, message: pod_words(status, "no message") });
    }
    let condition = find_condition(status, "DisruptionTarget").filter(|c| c.status == "True")?;
    let cause = match condition.reason.as_deref() {
        Some("PreemptionByScheduler") => FailureCause::Preempted,
        Some("DeletionByTaintManager" | "DeletionByPodGC") => FailureCause::NodeLost,
        _ => FailureCause::Evicted,
    };
    Some(Failure { cause, message: condition_words(condition) })
}

/// Why a pod in phase `Failed` failed.
fn end_of(status: &PodStatus, ended: Option<&ContainerStateTerminated>) -> Failure {
    match ended {
        Some(end) => failure_of(end),
        None => Failure {
            cause: FailureCause::Unknown,
            message: pod_words(status, "the pod failed without a word"),
        },
    }
}

fn failure_of(end: &ContainerStateTerminated) -> Failure {
    let cause = match end.reason.as_deref() {
        Some("OOMKilled") => FailureCause::OutOfMemory,
        Some("ContainerCannotRun" | "StartError") => FailureCause::ContainerConfig,
        Some("ContainerStatusUnknown") => FailureCause::NodeLost,
        _ => FailureCause::AgentExited,
    };
    let reason = end.reason.as_deref().unwrap_or("ended");
    let words = end.message.as_deref().map(str::trim).filter(|text| !text.is_empty());
    let message = match words {
        Some(words) => format!("{reason} with exit code {}: {words}", end.exit_code),
        None => format!("{reason} with exit code {}", end.exit_code),
    };
    Failure { cause, message }
}

/// The container ended, but the pod's phase does not say so yet, or the kubelet will restart it.
fn after_end(pod: &Pod, end: &ContainerStateTerminated) -> WorkerPhase {
    let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    match (end.exit_code, policy) {
        (0, _) => WorkerPhase::Succeeded,
        (_, Some("OnFailure" | "Always")) => WorkerPhase::Starting,
        _ => WorkerPhase::Failed(failure_of(end)),
    }
}

fn read_waiting(
    seen: &ContainerStatus,
    waiting: &ContainerStateWaiting,
    created_at: Option<Timestamp>,
    patience: SignedDuration,
    stuck: Overdue,
) -> (WorkerPhase, Overdue) {
    let reason = waiting.reason.as_deref().unwrap_or_default();
    let words = waiting.message.as_deref().unwrap_or_default();
    let message = words_of(reason, words);
    let cause = match reason {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "ErrImageNeverPull"
        | "ImageInspectError"
        | "RegistryUnavailable"
        | "SignatureValidationFailed" => FailureCause::ImagePull,
        "InvalidImageName" => FailureCause::InvalidImage,
        "CreateContainerConfigError"
        | "CreateContainerError"
        | "RunContainerError"
        | "PreCreateHookError"
        | "PreStartHookError"
        | "PostStartHookError" => FailureCause::ContainerConfig,
        "CrashLoopBackOff" => return (crash_loop(seen, &message), None),
        _ if has_run(seen) => return (WorkerPhase::Starting, None),
        _ => return (WorkerPhase::Starting, stuck),
    };
    let heals = cause == FailureCause::ContainerConfig
        && ["not found", "deadline exceeded", "is reserved for", "failed to sync"]
            .iter()
            .any(|sign| words.contains(sign));
    let failure = Failure { cause, message };
    match created_at.and_then(|start| start.checked_add(patience).ok()) {
        Some(due) if heals => (WorkerPhase::Starting, Some((due, failure))),
        _ => (WorkerPhase::Failed(failure), None),
    }
}

fn crash_loop(seen: &ContainerStatus, message: &str) -> WorkerPhase {
    match seen.last_state.as_ref().and_then(|state| state.terminated.as_ref()) {
        Some(end) => {
            let last = failure_of(end);
            let cause = match last.cause {
                FailureCause::OutOfMemory => FailureCause::OutOfMemory,
                _ => FailureCause::CrashLoop,
            };
            failed(cause, format!("{message}; last: {}", last.message))
        }
        None => failed(FailureCause::CrashLoop, message.to_owned()),
    }
}

fn read_unstarted(
    pod: &Pod,
    status: &PodStatus,
    patience: SignedDuration,
) -> (WorkerPhase, Overdue) {
    if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) {
        return (WorkerPhase::Starting, stuck(pod, status, patience));
    }
    let unschedulable = find_condition(status, "PodScheduled").filter(|condition| {
        condition.status == "False" && condition.reason.as_deref() == Some("Unschedulable")
    });
    let overdue = unschedulable.and_then(|condition| {
        let since = condition.last_transition_time.as_ref()?.0;
        let due = since.checked_add(patience).ok()?;
        let message = condition_words(condition);
        Some((due, Failure { cause: FailureCause::Unschedulable, message }))
    });
    (WorkerPhase::Pending, overdue)
}

/// On a node, and its container not started in time. The wait begins when it has its node.
fn stuck(pod: &Pod, status: &PodStatus, patience: SignedDuration) -> Overdue {
    let bound = find_condition(status, "PodScheduled").filter(|bound| bound.status == "True");
    let bound = bound.and_then(|bound| bound.last_transition_time.as_ref());
    let since = bound.or(pod.metadata.creation_timestamp.as_ref())?.0;
    let waiting = container(pod).and_then(|seen| seen.state.as_ref()?.waiting.as_ref());
    let words = waiting.map(|waiting| {
        words_of(
            waiting.reason.as_deref().unwrap_or_default(),
            waiting.message.as_deref().unwrap_or_default(),
        )
    });
    let state = words.filter(|words| !words.is_empty());
    let message = format!(
        "on its node for {} s, and the container has not started ({})",
        patience.as_secs(),
        state.as_deref().unwrap_or("the kubelet says nothing")
    );
    let failure = Failure { cause: FailureCause::StartupTimeout, message };
    Some((since.checked_add(patience).ok()?, failure))
}

pub(crate) fn find_condition<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a PodCondition> {
    status.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

fn failed(cause: FailureCause, message: String) -> WorkerPhase {
    WorkerPhase::Failed(Failure { cause, message })
}

fn pod_words(status: &PodStatus, otherwise: &str) -> String {
    let reason = status.reason.as_deref().unwrap_or_default();
    words_of(reason, status.message.as_deref().unwrap_or(otherwise))
}

fn condition_words(condition: &PodCondition) -> String {
    let reason = condition.reason.as_deref().unwrap_or_default();
    words_of(reason, condition.message.as_deref().unwrap_or_default())
}

fn words_of(reason: &str, message: &str) -> String {
    match (reason.is_empty(), message.is_empty()) {
        (_, true) => reason.to_owned(),
        (true, false) => message.to_owned(),
        (false, false) => format!("{reason}: {message}"),
    }
}

#[cfg(test)]
#[path = "phase_tests.rs"]
mod tests;

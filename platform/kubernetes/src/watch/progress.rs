//! How far a pod has come, and how long each stage took, by the moments at which this process
//! learnt of it. The cluster's own times have whole seconds, which is more than most stages take.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::{
    measure::Stage,
    phase::{container, find_condition},
};

/// How far a pod has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Created,
    OnNode,
    Sandboxed,
    Running,
}

impl Step {
    pub(super) fn of(pod: &Pod) -> Self {
        let state = container(pod).and_then(|container| container.state.as_ref());
        let sandboxed = pod
            .status
            .as_ref()
            .and_then(|status| find_condition(status, "PodReadyToStartContainers"))
            .is_some_and(|condition| condition.status == "True");
        let on_node = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        match state {
            Some(state) if state.running.is_some() => Self::Running,
            _ if sandboxed => Self::Sandboxed,
            _ if on_node => Self::OnNode,
            _ => Self::Created,
        }
    }

    /// The stage that ends with this step. Of several steps that were seen at once, the last one's
    /// stage has all the time.
    fn stage(self) -> Option<Stage> {
        match self {
            Self::Created => None,
            Self::OnNode => Some(Stage::Schedule),
            Self::Sandboxed => Some(Stage::Sandbox),
            Self::Running => Some(Stage::Pull),
        }
    }
}

/// The way of one pod so far.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    step: Step,
    /// When it was seen to take that step; `None` where it was met later.
    since: Option<Timestamp>,
    created: Option<Timestamp>,
}

/// A time to be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Took {
    Stage(Stage, Duration),
    /// From the creation to the running container.
    Ready(Duration),
}

impl Progress {
    /// A pod was seen for the first time; `at` is `None` where it may have been there for long.
    pub(super) fn begun(step: Step, at: Option<Timestamp>) -> Self {
        Self { step, since: at, created: at.filter(|_| step == Step::Created) }
    }

    /// The pod was seen at a step; `at` is `None` where it may have taken it long ago.
    pub(super) fn reach(&mut self, step: Step, at: Option<Timestamp>) -> Vec<Took> {
        if step <= self.step {
            return Vec::new();
        }
        let took = |from: Option<Timestamp>| Duration::try_from(at?.duration_since(from?)).ok();
        let stage =
            step.stage().zip(took(self.since)).map(|(stage, took)| Took::Stage(stage, took));
        let ready = took(self.created).filter(|_| step == Step::Running).map(Took::Ready);
        (self.step, self.since) = (step, at);
        stage.into_iter().chain(ready).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Option<Timestamp> {
        Some(Timestamp::from_millisecond(millis).unwrap())
    }

    fn stage(stage: Stage, millis: u64) -> Took {
        Took::Stage(stage, Duration::from_millis(millis))
    }

    #[test]
    fn each_step_ends_its_stage_once() {
        let mut way = Progress::begun(Step::Created, at(0));
        assert_eq!(way.reach(Step::OnNode, at(10)), [stage(Stage::Schedule, 10)]);
        assert_eq!(way.reach(Step::OnNode, at(20)), []);
        assert_eq!(way.reach(Step::Sandboxed, at(40)), [stage(Stage::Sandbox, 30)]);
        let ready = Took::Ready(Duration::from_millis(100));
        assert_eq!(way.reach(Step::Running, at(100)), [stage(Stage::Pull, 60), ready]);
        assert_eq!(way.reach(Step::Sandboxed, at(110)), [], "there is no way back");
    }

    #[test]
    fn steps_seen_at_once_are_one_stage() {
        let mut way = Progress::begun(Step::OnNode, at(0));
        assert_eq!(way.reach(Step::Running, at(70)), [stage(Stage::Pull, 70)]);
    }

    #[test]
    fn what_was_not_seen_is_not_measured() {
        let mut way = Progress::begun(Step::Created, None);
        assert_eq!(way.reach(Step::OnNode, at(10)), []);
        assert_eq!(way.reach(Step::Sandboxed, None), [], "met in a list");
        assert_eq!(way.reach(Step::Running, at(50)), []);
        let mut back = Progress::begun(Step::Created, at(50));
        assert_eq!(back.reach(Step::OnNode, at(10)), [], "the clock was set back");
    }
}

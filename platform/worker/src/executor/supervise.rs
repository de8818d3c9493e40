//! From spawn to the last byte: one loop over output, exit, orders to stop and deadlines.

use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus, time::Duration};

use hodei_core::attempt::Outcome;
use jiff::Timestamp;
use nix::{sys::signal::Signal, unistd::Pid};
use tokio::{
    process::Child,
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    Event, Limits, Stop, StopCause, command::Prepared, memory::OomCounter, output::Output,
};
use crate::process::{Family, signal_group};

/// How long a pipe may stay silent once everybody who could write to it was killed.
const SILENCE: Duration = Duration::from_millis(500);
/// Most that two pipes can still hold then: the default of /proc/sys/fs/pipe-max-size, twice.
const MOST_LEFT: usize = 2 << 20;

/// Runs the command to its end. `Started` and all output are sent before it returns. `None` if it was
/// stopped because the worker leaves.
pub(super) async fn run(
    mut prepared: Prepared,
    limits: Limits,
    family: &Family,
    events: &mpsc::Sender<Event>,
    stop: watch::Receiver<Option<Stop>>,
) -> Option<Outcome> {
    let memory = OomCounter::start();
    let (mut child, group) = match family.spawn(&mut prepared.command) {
        Ok(spawned) => spawned,
        Err(error) => {
            let reason = format!("cannot run {:?}: {error}", prepared.program);
            return Some(Outcome::NotRun { reason });
        }
    };
    let output = Output::new(child.stdout.take(), child.stderr.take(), limits.frame_bytes);
    // With no room even for this the agent is at its end, and the stop order follows.
    let _ = events.send(Event::Started(Timestamp::now())).await;
    let mut run =
        Run { child, group, limits, family, output, stop: Some(stop), order: None, deadline: None };
    let end = run.supervise(events).await;
    match end {
        End::Stopped(StopCause::Cancelled) => Some(Outcome::Cancelled),
        End::Stopped(StopCause::WorkerLeaves) => None,
        End::Unknown(reason) => Some(Outcome::NotRun { reason }),
        End::Exited(status) => Some(outcome(status, memory.has_grown())),
    }
}

fn outcome(status: ExitStatus, out_of_memory: bool) -> Outcome {
    match (status.code(), status.signal()) {
        (Some(code), _) => Outcome::Exited { code, out_of_memory },
        (None, Some(signal)) => Outcome::Signalled { signal, out_of_memory },
        (None, None) => Outcome::NotRun { reason: format!("ended in an unknown way: {status}") },
    }
}

#[derive(Debug, Clone)]
enum End {
    Exited(ExitStatus),
    /// It was stopped before it had an end of its own.
    Stopped(StopCause),
    /// The kernel did not tell its end.
    Unknown(String),
}

struct Run<'a> {
    child: Child,
    group: Pid,
    limits: Limits,
    family: &'a Family,
    output: Output,
    /// `None` once its sender is gone.
    stop: Option<watch::Receiver<Option<Stop>>>,
    order: Option<Stop>,
    /// When whatever still runs is killed.
    deadline: Option<Instant>,
}

impl Run<'_> {
    async fn supervise(&mut self, events: &mpsc::Sender<Event>) -> End {
        let mut end = None;
        while end.is_none() || (self.output.is_open() && self.deadline.is_some()) {
            tokio::select! {
                biased;
                status = self.child.wait(), if end.is_none() => {
                    end = Some(self.exited(status));
                }
                order = next_order(&mut self.stop) => self.obey(order),
                () = at(self.deadline) => {
                    self.deadline = None;
                    self.family.kill_all(self.group);
                }
                _ = self.output.forward(events, None), if self.output.is_open() => {}
            }
        }
        // The command's end is the job's end: nothing it started goes on.
        self.family.kill_all(self.group);
        self.read_what_is_left(events).await;
        end.unwrap_or_else(|| End::Unknown("the command's end was not told".to_owned()))
    }

    fn exited(&mut self, status: std::io::Result<ExitStatus>) -> End {
        self.family.forget(self.group);
        let linger = Instant::now() + self.limits.linger;
        self.deadline = Some(self.deadline.map_or(linger, |deadline| deadline.min(linger)));
        match (self.order, status) {
            (Some(order), _) => End::Stopped(order.cause),
            (None, Ok(status)) => End::Exited(status),
            (None, Err(error)) => End::Unknown(format!("the command's end is not known: {error}")),
        }
    }

    fn obey(&mut self, order: Stop) {
        let deadline = Instant::now() + order.grace;
        self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        if self.order.is_none() {
            self.order = Some(order);
            if !order.grace.is_zero() {
                signal_group(self.group, Signal::SIGTERM);
                // A stopped process takes no SIGTERM until it goes on.
                signal_group(self.group, Signal::SIGCONT);
            }
        }
    }

    /// Everybody who could write is dead, so what is in the pipes ends, unless somebody got away.
    async fn read_what_is_left(&mut self, events: &mpsc::Sender<Event>) {
        let mut left = MOST_LEFT;
        while self.output.is_open() {
            if left == 0 {
                tracing::warn!(
                    "a process that left the job's group still writes; not read further"
                );
                self.output.close();
            }
            let read = self.output.forward(events, Some(SILENCE)).await;
            left = left.saturating_sub(read);
        }
    }
}

/// The next order; when nobody is left to give one, an order to die at once.
async fn next_order(stop: &mut Option<watch::Receiver<Option<Stop>>>) -> Stop {
    let abandoned = Stop { grace: Duration::ZERO, cause: StopCause::WorkerLeaves };
    loop {
        let Some(receiver) = stop else { return std::future::pending().await };
        if receiver.changed().await.is_err() {
            *stop = None;
            return abandoned;
        }
        if let Some(order) = *receiver.borrow_and_update() {
            return order;
        }
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

//! Writes down what an agent reports and tells it what it has to know: acknowledgements of what is
//! durable, the word that its result was taken, cancellation, shutdown.
//!
//! It is level-triggered: whenever something may have changed it reads the present state and sends what
//! follows from it and was not sent before. A database that fails ends the stream; the agent connects
//! again and repeats what was not acknowledged.

use std::{sync::Arc, time::Duration};

use hodei_core::{
    attempt::{AttemptEnd, Outcome},
    id::{AttemptKey, WorkerId},
    worker::WorkerState,
};
use hodei_proto::v1::{
    CancelAttempt, LogAck, ResultAck, ServerMessage, Shutdown, server_message::Message,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval_at},
};
use tonic::Status;

use super::reader::Op;
use crate::{
    app::App,
    logs::live::LiveLog,
    store::{
        StoreError,
        attempts::Ending,
        audit::{self, AuditKind},
        notify::Topic,
        sessions::SessionView,
    },
};

/// The agent's half of a stream, as the server writes it.
pub(crate) type Outbound = mpsc::Sender<Result<ServerMessage, Status>>;

/// Why a session ends from the server's side.
#[derive(Debug)]
pub(crate) enum SessionEnd {
    /// The agent has left.
    Left,
    /// Another server has the agent now, and stores its output.
    Moved,
    /// The database failed.
    Store(StoreError),
}

impl From<StoreError> for SessionEnd {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// One session's outgoing half.
pub(crate) struct Recorder {
    pub(crate) app: Arc<App>,
    pub(crate) worker: WorkerId,
    pub(crate) own: AttemptKey,
    pub(crate) live: Option<Arc<LiveLog>>,
    pub(crate) ops: mpsc::Receiver<Op>,
    pub(crate) heard: watch::Receiver<u64>,
    pub(crate) outbound: Outbound,
    pub(crate) pending: Option<(Outcome, u64)>,
    pub(crate) told: Told,
}

/// What the agent was told already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Told {
    cancel: bool,
    shutdown: bool,
}

/// What to tell an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Push {
    Cancel,
    Shutdown,
}

/// What follows from the present state and was not told before.
fn pushes(view: Option<SessionView>, told: Told) -> Vec<Push> {
    let mut pushes = Vec::new();
    let stopping = view.is_some_and(|view| view.attempt_open && view.stop.is_some());
    if stopping && !told.cancel {
        pushes.push(Push::Cancel);
    }
    let leaving = view.is_none_or(|view| {
        matches!(view.worker, WorkerState::Terminating | WorkerState::Terminated)
    });
    if leaving && !told.shutdown {
        pushes.push(Push::Shutdown);
    }
    pushes
}

impl Recorder {
    pub(crate) async fn run(&mut self) -> Result<(), SessionEnd> {
        let mut job = self.app.hub.subscribe(Topic::Job(self.own.job));
        let mut worker = self.app.hub.subscribe(Topic::Worker(self.worker));
        let mut durable = self.live.as_ref().map(|live| live.durable());
        let lease = self.app.timing.lease;
        let period = (lease / 6).max(Duration::from_millis(20));
        let mut tick = interval_at(Instant::now() + period, period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard_before = *self.heard.borrow();
        self.push_what_follows().await?;
        loop {
            tokio::select! {
                op = self.ops.recv() => match op {
                    Some(op) => self.record(op).await?,
                    None => return Ok(()),
                },
                sequence = next_durable(&mut durable) => self.acknowledge(sequence).await?,
                _ = job.changed() => self.push_what_follows().await?,
                _ = worker.changed() => self.push_what_follows().await?,
                _ = tick.tick() => {
                    let heard = *self.heard.borrow();
                    if heard != heard_before {
                        self.app.store.renew_lease(self.worker, lease).await?;
                        heard_before = heard;
                    }
                    self.push_what_follows().await?;
                }
            }
        }
    }

    async fn record(&mut self, op: Op) -> Result<(), SessionEnd> {
        match op {
            Op::Started(key) if key == self.own => {
                self.app.store.attempt_started(key, self.worker).await?;
                tracing::info!(job_id = %key.job, epoch = key.epoch.0, worker_id = %self.worker, "running");
            }
            Op::Started(_) => {}
            Op::ForeignLogs(key) => {
                self.refuse(AuditKind::LogsRefused, key, "not its attempt").await?
            }
            Op::Draining => {
                self.app.store.advance_worker(self.worker, WorkerState::Draining).await?;
            }
            Op::Result { key, .. } if key != self.own => {
                self.refuse(AuditKind::ResultRefused, key, "not its attempt").await?;
                self.answer_result(key, false).await?;
            }
            Op::Result { outcome, last_sequence, .. } => {
                if let Some(live) = &self.live {
                    live.flush();
                }
                self.pending = Some((outcome, last_sequence));
                self.settle().await?;
            }
        }
        Ok(())
    }

    /// Takes the result once every frame before it is durable, or once no more frames can be.
    async fn settle(&mut self) -> Result<(), SessionEnd> {
        let durable = match &self.live {
            // This session was opened on an attempt that was not the agent's any more.
            None => {
                if self.pending.take().is_some() {
                    self.refuse(AuditKind::ResultRefused, self.own, "not its attempt").await?;
                    self.answer_result(self.own, false).await?;
                }
                return Ok(());
            }
            Some(live) if live.is_closed() => {
                let view = self.app.store.session_view(self.worker).await?;
                if view.is_some_and(|view| view.attempt_open) {
                    return Err(SessionEnd::Moved);
                }
                u64::MAX
            }
            Some(live) => *live.durable().borrow(),
        };
        let Some((outcome, _)) = self.pending.take_if(|(_, last)| *last <= durable) else {
            return Ok(());
        };
        let code = outcome.exit_code();
        let end = AttemptEnd::Finished(outcome);
        let accepted = match self.app.store.end_attempt(self.own, self.worker, &end).await? {
            Ending::Taken(state) => {
                tracing::info!(job_id = %self.own.job, epoch = self.own.epoch.0,
                    worker_id = %self.worker, exit_code = code, %state, "result taken");
                true
            }
            Ending::Repeated => true,
            Ending::Refused(reason) => {
                self.refuse(AuditKind::ResultRefused, self.own, reason).await?;
                false
            }
        };
        self.answer_result(self.own, accepted).await?;
        self.push_what_follows().await
    }

    async fn refuse(
        &self,
        kind: AuditKind,
        key: AttemptKey,
        reason: &str,
    ) -> Result<(), SessionEnd> {
        let pool = &self.app.store.pool;
        Ok(audit::record(pool, kind, Some(self.worker), Some(key), reason).await?)
    }

    async fn acknowledge(&mut self, sequence: u64) -> Result<(), SessionEnd> {
        if self.live.as_ref().is_some_and(|live| !live.is_closed()) {
            let ack = LogAck { attempt: Some(self.own.into()), sequence };
            self.send(Message::LogAck(ack)).await?;
        }
        self.settle().await
    }

    async fn answer_result(&self, key: AttemptKey, accepted: bool) -> Result<(), SessionEnd> {
        self.send(Message::ResultAck(ResultAck { attempt: Some(key.into()), accepted })).await
    }

    async fn push_what_follows(&mut self) -> Result<(), SessionEnd> {
        let view = self.app.store.session_view(self.worker).await?;
        for push in pushes(view, self.told) {
            let message = match push {
                Push::Cancel => {
                    self.told.cancel = true;
                    let grace = prost_types::Duration::try_from(self.app.timing.cancel_grace).ok();
                    Message::Cancel(CancelAttempt { attempt: Some(self.own.into()), grace })
                }
                Push::Shutdown => {
                    self.told.shutdown = true;
                    Message::Shutdown(Shutdown { reason: "no further work".to_owned() })
                }
            };
            self.send(message).await?;
        }
        Ok(())
    }

    async fn send(&self, message: Message) -> Result<(), SessionEnd> {
        let message = ServerMessage { message: Some(message) };
        self.outbound.send(Ok(message)).await.map_err(|_| SessionEnd::Left)
    }
}

async fn next_durable(durable: &mut Option<watch::Receiver<u64>>) -> u64 {
    if let Some(receiver) = durable
        && receiver.changed().await.is_ok()
    {
        return *receiver.borrow_and_update();
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Stop;

    #[test]
    fn what_an_agent_is_told_follows_from_the_state() {
        let view = |worker, attempt_open, stop| Some(SessionView { worker, attempt_open, stop });
        let untold = Told::default();
        let told = Told { cancel: true, shutdown: true };
        let stop = Some(Stop::Cancelled);
        for (state, said, expect) in [
            (view(WorkerState::Busy, true, None), untold, vec![]),
            (view(WorkerState::Busy, true, stop), untold, vec![Push::Cancel]),
            (view(WorkerState::Busy, true, stop), told, vec![]),
            (view(WorkerState::Terminating, false, stop), untold, vec![Push::Shutdown]),
            (view(WorkerState::Terminating, false, None), told, vec![]),
            (None, untold, vec![Push::Shutdown]),
        ] {
            assert_eq!(pushes(state, said), expect, "{state:?} {said:?}");
        }
    }
}

//! Writes down what an agent reports and tells it what it has to know: acknowledgements of what is
//! durable, the word that its result was taken, cancellation, shutdown.
//!
//! It is level-triggered: whenever something may have changed it reads the present state and sends what
//! follows from it and was not sent before. A database that fails ends the stream; the agent connects
//! again and repeats what was not acknowledged.

use std::{sync::Arc, time::Duration};

use hodei_core::{
    attempt::{AttemptEnd, AttemptState, Outcome},
    id::{AttemptKey, WorkerId},
    session::ruling::{LogStanding, Settlement, settle},
    worker::WorkerState,
};
use hodei_proto::v1::{
    Assignment, CancelAttempt, LogAck, ResultAck, ServerMessage, Shutdown, server_message::Message,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval_at},
};
use tonic::Status;
use uuid::Uuid;

use super::{
    heard::Heard,
    reader::{Current, Op},
};
use crate::{
    app::App,
    logs::live::LiveLog,
    store::{
        StoreError,
        attempts::Ending,
        audit::{self, AuditKind},
        notify::Topic,
        sessions::{Next, SessionView},
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
    /// The worker takes one job after another.
    pub(crate) pooled: bool,
    /// Which of the worker's streams this is.
    pub(crate) session: Uuid,
    /// The worker's latest attempt, as far as its agent was told; `None` before the first.
    pub(crate) own: Option<Current>,
    /// The agent holds it, until its result was answered.
    pub(crate) holds: bool,
    /// Whose output the reader takes.
    pub(crate) current: watch::Sender<Option<Current>>,
    pub(crate) ops: mpsc::Receiver<Op>,
    pub(crate) heard: watch::Receiver<Heard>,
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
    Cancel(AttemptKey),
    /// The worker was bound to this attempt.
    Next(AttemptKey),
    /// Another stream has given the agent an attempt that this one knows nothing of.
    Moved,
    Shutdown,
}

/// What follows from the present state and was not told before. `own` is the attempt the agent knows of,
/// `holds` whether it waits for the word that its result was taken: it takes no other one before.
fn pushes(
    view: Option<SessionView>,
    own: Option<AttemptKey>,
    holds: bool,
    told: Told,
) -> Vec<Push> {
    let mut pushes = Vec::new();
    let open = view.and_then(|view| view.attempt).filter(|(_, state)| !state.is_final());
    match open {
        Some((key, _)) if Some(key) == own => {
            if view.is_some_and(|view| view.stop.is_some()) && !told.cancel {
                pushes.push(Push::Cancel(key));
            }
        }
        Some((key, AttemptState::Provisioning)) if !holds => pushes.push(Push::Next(key)),
        Some((_, AttemptState::Provisioning)) | None => {}
        Some(_) => pushes.push(Push::Moved),
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
        let mut worker = self.app.hub.subscribe(Topic::Worker(self.worker));
        let lease = self.app.timing.lease;
        let period = (lease / 6).max(Duration::from_millis(20));
        let mut tick = interval_at(Instant::now() + period, period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard_before = Heard::default();
        loop {
            let own = self.key();
            let mut job = own.map(|own| self.app.hub.subscribe(Topic::Job(own.job)));
            let mut durable = self.live().map(|live| live.durable());
            self.push_what_follows().await?;
            while self.key() == own {
                tokio::select! {
                    op = self.ops.recv() => match op {
                        Some(op) => self.record(op).await?,
                        None => return Ok(()),
                    },
                    sequence = next_durable(&mut durable) => self.acknowledge(sequence).await?,
                    () = changed(&mut job) => self.push_what_follows().await?,
                    _ = worker.changed() => self.push_what_follows().await?,
                    _ = tick.tick() => {
                        let heard = *self.heard.borrow();
                        if heard.messages != heard_before.messages {
                            self.renew(heard, heard_before).await?;
                            heard_before = heard;
                        }
                        self.push_what_follows().await?;
                    }
                }
            }
        }
    }

    async fn renew(&self, heard: Heard, before: Heard) -> Result<(), StoreError> {
        if let (Some(offset), None) = (heard.noticeable(), before.noticeable()) {
            tracing::warn!(worker_id = %self.worker, ahead_seconds = offset.as_secs_f64(),
                "the worker's clock is not this server's: its output bears its own times");
        }
        self.app.store.renew_lease(self.worker, self.app.timing.lease, heard.clock_offset).await
    }

    fn key(&self) -> Option<AttemptKey> {
        self.own.as_ref().map(|own| own.key)
    }

    fn live(&self) -> Option<&Arc<LiveLog>> {
        self.own.as_ref().and_then(|own| own.live.as_ref())
    }

    async fn record(&mut self, op: Op) -> Result<(), SessionEnd> {
        match op {
            Op::Started(key) if Some(key) == self.key() => {
                self.app.store.attempt_started(key, self.worker).await?;
                tracing::info!(job_id = %key.job, epoch = key.epoch.0, worker_id = %self.worker, "running");
            }
            Op::Started(_) => {}
            Op::ForeignLogs(key) => {
                self.refuse(AuditKind::LogsRefused, key, "not its attempt").await?
            }
            // One that was not told of its next job yet gives that back.
            Op::Draining if self.pooled => {
                self.app.store.drain_worker(self.worker).await?;
            }
            Op::Draining => {
                self.app.store.advance_worker(self.worker, WorkerState::Draining).await?;
            }
            Op::Result { key, .. } if Some(key) != self.key() => {
                self.refuse(AuditKind::ResultRefused, key, "not its attempt").await?;
                self.answer_result(key, false).await?;
            }
            Op::Result { outcome, last_sequence, .. } => {
                if let Some(live) = self.live() {
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
        let Some(own) = self.key() else { return Ok(()) };
        let standing = self.log_standing(own).await?;
        let Some(&(_, last)) = self.pending.as_ref() else {
            let moved = standing == LogStanding::Closed { attempt_open: true };
            return if moved { Err(SessionEnd::Moved) } else { Ok(()) };
        };
        match settle(last, standing) {
            Settlement::Wait => return Ok(()),
            Settlement::Give => {}
            Settlement::Moved => return Err(SessionEnd::Moved),
            Settlement::Refuse => {
                self.pending = None;
                self.refuse(AuditKind::ResultRefused, own, "not its attempt").await?;
                return self.answer_result(own, false).await;
            }
        }
        let Some((outcome, _)) = self.pending.take() else { return Ok(()) };
        let code = outcome.exit_code();
        let end = AttemptEnd::Finished(outcome);
        let accepted = match self.app.store.end_attempt(own, self.worker, &end).await? {
            Ending::Taken(state) => {
                tracing::info!(job_id = %own.job, epoch = own.epoch.0,
                    worker_id = %self.worker, exit_code = code, %state, "result taken");
                true
            }
            Ending::Repeated => true,
            Ending::Refused(reason) => {
                self.refuse(AuditKind::ResultRefused, own, reason).await?;
                false
            }
        };
        self.answer_result(own, accepted).await?;
        self.push_what_follows().await
    }

    async fn log_standing(&self, own: AttemptKey) -> Result<LogStanding, StoreError> {
        Ok(match self.live() {
            None => LogStanding::None,
            Some(live) if live.is_closed() => {
                let view = self.app.store.session_view(self.worker).await?;
                let latest = view.and_then(|view| view.attempt);
                let open = latest.is_some_and(|(key, state)| key == own && !state.is_final());
                LogStanding::Closed { attempt_open: open }
            }
            Some(live) => LogStanding::Open { durable: *live.durable().borrow() },
        })
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
        if let Some(live) = self.live().filter(|live| !live.is_closed()) {
            let ack = LogAck { attempt: Some(live.key.into()), sequence };
            self.send(Message::LogAck(ack)).await?;
        }
        self.settle().await
    }

    async fn answer_result(&mut self, key: AttemptKey, accepted: bool) -> Result<(), SessionEnd> {
        if Some(key) == self.key() {
            self.holds = false;
            if self.pooled {
                self.current.send_replace(None);
            }
        }
        self.send(Message::ResultAck(ResultAck { attempt: Some(key.into()), accepted })).await
    }

    async fn push_what_follows(&mut self) -> Result<(), SessionEnd> {
        let view = self.app.store.session_view(self.worker).await?;
        for push in pushes(view, self.key(), self.holds, self.told) {
            let message = match push {
                Push::Cancel(key) => {
                    self.told.cancel = true;
                    let grace = prost_types::Duration::try_from(self.app.timing.cancel_grace).ok();
                    Message::Cancel(CancelAttempt { attempt: Some(key.into()), grace })
                }
                Push::Shutdown => {
                    self.told.shutdown = true;
                    Message::Shutdown(Shutdown { reason: "no further work".to_owned() })
                }
                Push::Next(key) => match self.begin(key).await? {
                    Some(message) => message,
                    None => continue,
                },
                Push::Moved => return Err(SessionEnd::Moved),
            };
            self.send(message).await?;
        }
        Ok(())
    }

    /// The session goes on with the worker's next attempt: from here on only that one's words are taken.
    async fn begin(&mut self, key: AttemptKey) -> Result<Option<Message>, SessionEnd> {
        let work = match self.app.store.take_next(self.worker, self.session, key).await? {
            Next::Given(work) => work,
            Next::Over => return Ok(None),
            Next::Stale => return Err(SessionEnd::Moved),
        };
        tracing::info!(worker_id = %self.worker, job_id = %key.job, epoch = key.epoch.0,
            correlation_id = work.correlation_id, "the next job of a pooled worker");
        let live = self.app.logs.open(key, self.worker, 0, &self.app.tasks);
        let current = Current { key, live: Some(live) };
        self.current.send_replace(Some(current.clone()));
        (self.own, self.holds, self.pending) = (Some(current), true, None);
        self.told.cancel = false;
        let (attempt, spec) = (Some(key.into()), Some((&work.spec).into()));
        Ok(Some(Message::Assignment(Assignment { attempt, spec })))
    }

    async fn send(&self, message: Message) -> Result<(), SessionEnd> {
        let message = ServerMessage { message: Some(message) };
        self.outbound.send(Ok(message)).await.map_err(|_| SessionEnd::Left)
    }
}

async fn changed(topic: &mut Option<watch::Receiver<()>>) {
    if let Some(receiver) = topic
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
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
    use hodei_core::id::{Epoch, JobId};

    use super::*;
    use crate::policy::Stop;

    #[test]
    fn what_an_agent_is_told_follows_from_the_state() {
        use AttemptState as A;
        use WorkerState as W;
        let own = AttemptKey { job: JobId::new(), epoch: Epoch::FIRST };
        let next = AttemptKey { job: JobId::new(), epoch: Epoch::FIRST };
        let untold = Told::default();
        let told = Told { cancel: true, shutdown: true };
        let stop = Some(Stop::Cancelled);
        let view = |worker, key, state, stop| {
            Some(SessionView { worker, attempt: Some((key, state)), stop })
        };
        let check = |view: Option<SessionView>, holds, told, expect: &[Push]| {
            assert_eq!(pushes(view, Some(own), holds, told), expect, "{view:?} {holds} {told:?}");
        };
        check(view(W::Busy, own, A::Running, None), true, untold, &[]);
        check(view(W::Busy, own, A::Running, stop), true, untold, &[Push::Cancel(own)]);
        check(view(W::Busy, own, A::Running, stop), true, told, &[]);
        check(view(W::Terminating, own, A::Finished, stop), false, untold, &[Push::Shutdown]);
        check(view(W::Terminating, own, A::Finished, None), false, told, &[]);
        check(None, false, untold, &[Push::Shutdown]);
        check(view(W::Ready, own, A::Finished, None), false, untold, &[]);
        check(view(W::Busy, next, A::Provisioning, None), false, untold, &[Push::Next(next)]);
        // The agent would not take it before it knows that its result was.
        check(view(W::Busy, next, A::Provisioning, None), true, untold, &[]);
        check(view(W::Busy, next, A::Running, None), false, untold, &[Push::Moved]);
    }
}

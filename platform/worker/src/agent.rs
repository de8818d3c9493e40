//! The agent's life on its session: one loop over the link, the command, the clock and SIGTERM.

use std::{collections::VecDeque, time::Duration};

use hodei_core::{PROTOCOL_VERSION, id::AttemptKey, secret::Secret, spec::JobSpec};
use hodei_proto::{
    timestamp,
    v1::{
        Assignment, CancelAttempt, Draining, Heartbeat, Hello, Welcome, agent_message,
        server_message,
    },
};
use jiff::Timestamp;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::{
    config::Config,
    error::AgentError,
    executor::{Execution, Stop, StopCause},
    held::Held,
    link::{Broken, Link, LinkEvent, endpoint},
    process::Family,
    register::{Session, register},
};

/// From a job's end by SIGTERM to giving up on the acknowledgement of its result.
const REPORT_GRACE: Duration = Duration::from_secs(5);

/// Registers and works until the server has no further work. `terminate` is SIGTERM.
///
/// # Errors
/// See [`AgentError`]; whatever ran is dead by then.
pub async fn run(
    config: Config,
    otp: Secret,
    family: Family,
    terminate: CancellationToken,
) -> Result<(), AgentError> {
    let endpoint = endpoint(&config)?;
    let session = tokio::select! {
        session = register(&config, &endpoint, &otp) => session?,
        () = terminate.cancelled() => return Ok(()),
    };
    drop(otp);
    tracing::info!(worker = %config.worker, lease = ?session.lease, "registered");
    let mut agent = Agent::new(config, session, family, endpoint);
    let end = agent.live(&terminate).await;
    if let Some(held) = agent.held.take() {
        held.kill().await;
    }
    agent.link.close().await;
    end
}

struct Agent {
    config: Config,
    session: Session,
    family: Family,
    link: Link,
    held: Option<Held>,
    control: VecDeque<agent_message::Message>,
    /// Since when there is no link; `None` while there is one.
    down_since: Option<Instant>,
    /// Since when there is nothing to do.
    idle_since: Instant,
    /// When to leave at the latest, once told to.
    leave_at: Option<Instant>,
    finished: u64,
    last_failure: String,
}

impl Agent {
    fn new(config: Config, session: Session, family: Family, endpoint: Endpoint) -> Self {
        let now = Instant::now();
        Self {
            config,
            session,
            family,
            link: Link::new(endpoint),
            held: None,
            control: VecDeque::new(),
            down_since: Some(now),
            idle_since: now,
            leave_at: None,
            finished: 0,
            last_failure: "none".to_owned(),
        }
    }

    async fn live(&mut self, terminate: &CancellationToken) -> Result<(), AgentError> {
        let mut heartbeat = self.heartbeat();
        loop {
            if self.leave_at.is_some() && self.held.is_none() && !self.has_message() {
                return Ok(());
            }
            if let Some(held) = self.held.as_ref().filter(|held| held.is_given_up()) {
                return Err(AgentError::Unreported { attempt: held.key().to_string() });
            }
            let (worker, token, pod_uid) =
                (self.config.worker, &self.session.token, &self.config.pod_uid);
            let attempt = self.held.as_ref().map(|held| held.key().into());
            self.link.ensure_opening(|| Hello {
                worker_id: worker.to_string(),
                session_token: token.expose().to_owned(),
                pod_uid: pod_uid.clone(),
                protocol_version: PROTOCOL_VERSION,
                attempt,
            });
            let (has_message, deadline) = (self.has_message(), self.deadline());
            tokio::select! {
                event = self.link.next(has_message) => {
                    if self.on_link(event).await? {
                        return Ok(());
                    }
                }
                event = next_event(&mut self.held) => {
                    if let Some(held) = &mut self.held {
                        held.on_event(event);
                    }
                }
                _ = heartbeat.tick() => self.beat(),
                () = terminate.cancelled(), if self.leave_at.is_none() => self.leave(),
                () = sleep_until(deadline) => {}
            }
            if self.deadline() <= Instant::now() {
                return self.give_up();
            }
        }
    }

    fn heartbeat(&self) -> Interval {
        let period = self.session.heartbeat;
        let mut heartbeat = interval_at(Instant::now() + period, period);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat
    }

    fn beat(&mut self) {
        let waits = |m: &agent_message::Message| matches!(m, agent_message::Message::Heartbeat(_));
        if self.link.is_up() && !self.control.iter().any(waits) {
            let time = Some(timestamp(Timestamp::now()));
            self.control.push_back(agent_message::Message::Heartbeat(Heartbeat { time }));
        }
    }

    fn has_message(&self) -> bool {
        !self.control.is_empty() || self.held.as_ref().is_some_and(Held::has_message)
    }

    /// When this can't go on as it is. Far away if nothing presses.
    fn deadline(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(24 * 3600);
        let give_up = self.config.give_up.max(self.session.lease);
        let link = self.down_since.map_or(far, |since| since + give_up);
        let waits = self.held.is_none() && !self.config.idle_timeout.is_zero();
        let idle = if waits { self.idle_since + self.config.idle_timeout } else { far };
        self.leave_at.unwrap_or(far).min(link).min(idle)
    }

    fn give_up(&mut self) -> Result<(), AgentError> {
        let told = self.leave_at.is_some();
        if let Some(held) = self.held.as_ref().filter(|_| told) {
            return Err(AgentError::Unreported { attempt: held.key().to_string() });
        }
        match self.down_since {
            Some(since) if self.held.is_some() || (!told && self.finished == 0) => {
                Err(AgentError::LinkLost {
                    seconds: since.elapsed().as_secs(),
                    last: self.last_failure.clone(),
                })
            }
            _ => {
                tracing::info!("nothing to do, and no word from the server: leaving");
                Ok(())
            }
        }
    }

    fn leave(&mut self) {
        tracing::warn!("told to stop (SIGTERM)");
        let grace = self.config.drain_grace;
        self.leave_at = Some(Instant::now() + grace + REPORT_GRACE);
        let reason = "SIGTERM".to_owned();
        self.control.push_back(agent_message::Message::Draining(Draining { reason }));
        if let Some(held) = &self.held {
            held.stop(Stop { grace, cause: StopCause::WorkerLeaves });
        } else {
            self.leave_at = Some(Instant::now() + Duration::from_secs(1));
        }
    }

    /// Whether the work is done.
    async fn on_link(&mut self, event: LinkEvent) -> Result<bool, AgentError> {
        match event {
            LinkEvent::Welcomed(welcome) => self.on_welcome(&welcome).await,
            LinkEvent::CanSend => {
                let next = self.control.pop_front();
                let next = next.or_else(|| self.held.as_mut().and_then(Held::next_message));
                // A message that could not be sent counts as lost with its link.
                if let Some(message) = next {
                    self.link.send(message);
                }
            }
            LinkEvent::Message(message) => return self.on_message(*message).await,
            LinkEvent::Broken(broken) => return self.on_broken(broken),
        }
        Ok(false)
    }

    fn on_broken(&mut self, broken: Broken) -> Result<bool, AgentError> {
        let done = self.held.is_none() && self.finished > 0;
        match broken {
            // The server forgets a worker whose work is done.
            Broken::Refused(_) | Broken::Version(_) if done => Ok(true),
            Broken::Refused(message) => Err(AgentError::SessionRefused { message }),
            Broken::Version(message) => Err(AgentError::VersionRefused { message }),
            Broken::Lost(text) => {
                if self.down_since.is_none() {
                    tracing::warn!(error = %text, "the link is lost");
                    self.down_since = Some(Instant::now());
                } else {
                    tracing::debug!(error = %text, "no link yet");
                }
                self.control.retain(|m| matches!(m, agent_message::Message::Draining(_)));
                self.last_failure = text;
                Ok(false)
            }
        }
    }

    async fn on_welcome(&mut self, welcome: &Welcome) {
        tracing::info!(acknowledged = welcome.acked_sequence, "the session's link is open");
        self.down_since = None;
        if welcome.attempt_revoked {
            if let Some(held) = self.held.take() {
                tracing::warn!(attempt = %held.key(), "the attempt is no longer ours: killed");
                held.kill().await;
                self.idle_since = Instant::now();
            }
        } else if let Some(held) = &mut self.held {
            held.resume_after(welcome.acked_sequence);
        }
    }

    async fn on_message(&mut self, message: server_message::Message) -> Result<bool, AgentError> {
        use server_message::Message;
        match message {
            Message::Assignment(assignment) => self.on_assignment(assignment),
            Message::LogAck(ack) => {
                if let Some(held) = self.holds(ack.attempt.as_ref()) {
                    held.acknowledge(ack.sequence);
                }
            }
            Message::ResultAck(ack) => {
                if self.holds(ack.attempt.as_ref()).is_some()
                    && let Some(held) = self.held.take()
                {
                    tracing::info!(attempt = %held.key(), accepted = ack.accepted, "the result was taken");
                    held.kill().await;
                    self.finished += 1;
                    self.idle_since = Instant::now();
                }
            }
            Message::Cancel(cancel) => self.on_cancel(&cancel),
            Message::Shutdown(shutdown) => {
                if let Some(held) = &self.held {
                    tracing::warn!(attempt = %held.key(), "told to shut down while holding an attempt");
                }
                tracing::info!(reason = %shutdown.reason, "no further work");
                return Ok(true);
            }
            Message::Welcome(_) => tracing::warn!("a second Welcome on one stream is ignored"),
        }
        Ok(false)
    }

    fn holds(&mut self, attempt: Option<&hodei_proto::v1::AttemptRef>) -> Option<&mut Held> {
        let key = AttemptKey::try_from(attempt?).ok()?;
        self.held.as_mut().filter(|held| held.key() == key)
    }

    fn on_assignment(&mut self, assignment: Assignment) {
        let key = match assignment.attempt.as_ref().map(AttemptKey::try_from) {
            Some(Ok(key)) => key,
            Some(Err(error)) => return tracing::error!(%error, "an assignment cannot be read"),
            None => return tracing::error!("an assignment names no attempt"),
        };
        if let Some(held) = &self.held {
            // The same one again means that the server did not see it taken.
            if held.key() != key {
                tracing::error!(attempt = %key, held = %held.key(), "an attempt is held already");
            }
            return;
        }
        if self.leave_at.is_some() {
            return tracing::warn!(attempt = %key, "not taken: this worker is leaving");
        }
        match JobSpec::try_from(assignment.spec.unwrap_or_default()) {
            Ok(spec) => {
                tracing::info!(attempt = %key, "assigned");
                let mut environment = self.config.environment.clone();
                environment.limits.frame_bytes = self.session.frame_bytes;
                let execution = Execution::start(spec, key, environment, self.family.clone());
                let (bound, frame) = (self.config.spool_bytes, self.session.frame_bytes);
                self.held = Some(Held::new(key, execution, bound, frame));
            }
            Err(error) => {
                tracing::error!(attempt = %key, %error, "the specification cannot be run");
                self.held = Some(Held::refused(key, error.to_string()));
            }
        }
    }

    fn on_cancel(&mut self, cancel: &CancelAttempt) {
        let grace =
            cancel.grace.and_then(|grace| Duration::try_from(grace).ok()).unwrap_or_default();
        if let Some(held) = self.holds(cancel.attempt.as_ref()) {
            tracing::info!(attempt = %held.key(), ?grace, "cancelled");
            held.stop(Stop { grace, cause: StopCause::Cancelled });
        }
    }
}

async fn next_event(held: &mut Option<Held>) -> crate::executor::Event {
    match held {
        Some(held) => held.next_event().await,
        None => std::future::pending().await,
    }
}

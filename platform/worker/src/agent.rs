//! The agent's life on its session: one loop over the link, the command, the clock and SIGTERM. What
//! each of them means is decided by the session's machine in `hodei-core`.

use std::time::Duration;

use hodei_core::{
    PROTOCOL_VERSION,
    attempt::Outcome,
    id::AttemptKey,
    secret::Secret,
    session::{AgentBounds, AgentSession, Departure, Loss, Order, ToAgent},
    spec::JobSpec,
};
use hodei_proto::v1::{self, Hello, Welcome, server_message};
use jiff::Timestamp;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    error::AgentError,
    executor::{Event, Execution, Stop, StopCause},
    held::Held,
    link::{Broken, Link, LinkEvent, endpoint},
    process::Family,
    register::{Session, register},
    spool::DiskSpool,
    wire,
};

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
    let (session, channel) = tokio::select! {
        registered = register(&config, &endpoint, &otp) => registered?,
        () = terminate.cancelled() => return Ok(()),
    };
    drop(otp);
    tracing::info!(worker = %config.worker, lease = ?session.lease, "registered");
    let mut agent = Agent::new(config, session, family, Link::new(endpoint, channel));
    let end = agent.live(&terminate).await;
    agent.kill().await;
    agent.link.close().await;
    end
}

struct Agent {
    config: Config,
    registered: Session,
    family: Family,
    link: Link,
    session: AgentSession<DiskSpool>,
    /// What was dropped, as far as it was told.
    dropped: Option<Loss>,
    /// The command of the attempt that the session holds.
    held: Option<Held>,
    /// The session's clock begins here.
    began: Instant,
    last_failure: String,
}

impl Agent {
    fn new(config: Config, registered: Session, family: Family, link: Link) -> Self {
        let idle = Some(config.idle_timeout).filter(|idle| !idle.is_zero());
        let bounds = AgentBounds {
            window_bytes: config.window_bytes,
            frame_bytes: registered.frame_bytes,
            stall: config.stall,
            give_up: config.give_up.max(registered.lease),
            idle,
            drain_grace: config.drain_grace,
        };
        let spool = DiskSpool::new(config.environment.scratch.clone(), config.spool_bytes);
        Self {
            config,
            registered,
            family,
            link,
            session: AgentSession::new(bounds, spool, Duration::ZERO),
            dropped: None,
            held: None,
            began: Instant::now(),
            last_failure: "none".to_owned(),
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    async fn live(&mut self, terminate: &CancellationToken) -> Result<(), AgentError> {
        let mut heartbeat = self.heartbeat();
        loop {
            if let Some(departure) = self.session.departure(self.now()) {
                return self.depart(departure);
            }
            let (worker, token, pod_uid) =
                (self.config.worker, &self.registered.token, &self.config.pod_uid);
            let attempt = self.session.held().map(v1::AttemptRef::from);
            self.link.ensure_opening(|| Hello {
                worker_id: worker.to_string(),
                session_token: token.expose().to_owned(),
                pod_uid: pod_uid.clone(),
                protocol_version: PROTOCOL_VERSION,
                attempt,
            });
            self.tell_dropped();
            let now = self.now();
            let (has_message, has_room) = (self.session.has_message(), self.session.has_room(now));
            let deadline = self.session.deadline(now).map(|deadline| self.began + deadline);
            tokio::select! {
                event = self.link.next(has_message) => {
                    if self.on_link(event).await? {
                        return Ok(());
                    }
                }
                event = next_event(&mut self.held, has_room) => self.on_event(event),
                _ = heartbeat.tick() => self.session.beat(),
                () = terminate.cancelled(), if !self.session.is_leaving() => self.leave(),
                () = passed(deadline) => {}
            }
        }
    }

    fn heartbeat(&self) -> Interval {
        let period = self.registered.heartbeat;
        let mut heartbeat = interval_at(Instant::now() + period, period);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat
    }

    fn depart(&self, departure: Departure) -> Result<(), AgentError> {
        match departure {
            Departure::Drained => Ok(()),
            Departure::Idle => {
                tracing::info!("nothing to do, and no word from the server: leaving");
                Ok(())
            }
            Departure::Unreported(attempt) => {
                Err(AgentError::Unreported { attempt: attempt.to_string() })
            }
            Departure::LinkLost { down } => Err(AgentError::LinkLost {
                seconds: down.as_secs(),
                last: self.last_failure.clone(),
            }),
        }
    }

    fn leave(&mut self) {
        tracing::warn!("told to stop (SIGTERM)");
        self.session.leave(self.now());
        if let Some(held) = &self.held {
            held.stop(Stop { grace: self.config.drain_grace, cause: StopCause::WorkerLeaves });
        }
    }

    /// Tells when output begins to be dropped, and how much it was in the end.
    fn tell_dropped(&mut self) {
        let now = self.session.dropped();
        match (std::mem::replace(&mut self.dropped, now), now) {
            (None, Some(_)) => tracing::warn!(
                "no link, and no room in memory or on disk: output is dropped from here on"
            ),
            (Some(Loss { bytes, frames, .. }), None) if self.session.held().is_some() => {
                tracing::warn!(bytes, frames, "output was dropped, and the log says so");
            }
            _ => {}
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Started(time) => self.session.started(time),
            Event::Output { stream, time, data } => {
                let now = self.now();
                if let Err(error) = self.session.output(stream, time, data, now) {
                    let attempt = self.session.held().map(|key| key.to_string());
                    tracing::error!(attempt, %error, "output came without room for it");
                }
            }
            Event::Ended { outcome, time } => {
                if let Some(held) = &mut self.held {
                    held.ended(outcome.as_ref());
                }
                self.session.ended(outcome, time);
            }
        }
    }

    /// Whether the work is done.
    async fn on_link(&mut self, event: LinkEvent) -> Result<bool, AgentError> {
        match event {
            LinkEvent::Welcomed(welcome) => self.on_welcome(&welcome).await,
            LinkEvent::CanSend => {
                // A message that could not be sent counts as lost with its link.
                if let Some(message) = self.session.next_message() {
                    self.link.send(wire::to_wire(message));
                }
            }
            LinkEvent::Message(message) => return Ok(self.on_message(*message).await),
            LinkEvent::Unknown => tracing::debug!("the server says what this build does not know"),
            LinkEvent::Broken(broken) => return self.on_broken(broken),
        }
        Ok(false)
    }

    fn on_broken(&mut self, broken: Broken) -> Result<bool, AgentError> {
        match broken {
            // The server forgets a worker whose work is done.
            Broken::Refused(_) | Broken::Version(_) if self.session.is_done() => Ok(true),
            Broken::Refused(message) => Err(AgentError::SessionRefused { message }),
            Broken::Version(message) => Err(AgentError::VersionRefused { message }),
            Broken::Lost(text) => {
                if self.session.link_lost(self.now()) {
                    tracing::warn!(error = %text, "the link is lost");
                } else {
                    tracing::debug!(error = %text, "no link yet");
                }
                self.last_failure = text;
                Ok(false)
            }
        }
    }

    async fn on_welcome(&mut self, welcome: &Welcome) {
        tracing::info!(acknowledged = welcome.acked_sequence, "the session's link is open");
        if let Some(order) = self.hear(&wire::welcome_from_wire(welcome)) {
            self.obey(order, None).await;
        }
    }

    async fn on_message(&mut self, message: server_message::Message) -> bool {
        let heard = match wire::from_wire(&message) {
            Ok(heard) => heard,
            Err(error) => {
                tracing::error!(%error, "a message of the server cannot be read");
                return false;
            }
        };
        let Some(order) = self.hear(&heard) else { return false };
        if let (Order::Leave, server_message::Message::Shutdown(shutdown)) = (order, &message) {
            tracing::info!(reason = %shutdown.reason, "no further work");
        }
        let spec = match message {
            server_message::Message::Assignment(assignment) => assignment.spec,
            _ => None,
        };
        self.obey(order, spec).await;
        order == Order::Leave
    }

    fn hear(&mut self, message: &ToAgent) -> Option<Order> {
        let order = self.session.on_message(message, self.now());
        order.unwrap_or_else(|oddity| {
            tracing::warn!(%oddity, "a message of the server is not acted on");
            None
        })
    }

    async fn obey(&mut self, order: Order, spec: Option<v1::JobSpec>) {
        match order {
            Order::Begin(key) => self.begin(key, spec.unwrap_or_default()),
            Order::Stop { attempt, grace } => {
                tracing::info!(%attempt, ?grace, "cancelled");
                if let Some(held) = &self.held {
                    held.stop(Stop { grace, cause: StopCause::Cancelled });
                }
            }
            Order::Drop(attempt) => {
                tracing::warn!(%attempt, "the attempt is no longer ours: killed");
                self.kill().await;
            }
            Order::Reported { attempt, accepted } => {
                tracing::info!(%attempt, accepted, "the result was taken");
                self.kill().await;
            }
            Order::Leave => {
                if let Some(attempt) = self.session.held() {
                    tracing::warn!(%attempt, "told to shut down while holding an attempt");
                }
            }
        }
    }

    async fn kill(&mut self) {
        if let Some(held) = self.held.take() {
            held.kill().await;
        }
    }

    fn begin(&mut self, key: AttemptKey, spec: v1::JobSpec) {
        match JobSpec::try_from(spec) {
            Ok(spec) => {
                tracing::info!(attempt = %key, "assigned");
                let mut environment = self.config.environment.clone();
                environment.limits.frame_bytes = self.registered.frame_bytes;
                let execution = Execution::start(spec, key, environment, self.family.clone());
                self.held = Some(Held::new(key, execution));
            }
            Err(error) => {
                tracing::error!(attempt = %key, %error, "the specification cannot be run");
                let outcome = Outcome::NotRun { reason: error.to_string() };
                self.session.ended(Some(outcome), Timestamp::now());
            }
        }
    }
}

async fn next_event(held: &mut Option<Held>, has_room: bool) -> Event {
    match held {
        Some(held) => held.next_event(has_room).await,
        None => std::future::pending().await,
    }
}

/// Waits for a moment; for ever without one.
async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

//! `WorkerAgentService`: registration, and the one stream of a session.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hodei_core::{
    PROTOCOL_VERSION,
    attempt::AttemptEnd,
    failure::{Failure, FailureCause},
    id::WorkerId,
    secret::Secret,
    session::{
        MAX_FRAME_BYTES,
        admission::{Opening, Refusal, is_label},
    },
};
use hodei_proto::v1::{
    AgentMessage, Assignment, Hello, RegisterRequest, RegisterResponse, ServerMessage, Welcome,
    agent_message, server_message::Message, worker_agent_service_server::WorkerAgentService,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{too_many, unavailable};
use crate::{
    app::App,
    scheduler::otp::discard_otp,
    session::{
        heard::Heard,
        live::Ticket,
        reader::{Current, Reader, key_of},
        recorder::{Outbound, Recorder, SessionEnd, Told},
    },
    store::{audit, audit::AuditKind, rows::WorkerRow, sessions::Opened},
    telemetry::{Stage, worker_stage},
};

/// How long an agent has to say Hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages to an agent that may wait for its link.
const OUTBOUND: usize = 64;

/// The service.
pub(super) struct AgentService {
    pub(super) app: Arc<App>,
}

fn check_version(theirs: u32) -> Result<(), Status> {
    if theirs == PROTOCOL_VERSION {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "the agent speaks protocol version {theirs}, this server {PROTOCOL_VERSION}"
    )))
}

impl AgentService {
    /// One answer to every refusal: who guesses learns nothing. The reason goes to the audit, unless
    /// this peer has filled enough of it.
    async fn refuse(
        &self,
        kind: AuditKind,
        peer: Option<SocketAddr>,
        worker: Option<WorkerId>,
        refusal: Refusal,
        answer: &'static str,
    ) -> Status {
        if !self.app.limits.records_refusal(peer) {
            audit::count(kind);
            return Status::unauthenticated(answer);
        }
        let reason = refusal.to_string();
        let written = audit::record(&self.app.store.pool, kind, worker, None, &reason).await;
        written.err().map_or_else(|| Status::unauthenticated(answer), unavailable)
    }

    async fn try_register(
        &self,
        peer: Option<SocketAddr>,
        request: &RegisterRequest,
    ) -> Result<Registered, Status> {
        const REFUSED: &str = "one-time password refused";
        let kind = AuditKind::RegistrationRefused;
        let claimed = request.worker_id.parse::<WorkerId>();
        let limited = self.app.limits.registration(peer, claimed.as_ref().ok().copied());
        limited.map_err(|wait| too_many("registrations of this worker", wait))?;
        let parsed = (claimed, request.otp.parse::<Secret>());
        let (worker, otp) = match parsed {
            (Ok(worker), Ok(otp)) if is_label(&request.pod_uid) => (worker, otp),
            (worker, _) => {
                return Err(self
                    .refuse(kind, peer, worker.ok(), Refusal::Malformed, REFUSED)
                    .await);
            }
        };
        let session = Secret::generate();
        let lease = self.app.timing.lease;
        let registered = self
            .app
            .store
            .register(worker, &otp, &request.pod_uid, &session.hash(), lease)
            .await
            .map_err(unavailable)?;
        match registered {
            Ok(row) => Ok(Registered { row, session }),
            Err(refusal) => Err(self.refuse(kind, peer, Some(worker), refusal, REFUSED).await),
        }
    }

    async fn authenticate(
        &self,
        peer: Option<SocketAddr>,
        hello: &Hello,
    ) -> Result<WorkerRow, Status> {
        const REFUSED: &str = "session refused";
        let kind = AuditKind::SessionRefused;
        let parsed = (hello.worker_id.parse::<WorkerId>(), hello.session_token.parse::<Secret>());
        let (Ok(worker), Ok(token)) = parsed else {
            return Err(self.refuse(kind, peer, None, Refusal::Malformed, REFUSED).await);
        };
        let known = self.app.store.authenticate(worker, &token, &hello.pod_uid).await;
        match known.map_err(unavailable)? {
            Ok(row) => Ok(row),
            Err(refusal) => Err(self.refuse(kind, peer, Some(worker), refusal, REFUSED).await),
        }
    }
}

/// From the container seen running to the agent's call. An agent may be faster than the provider's
/// word that its container runs: then it took no time that can be seen.
fn connect_seconds(row: &WorkerRow) -> f64 {
    let (Some(running), Some(registered)) = (row.running_at, row.registered_at) else { return 0.0 };
    (registered - running).total(jiff::Unit::Second).unwrap_or(0.0)
}

struct Registered {
    row: WorkerRow,
    session: Secret,
}

#[tonic::async_trait]
impl WorkerAgentService for AgentService {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let peer = request.remote_addr();
        let request = request.into_inner();
        check_version(request.protocol_version)?;
        let Registered { row, session } = self.try_register(peer, &request).await?;
        let took = (jiff::Timestamp::now() - row.created_at).total(jiff::Unit::Second);
        metrics::histogram!("hodei_stage_seconds", "stage" => "register")
            .record(took.unwrap_or(0.0));
        worker_stage(&row.provider, Stage::Connect, connect_seconds(&row));
        let version =
            if is_label(&request.agent_version) { &request.agent_version } else { "unknown" };
        let job = row.attempt.map(|attempt| tracing::field::display(attempt.job));
        tracing::info!(worker_id = %row.id, job_id = job, agent_version = version, "registered");
        self.app.tasks.spawn(discard_otp(self.app.clone(), row.id, row.provider.clone()));
        let timing = &self.app.timing;
        Ok(Response::new(RegisterResponse {
            session_token: session.expose().to_owned(),
            heartbeat_interval: prost_types::Duration::try_from(timing.heartbeat).ok(),
            lease: prost_types::Duration::try_from(timing.lease).ok(),
            max_frame_bytes: u32::try_from(MAX_FRAME_BYTES).unwrap_or(u32::MAX),
        }))
    }

    type OpenSessionStream = ReceiverStream<Result<ServerMessage, Status>>;

    async fn open_session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::OpenSessionStream>, Status> {
        let peer = request.remote_addr();
        let mut inbound = request.into_inner();
        let first = tokio::time::timeout(HELLO_TIMEOUT, inbound.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no Hello within 10 s"))??;
        let Some(AgentMessage { message: Some(agent_message::Message::Hello(hello)) }) = first
        else {
            return Err(Status::failed_precondition("the first message must be Hello"));
        };
        check_version(hello.protocol_version)?;
        let worker = self.authenticate(peer, &hello).await?;
        let held = hello.attempt.as_ref().map(|held| key_of(Some(held))).transpose()?;
        let ticket = self.app.sessions.enter(worker.id, &self.app.stop);
        let opened = self.app.store.open_session(&worker, held, self.app.timing.lease).await;
        let opened = opened.map_err(unavailable)?;
        let opened = opened.ok_or_else(|| Status::not_found("the worker has no attempt"))?;
        if let Some(seconds) = opened.registered_for {
            worker_stage(&worker.provider, Stage::Register, seconds);
        }
        let (outbound, stream) = mpsc::channel(OUTBOUND);
        let session = Session { app: self.app.clone(), worker, opened, ticket, inbound, outbound };
        self.app.tasks.spawn(session.run());
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// One session from Welcome to its end.
struct Session {
    app: Arc<App>,
    worker: WorkerRow,
    opened: Opened,
    ticket: Ticket,
    inbound: Streaming<AgentMessage>,
    outbound: Outbound,
}

impl Session {
    async fn run(self) {
        let (app, worker, opened) = (self.app.clone(), self.worker.id, self.opened);
        let own = opened.own.as_ref();
        tracing::info!(worker_id = %worker, job_id = own.map(|own| tracing::field::display(own.key.job)),
            epoch = own.map(|own| own.key.epoch.0), correlation_id = own.map(|own| &*own.correlation_id),
            opening = ?opened.opening, "session opened");
        if let Some(own) = own.filter(|_| opened.opening == Opening::Forgotten) {
            let message = "the agent came back without the attempt it was given".to_owned();
            let lost = AttemptEnd::Lost(Failure { cause: FailureCause::AgentExited, message });
            if let Err(error) = app.store.end_attempt(own.key, worker, &lost).await {
                tracing::error!(%error, worker_id = %worker, "a lost attempt could not be ended");
            }
        }
        let ticket = self.ticket;
        let outbound = self.outbound;
        for message in greeting(&opened) {
            // A full or closed channel shows again below.
            let _ = outbound.try_send(Ok(ServerMessage { message: Some(message) }));
        }
        let holds = matches!(opened.opening, Opening::Assign | Opening::Resume);
        let own = own.map(|own| {
            let open = || app.logs.open(own.key, worker, opened.acked_sequence, &app.tasks);
            Current { key: own.key, live: holds.then(open) }
        });
        let (current, current_received) = watch::channel(own.clone());
        let (ops, ops_received) = mpsc::channel(16);
        let (heard, heard_received) = watch::channel(Heard::default());
        let reader = Reader { inbound: self.inbound, current: current_received, ops, heard };
        let mut recorder = Recorder {
            app: app.clone(),
            worker,
            pooled: self.worker.pooled,
            session: opened.session,
            own,
            holds,
            current,
            ops: ops_received,
            heard: heard_received,
            outbound: outbound.clone(),
            pending: None,
            told: Told::default(),
        };
        let last_word = tokio::select! {
            () = ticket.fenced.cancelled() => Some(Status::unavailable("this stream is over: connect again")),
            end = recorder.run() => match end {
                Ok(()) | Err(SessionEnd::Left) => None,
                Err(SessionEnd::Moved) => Some(Status::aborted("the session goes on elsewhere")),
                Err(SessionEnd::Store(error)) => Some(unavailable(error)),
            },
            // A link that is lost takes a result on its way to the database with it: the agent has no
            // word that it was taken, and sends it again.
            read = reader.run() => read.err(),
        };
        if let Some(status) = last_word {
            tracing::debug!(worker_id = %worker, code = ?status.code(), "session ends");
            let _ = outbound.try_send(Err(status));
        }
        app.sessions.leave(&ticket);
    }
}

fn greeting(opened: &Opened) -> Vec<Message> {
    let welcome = Message::Welcome(Welcome {
        acked_sequence: opened.acked_sequence,
        attempt_revoked: opened.revoked,
    });
    let work = opened.own.as_ref().filter(|_| opened.opening == Opening::Assign);
    let assign = work.map(|work| {
        let (attempt, spec) = (Some(work.key.into()), Some((&work.spec).into()));
        Message::Assignment(Assignment { attempt, spec })
    });
    std::iter::once(welcome).chain(assign).collect()
}

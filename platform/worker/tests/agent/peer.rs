//! A scripted server that speaks the real protocol over a real socket, one step at a time.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use hodei_core::{
    id::{AttemptKey, Epoch, JobId, WorkerId},
    secret::Secret,
    spec::JobSpec,
};
use hodei_proto::v1::{
    self, AgentMessage, ServerMessage, agent_message, server_message,
    worker_agent_service_server::{WorkerAgentService, WorkerAgentServiceServer},
};
use hodei_worker::{
    AgentError, Config,
    executor::{Environment, Limits},
    process::Family,
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// Every wait of a test, at most.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Awaits with a deadline that names what was awaited.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

/// Waits until a file is there.
pub(crate) async fn await_file(path: &Path) {
    let there = async {
        let mut looks = tokio::time::interval(Duration::from_millis(10));
        while !path.exists() {
            looks.tick().await;
        }
    };
    within(&format!("{}", path.display()), there).await;
}

/// The listening side.
pub(crate) struct Peer {
    pub(crate) address: String,
    sessions: mpsc::Receiver<Session>,
    registrations: Arc<Mutex<Vec<Registration>>>,
}

/// One try to register.
#[derive(Clone)]
pub(crate) struct Registration {
    pub(crate) password: String,
    /// The agent's end of the connection.
    pub(crate) from: Option<SocketAddr>,
}

/// One open stream.
pub(crate) struct Session {
    /// The agent's end of the connection.
    pub(crate) from: Option<SocketAddr>,
    from_agent: Streaming<AgentMessage>,
    to_agent: mpsc::Sender<Result<ServerMessage, Status>>,
}

struct Service {
    /// What Register is answered with, last first; when it runs out, it is accepted.
    answers: Mutex<Vec<Status>>,
    registrations: Arc<Mutex<Vec<Registration>>>,
    token: Secret,
    sessions: mpsc::Sender<Session>,
}

#[tonic::async_trait]
impl WorkerAgentService for Service {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        assert_eq!(request.get_ref().protocol_version, hodei_core::PROTOCOL_VERSION);
        let registration =
            Registration { from: request.remote_addr(), password: request.get_ref().otp.clone() };
        self.registrations.lock().unwrap().push(registration);
        let refusal = { self.answers.lock().unwrap().pop() };
        if let Some(status) = refusal {
            return Err(status);
        }
        Ok(Response::new(v1::RegisterResponse {
            session_token: self.token.expose().to_owned(),
            heartbeat_interval: Duration::from_millis(200).try_into().ok(),
            lease: Duration::from_secs(2).try_into().ok(),
            max_frame_bytes: 0,
        }))
    }

    type OpenSessionStream = ReceiverStream<Result<ServerMessage, Status>>;

    async fn open_session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::OpenSessionStream>, Status> {
        let (to_agent, messages) = mpsc::channel(16);
        let from = request.remote_addr();
        let session = Session { from, from_agent: request.into_inner(), to_agent };
        self.sessions.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

impl Peer {
    pub(crate) async fn start(answers: impl IntoIterator<Item = Status>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (sender, sessions) = mpsc::channel(4);
        let mut answers: Vec<_> = answers.into_iter().collect();
        answers.reverse();
        let registrations = Arc::default();
        let service = Service {
            answers: Mutex::new(answers),
            registrations: Arc::clone(&registrations),
            token: Secret::generate(),
            sessions: sender,
        };
        let service = WorkerAgentServiceServer::new(service).max_decoding_message_size(4 << 20);
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Self { address, sessions, registrations }
    }

    /// The tries to register so far.
    pub(crate) fn registrations(&self) -> Vec<Registration> {
        self.registrations.lock().unwrap().clone()
    }

    pub(crate) fn config(&self, workspace: &Path) -> Config {
        Config {
            worker: WorkerId::new(),
            server_address: self.address.clone(),
            pod_uid: "pod".into(),
            ca_pem: None,
            environment: environment(workspace),
            window_bytes: 1 << 20,
            spool_bytes: 0,
            stall: Duration::from_secs(60),
            register_timeout: Duration::from_secs(5),
            give_up: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(10),
            drain_grace: Duration::from_secs(2),
        }
    }

    /// The next stream, with its Hello.
    pub(crate) async fn session(&mut self) -> (Session, v1::Hello) {
        let mut session = within("a session", self.sessions.recv()).await.unwrap();
        match session.next().await {
            Some(agent_message::Message::Hello(hello)) => (session, hello),
            other => panic!("Hello comes first, not {other:?}"),
        }
    }

    /// A stream that the agent still waits on: those that it gave up meanwhile are passed over.
    pub(crate) async fn awaited_session(&mut self) -> Session {
        let (mut session, _) = self.session().await;
        while let Ok(later) = self.sessions.try_recv() {
            session = later;
            let Some(agent_message::Message::Hello(_)) = session.next().await else {
                panic!("Hello comes first")
            };
        }
        session
    }

    /// The next stream, welcomed with nothing acknowledged.
    pub(crate) async fn welcomed(&mut self) -> Session {
        let (session, _) = self.session().await;
        session.welcome(0).await;
        session
    }
}

impl Session {
    pub(crate) async fn next(&mut self) -> Option<agent_message::Message> {
        within("a message", self.from_agent.message()).await.ok().flatten()?.message
    }

    /// The next message that is no heartbeat.
    pub(crate) async fn next_of_work(&mut self) -> agent_message::Message {
        // One deadline over all heartbeats, or a silent job would be waited for as long as it lives.
        let next = async {
            loop {
                match self.next().await.expect("the stream goes on") {
                    agent_message::Message::Heartbeat(_) => {}
                    message => return message,
                }
            }
        };
        within("a message of work", next).await
    }

    pub(crate) async fn say(&self, message: server_message::Message) {
        let message = ServerMessage { message: Some(message) };
        self.to_agent.send(Ok(message)).await.expect("the agent listens");
    }

    pub(crate) async fn refuse(&self, status: Status) {
        self.to_agent.send(Err(status)).await.expect("the agent listens");
    }

    pub(crate) async fn welcome(&self, acked_sequence: u64) {
        let welcome = v1::Welcome { acked_sequence, attempt_revoked: false };
        self.say(server_message::Message::Welcome(welcome)).await;
    }

    pub(crate) async fn assign(&self, spec: &JobSpec) -> AttemptKey {
        let key = AttemptKey { job: JobId::new(), epoch: Epoch::FIRST };
        let assignment = v1::Assignment { attempt: Some(key.into()), spec: Some(spec.into()) };
        self.say(server_message::Message::Assignment(assignment)).await;
        key
    }

    pub(crate) async fn ack(&self, key: AttemptKey, sequence: u64) {
        let ack = v1::LogAck { attempt: Some(key.into()), sequence };
        self.say(server_message::Message::LogAck(ack)).await;
    }

    pub(crate) async fn cancel(&self, key: AttemptKey, grace: Duration) {
        let cancel = v1::CancelAttempt { attempt: Some(key.into()), grace: grace.try_into().ok() };
        self.say(server_message::Message::Cancel(cancel)).await;
    }

    pub(crate) async fn ack_result(&self, key: AttemptKey) {
        let ack = v1::ResultAck { attempt: Some(key.into()), accepted: true };
        self.say(server_message::Message::ResultAck(ack)).await;
    }

    pub(crate) async fn shut_down(&self) {
        self.say(server_message::Message::Shutdown(v1::Shutdown::default())).await;
    }

    /// Takes output into `output`, acknowledging all of it, until the result comes.
    pub(crate) async fn result(
        &mut self,
        key: AttemptKey,
        output: &mut Vec<u8>,
    ) -> v1::AttemptResult {
        loop {
            match self.next_of_work().await {
                agent_message::Message::Logs(batch) => {
                    let last = batch.frames.last().expect("a batch is not empty").sequence;
                    output.extend(batch.frames.iter().flat_map(|frame| frame.data.to_vec()));
                    self.ack(key, last).await;
                }
                agent_message::Message::Result(result) => return result,
                _ => {}
            }
        }
    }
}

/// What jobs of a test find around them.
pub(crate) fn environment(workspace: &Path) -> Environment {
    Environment {
        workspace: workspace.into(),
        scratch: workspace.into(),
        path: None,
        premises: None,
        limits: Limits { linger: Duration::from_millis(300), ..Limits::default() },
    }
}

/// An agent that runs inside the test.
pub(crate) struct Agent {
    end: JoinHandle<Result<(), AgentError>>,
    pub(crate) terminate: CancellationToken,
}

impl Agent {
    pub(crate) fn start(config: Config) -> Self {
        Self::start_with(config, CancellationToken::new())
    }

    /// One that leaves when `terminate` is cancelled.
    pub(crate) fn start_with(config: Config, terminate: CancellationToken) -> Self {
        let end =
            hodei_worker::run(config, Secret::generate(), Family::default(), terminate.clone());
        Self { end: tokio::spawn(end), terminate }
    }

    pub(crate) async fn end(self) -> Result<(), AgentError> {
        within("the agent's end", self.end).await.expect("the agent does not panic")
    }
}

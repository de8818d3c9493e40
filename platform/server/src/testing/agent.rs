//! An agent that says what a test wants, over real gRPC.

use hodei_core::{PROTOCOL_VERSION, provider::WorkerSpec};
use hodei_proto::{
    timestamp,
    v1::{
        AgentMessage, AttemptOutcome, AttemptRef, AttemptResult, AttemptStarted, Hello, LogBatch,
        LogFrame, OutputStream, RegisterRequest, ServerMessage, Welcome,
        agent_message::Message as Say, attempt_outcome::How, server_message::Message,
        worker_agent_service_client::WorkerAgentServiceClient,
    },
};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::{
    fake::World,
    running::{PATIENCE, Running},
};

pub(super) struct Agent {
    pub(super) client: WorkerAgentServiceClient<Channel>,
    pub(super) hello: Hello,
}

pub(super) struct Link {
    say: mpsc::Sender<AgentMessage>,
    hear: Streaming<ServerMessage>,
}

/// What a well-behaved agent of this worker registers with.
pub(super) fn registration(spec: &WorkerSpec) -> RegisterRequest {
    RegisterRequest {
        worker_id: spec.worker.to_string(),
        otp: spec.otp.expose().to_owned(),
        protocol_version: PROTOCOL_VERSION,
        pod_uid: World::uid(spec.worker),
        agent_version: "test".to_owned(),
    }
}

impl Agent {
    pub(super) async fn register(server: &Running, spec: &WorkerSpec) -> Self {
        let mut client = WorkerAgentServiceClient::new(server.channel().await);
        let request = registration(spec);
        let registered = client.register(request.clone()).await.unwrap().into_inner();
        let hello = Hello {
            worker_id: request.worker_id,
            session_token: registered.session_token,
            pod_uid: request.pod_uid,
            protocol_version: PROTOCOL_VERSION,
            attempt: None,
        };
        Self { client, hello }
    }

    /// Connects to a server that was started after the one it registered with.
    pub(super) async fn follow_to(&mut self, server: &Running) {
        self.client = WorkerAgentServiceClient::new(server.channel().await);
    }

    pub(super) async fn try_open(
        &mut self,
        held: Option<AttemptRef>,
    ) -> Result<(Link, Welcome), Status> {
        let (say, said) = mpsc::channel(64);
        let hello = Hello { attempt: held, ..self.hello.clone() };
        say.send(AgentMessage { message: Some(Say::Hello(hello)) }).await.unwrap();
        let hear = self.client.open_session(ReceiverStream::new(said)).await?.into_inner();
        let mut link = Link { say, hear };
        match link.next().await {
            Message::Welcome(welcome) => Ok((link, welcome)),
            other => panic!("{other:?}"),
        }
    }

    /// Registers, takes the assignment and begins it.
    pub(super) async fn begin(server: &Running, spec: &WorkerSpec) -> (Self, Link, AttemptRef) {
        let mut agent = Self::register(server, spec).await;
        let (link, attempt) = agent.take_work().await;
        link.start(&attempt).await;
        (agent, link, attempt)
    }

    /// Opens a session and takes the assignment.
    pub(super) async fn take_work(&mut self) -> (Link, AttemptRef) {
        let (mut link, _) = self.try_open(None).await.unwrap();
        match link.next().await {
            Message::Assignment(assignment) => (link, assignment.attempt.unwrap()),
            other => panic!("{other:?}"),
        }
    }
}

impl Link {
    /// The next job, given on the stream that is open.
    pub(super) async fn await_assignment(&mut self) -> AttemptRef {
        let pick = |message| match message {
            Message::Assignment(assignment) => assignment.attempt,
            _ => None,
        };
        self.await_message(pick).await
    }

    /// Takes an attempt through to success, with so many lines.
    pub(super) async fn run_through(&mut self, attempt: &AttemptRef, lines: u64) {
        self.start(attempt).await;
        self.print(attempt, 1..=lines).await;
        self.end(attempt, How::ExitCode(0), lines).await;
        assert!(self.await_result_ack().await);
    }

    pub(super) async fn say(&self, message: Say) {
        assert!(self.try_say(message).await, "the stream must be open");
    }

    /// Whether the stream was still open.
    pub(super) async fn try_say(&self, message: Say) -> bool {
        self.say.send(AgentMessage { message: Some(message) }).await.is_ok()
    }

    /// Says nothing more.
    pub(super) fn hang_up(&mut self) {
        self.say = mpsc::channel(1).0;
    }

    pub(super) async fn try_next(&mut self) -> Result<Option<Message>, Status> {
        let next = tokio::time::timeout(PATIENCE, self.hear.message()).await;
        let next = next.expect("the server must say something")?;
        Ok(next.and_then(|message| message.message))
    }

    pub(super) async fn next(&mut self) -> Message {
        self.try_next().await.unwrap().expect("the stream must go on")
    }

    /// The next message of one kind; others are passed over.
    pub(super) async fn await_message<T>(&mut self, pick: impl Fn(Message) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(self.next().await) {
                return found;
            }
        }
    }

    pub(super) async fn start(&self, attempt: &AttemptRef) {
        let time = Some(timestamp(Timestamp::now()));
        self.say(Say::Started(AttemptStarted { attempt: Some(attempt.clone()), time })).await;
    }

    /// Says one line for each sequence number: `line N`.
    pub(super) async fn print(&self, attempt: &AttemptRef, lines: std::ops::RangeInclusive<u64>) {
        let frames = lines.map(line).collect();
        self.say(Say::Logs(LogBatch { attempt: Some(attempt.clone()), frames })).await;
    }

    pub(super) async fn end(&self, attempt: &AttemptRef, how: How, last_sequence: u64) {
        let now = Some(timestamp(Timestamp::now()));
        self.say(Say::Result(AttemptResult {
            attempt: Some(attempt.clone()),
            outcome: Some(AttemptOutcome { how: Some(how), out_of_memory: false }),
            last_sequence,
            started_at: now,
            finished_at: now,
        }))
        .await;
    }

    /// Whether the result was taken.
    pub(super) async fn await_result_ack(&mut self) -> bool {
        let pick = |message| match message {
            Message::ResultAck(ack) => Some(ack.accepted),
            _ => None,
        };
        self.await_message(pick).await
    }
}

/// Frame `sequence` of a log whose lines are numbered.
pub(super) fn line(sequence: u64) -> LogFrame {
    LogFrame {
        sequence,
        stream: OutputStream::Stdout.into(),
        time: Some(timestamp(Timestamp::UNIX_EPOCH)),
        data: format!("line {sequence}\n").into(),
        ..Default::default()
    }
}

/// The text of those lines.
pub(super) fn lines(sequences: std::ops::RangeInclusive<u64>) -> String {
    sequences.map(|sequence| format!("line {sequence}\n")).collect()
}

//! A worker without a pod: it speaks `WorkerAgentService` as an agent does, and says what a case
//! wants said, when it wants it said.

use std::time::Duration;

use hodei_proto::timestamp;
use hodei_proto::v1::{
    AgentMessage, AttemptOutcome, AttemptRef, AttemptResult, AttemptStarted, Heartbeat, Hello,
    LogBatch, LogFrame, OutputStream, RegisterRequest, RegisterResponse, ServerMessage, Welcome,
    agent_message::Message as Say, attempt_outcome::How, server_message::Message,
    worker_agent_service_client::WorkerAgentServiceClient,
};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::failure::{Classify, FailureClass, HarnessError, Result};

/// From what one side says to the other's answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// Messages that may wait for the link.
const OUTBOUND: usize = 64;

/// A worker that has registered.
#[derive(Debug, Clone)]
pub struct SimulatedWorker {
    client: WorkerAgentServiceClient<Channel>,
    hello: Hello,
    /// What the server answered.
    pub registered: RegisterResponse,
}

/// One stream of its session. Dropping it is a link that breaks.
#[derive(Debug)]
pub struct WorkerLink {
    say: mpsc::Sender<AgentMessage>,
    hear: Streaming<ServerMessage>,
    /// What the server greeted with.
    pub welcome: Welcome,
}

impl SimulatedWorker {
    /// Registers.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn register(
        mut client: WorkerAgentServiceClient<Channel>,
        request: RegisterRequest,
    ) -> Result<Self, Status> {
        let registered = client.register(request.clone()).await?.into_inner();
        let hello = Hello {
            worker_id: request.worker_id,
            session_token: registered.session_token.clone(),
            pod_uid: request.pod_uid,
            protocol_version: request.protocol_version,
            attempt: None,
        };
        Ok(Self { client, hello, registered })
    }

    /// The same worker with another session token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        let hello = Hello { session_token: token.to_owned(), ..self.hello.clone() };
        Self { hello, ..self.clone() }
    }

    /// Opens a stream, holding an attempt or none.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn open(&mut self, held: Option<AttemptRef>) -> Result<WorkerLink, Status> {
        let (say, said) = mpsc::channel(OUTBOUND);
        let hello = Hello { attempt: held, ..self.hello.clone() };
        let first = AgentMessage { message: Some(Say::Hello(hello)) };
        say.send(first).await.map_err(|error| Status::internal(error.to_string()))?;
        let hear = self.client.open_session(ReceiverStream::new(said)).await?.into_inner();
        let mut link = WorkerLink { say, hear, welcome: Welcome::default() };
        match link.next().await? {
            Message::Welcome(welcome) => Ok(WorkerLink { welcome, ..link }),
            other => Err(Status::internal(format!("no welcome but {other:?}"))),
        }
    }

    /// Opens a stream, takes the assignment and says that it began.
    ///
    /// # Errors
    /// The server refuses, or gives no work.
    pub async fn begin(&mut self) -> Result<(WorkerLink, AttemptRef)> {
        let opened = self.open(None).await;
        let mut link = opened.classify(FailureClass::Product, "open", "a session")?;
        let attempt = link.await_message("an assignment", |message| match message {
            Message::Assignment(assignment) => assignment.attempt,
            _ => None,
        });
        let attempt = attempt.await?;
        let started = AttemptStarted {
            attempt: Some(attempt.clone()),
            time: Some(timestamp(Timestamp::now())),
        };
        link.say(Say::Started(started)).await?;
        Ok((link, attempt))
    }
}

impl WorkerLink {
    /// Says one message.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn say(&self, message: Say) -> Result<()> {
        let sent = self.say.send(AgentMessage { message: Some(message) }).await;
        sent.classify(FailureClass::Product, "send", "a message of a simulated worker")
    }

    /// Says that it is there.
    ///
    /// # Errors
    /// As for [`Self::say`].
    pub async fn beat(&self) -> Result<()> {
        self.say(Say::Heartbeat(Heartbeat { time: Some(timestamp(Timestamp::now())) })).await
    }

    /// Writes `line N` to standard output for each sequence number.
    ///
    /// # Errors
    /// As for [`Self::say`].
    pub async fn print(
        &self,
        attempt: &AttemptRef,
        sequences: std::ops::RangeInclusive<u64>,
    ) -> Result<()> {
        let line = |sequence| LogFrame {
            sequence,
            stream: OutputStream::Stdout.into(),
            time: Some(timestamp(Timestamp::now())),
            data: format!("line {sequence}\n").into(),
            ..Default::default()
        };
        let frames = sequences.map(line).collect();
        self.say(Say::Logs(LogBatch { attempt: Some(attempt.clone()), frames })).await
    }

    /// Waits until every frame up to `sequence` is durable.
    ///
    /// # Errors
    /// No such word comes within half a minute.
    pub async fn await_durable(&mut self, sequence: u64) -> Result<()> {
        self.await_message("an acknowledgement", |message| match message {
            Message::LogAck(ack) => (ack.sequence >= sequence).then_some(()),
            _ => None,
        })
        .await
    }

    /// Gives a result; says whether it was taken.
    ///
    /// # Errors
    /// No answer comes within half a minute.
    pub async fn end(&mut self, attempt: &AttemptRef, code: i32, last: u64) -> Result<bool> {
        self.say(Say::Result(AttemptResult {
            attempt: Some(attempt.clone()),
            outcome: Some(AttemptOutcome { how: Some(How::ExitCode(code)), out_of_memory: false }),
            last_sequence: last,
            started_at: Some(timestamp(Timestamp::now())),
            finished_at: Some(timestamp(Timestamp::now())),
        }))
        .await?;
        self.await_message("an answer to its result", |message| match message {
            Message::ResultAck(ack) => Some(ack.accepted),
            _ => None,
        })
        .await
    }

    /// The first message of one kind; others are passed over.
    ///
    /// # Errors
    /// The stream ends, or half a minute passes, and it did not come.
    pub async fn await_message<T>(
        &mut self,
        what: &str,
        pick: impl Fn(Message) -> Option<T>,
    ) -> Result<T> {
        let class = FailureClass::Product;
        let waiting = async {
            loop {
                let next = self.next().await.classify(class, "wait for", what)?;
                if let Some(found) = pick(next) {
                    return Ok(found);
                }
            }
        };
        tokio::time::timeout(ANSWER_DEADLINE, waiting).await.unwrap_or_else(|_| {
            let cause = format!("it did not come within {} s", ANSWER_DEADLINE.as_secs());
            Err(HarnessError::new(class, "wait for", what, cause))
        })
    }

    async fn next(&mut self) -> Result<Message, Status> {
        let next = self.hear.message().await?.and_then(|message| message.message);
        next.ok_or_else(|| Status::unavailable("the stream ended"))
    }
}

//! Reads what an agent sends. Output goes straight to the live log: nothing here waits for the database.
//! All that has to be written down is handed to the [recorder](super::recorder).

use std::sync::Arc;

use hodei_core::{attempt::Outcome, id::AttemptKey, session::Frame};
use hodei_proto::{
    InvalidMessage, frame_from_wire,
    v1::{AgentMessage, AttemptRef, AttemptResult, LogBatch, agent_message::Message},
};
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

use crate::logs::live::{LiveLog, NotTaken};

/// What the recorder has to write down.
#[derive(Debug)]
pub(crate) enum Op {
    Started(AttemptKey),
    Result {
        key: AttemptKey,
        outcome: Outcome,
        last_sequence: u64,
    },
    /// Output of an attempt that is not this session's.
    ForeignLogs(AttemptKey),
    Draining,
}

/// One session's incoming half.
pub(crate) struct Reader {
    pub(crate) inbound: Streaming<AgentMessage>,
    pub(crate) own: AttemptKey,
    pub(crate) live: Option<Arc<LiveLog>>,
    pub(crate) ops: mpsc::Sender<Op>,
    /// Counts messages: the recorder renews the lease while it grows.
    pub(crate) heard: watch::Sender<u64>,
}

impl Reader {
    /// Reads until the agent closes its half (`Ok`), or something is wrong with what it sends.
    pub(crate) async fn run(mut self) -> Result<(), Status> {
        while let Some(message) = self.inbound.message().await? {
            self.heard.send_modify(|count| *count += 1);
            let op = match message.message {
                Some(Message::Logs(batch)) => self.take_logs(batch).await?,
                Some(Message::Started(started)) => {
                    Some(Op::Started(key_of(started.attempt.as_ref())?))
                }
                Some(Message::Result(result)) => Some(read_result(result)?),
                Some(Message::Draining(_)) => Some(Op::Draining),
                Some(Message::Hello(_)) => {
                    return Err(Status::failed_precondition("Hello comes once"));
                }
                // An unknown message of a newer agent is as good as a heartbeat.
                Some(Message::Heartbeat(_)) | None => None,
            };
            if let Some(op) = op
                && self.ops.send(op).await.is_err()
            {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn take_logs(&self, batch: LogBatch) -> Result<Option<Op>, Status> {
        let key = key_of(batch.attempt.as_ref())?;
        let Some(live) = self.live.as_ref().filter(|_| key == self.own) else {
            return Ok(Some(Op::ForeignLogs(key)));
        };
        let frames: Result<Vec<Frame>, _> = batch.frames.into_iter().map(frame_from_wire).collect();
        let frames = frames.map_err(invalid)?;
        match live.accept(frames).await {
            Ok(()) => Ok(None),
            Err(NotTaken::Gap(gap)) => Err(Status::invalid_argument(gap.to_string())),
            // The agent connects again and hears where to go on, or that it is revoked.
            Err(NotTaken::Closed) => Err(Status::aborted("the log goes on elsewhere")),
        }
    }
}

pub(crate) fn key_of(wire: Option<&AttemptRef>) -> Result<AttemptKey, Status> {
    let wire = wire.ok_or_else(|| Status::invalid_argument("attempt is missing"))?;
    AttemptKey::try_from(wire).map_err(invalid)
}

fn read_result(result: AttemptResult) -> Result<Op, Status> {
    let key = key_of(result.attempt.as_ref())?;
    let outcome = result.outcome.ok_or_else(|| Status::invalid_argument("outcome is missing"))?;
    let outcome = Outcome::try_from(outcome).map_err(invalid)?;
    Ok(Op::Result { key, outcome, last_sequence: result.last_sequence })
}

fn invalid(error: InvalidMessage) -> Status {
    Status::invalid_argument(error.to_string())
}

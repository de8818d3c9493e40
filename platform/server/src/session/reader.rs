//! Reads what an agent sends. Output goes straight to the live log: nothing here waits for the database.
//! All that has to be written down is handed to the [recorder](super::recorder).

use std::sync::Arc;

use hodei_core::{attempt::Outcome, id::AttemptKey, session::Frame};
use hodei_proto::{
    InvalidMessage, frame_from_wire,
    v1::{AgentMessage, AttemptRef, AttemptResult, LogBatch, agent_message::Message},
};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

use super::heard::Heard;
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
    /// Output of an attempt that is not this session's, or not any more.
    ForeignLogs(AttemptKey),
    Draining,
}

/// The attempt that a session is about at present.
#[derive(Debug, Clone)]
pub(crate) struct Current {
    pub(crate) key: AttemptKey,
    /// Its log; `None` where the attempt was not the agent's any more when the session was opened.
    pub(crate) live: Option<Arc<LiveLog>>,
}

/// One session's incoming half.
pub(crate) struct Reader {
    pub(crate) inbound: Streaming<AgentMessage>,
    /// Whose output is taken; the recorder says when that changes.
    pub(crate) current: watch::Receiver<Option<Current>>,
    pub(crate) ops: mpsc::Sender<Op>,
    pub(crate) heard: watch::Sender<Heard>,
}

impl Reader {
    /// Reads until the agent closes its half (`Ok`), or something is wrong with what it sends.
    pub(crate) async fn run(mut self) -> Result<(), Status> {
        while let Some(message) = self.inbound.message().await? {
            let sent = sent(&message);
            self.heard.send_modify(|heard| heard.message(sent, Timestamp::now()));
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
        let current = self.current.borrow().clone().filter(|current| current.key == key);
        let Some(live) = current.and_then(|current| current.live) else {
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

/// The agent's own time of a message that has one.
fn sent(message: &AgentMessage) -> Option<prost_types::Timestamp> {
    match message.message.as_ref()? {
        Message::Heartbeat(heartbeat) => heartbeat.time,
        Message::Started(started) => started.time,
        _ => None,
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

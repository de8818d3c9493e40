//! The attempt in hand: its command, its output on the way, and its result until the server has it.

use hodei_core::{
    attempt::Outcome,
    id::AttemptKey,
    session::{Frame, Outbox},
};
use hodei_proto::{
    frame_to_wire, timestamp,
    v1::{AttemptResult, AttemptStarted, LogBatch, agent_message::Message},
};
use jiff::Timestamp;

use crate::executor::{Event, Execution, Stop};

/// Most frames in one batch: with the largest frames it stays below the largest message.
const BATCH_FRAMES: usize = 48;
/// What a held frame costs beside its payload, about, in bytes. Without it a command that writes
/// single bytes would fill memory long before it fills the bound.
const FRAME_COST: usize = 128;

/// One attempt, from its assignment until its result is acknowledged.
#[derive(Debug)]
pub struct Held {
    key: AttemptKey,
    outbox: Outbox,
    most_frames: u64,
    frame_bytes: usize,
    acknowledged: u64,
    execution: Option<Execution>,
    started: Option<Timestamp>,
    started_sent: bool,
    result: Option<AttemptResult>,
    result_sent: bool,
    /// It was stopped because the worker leaves, and has no result.
    abandoned: bool,
    slowed: bool,
}

impl Held {
    /// An attempt whose command was just started. Of its output at most `bound` bytes are held, in
    /// frames of at most `frame_bytes`.
    #[must_use]
    pub fn new(key: AttemptKey, execution: Execution, bound: usize, frame_bytes: usize) -> Self {
        Self::make(key, Some(execution), bound, frame_bytes)
    }

    /// An attempt that can't be run: it has an outcome from the beginning.
    #[must_use]
    pub fn refused(key: AttemptKey, reason: String) -> Self {
        let mut held = Self::make(key, None, 0, 1);
        held.end(&Outcome::NotRun { reason }, Timestamp::now());
        held
    }

    fn make(
        key: AttemptKey,
        execution: Option<Execution>,
        bound: usize,
        frame_bytes: usize,
    ) -> Self {
        Self {
            key,
            outbox: Outbox::new(bound),
            most_frames: u64::try_from(bound / FRAME_COST).unwrap_or(u64::MAX).max(1),
            frame_bytes,
            acknowledged: 0,
            execution,
            started: None,
            started_sent: false,
            result: None,
            result_sent: false,
            abandoned: false,
            slowed: false,
        }
    }

    /// Which attempt.
    #[must_use]
    pub fn key(&self) -> AttemptKey {
        self.key
    }

    /// The next event of the command, as soon as there is room for one. Safe to cancel.
    pub async fn next_event(&mut self) -> Event {
        let has_room = self.has_room();
        if has_room == self.slowed {
            self.slowed = !has_room;
            if self.slowed {
                tracing::warn!(attempt = %self.key, "too much output is not acknowledged: the job waits");
            } else {
                tracing::info!(attempt = %self.key, "output is read again");
            }
        }
        let event = match &mut self.execution {
            Some(execution) if has_room => execution.next().await,
            _ => None,
        };
        match event {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    fn has_room(&self) -> bool {
        let held = self.outbox.last_sequence() - self.acknowledged;
        self.outbox.has_room(self.frame_bytes) && held < self.most_frames
    }

    /// Takes an event of the command.
    pub fn on_event(&mut self, event: Event) {
        match event {
            Event::Started(time) => self.started = Some(time),
            Event::Output { stream, time, data } => {
                if let Err(error) = self.outbox.push(stream, time, data) {
                    tracing::error!(attempt = %self.key, %error, "output came without room for it");
                }
            }
            Event::Ended { outcome, time } => {
                self.execution = None;
                match outcome {
                    Some(outcome) => {
                        tracing::info!(attempt = %self.key, %outcome, "the command ended");
                        self.end(&outcome, time);
                    }
                    None => {
                        tracing::warn!(attempt = %self.key, "the command was stopped: this worker leaves");
                        self.abandoned = true;
                    }
                }
            }
        }
    }

    fn end(&mut self, outcome: &Outcome, time: Timestamp) {
        self.result = Some(AttemptResult {
            attempt: Some(self.key.into()),
            outcome: Some(outcome.into()),
            last_sequence: self.outbox.last_sequence(),
            started_at: self.started.map(timestamp),
            finished_at: Some(timestamp(time)),
        });
    }

    /// Whether it was given up because the worker leaves, and the server has all of its output.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.abandoned && self.outbox.is_drained()
    }

    /// Stops the command, if it still runs.
    pub fn stop(&self, stop: Stop) {
        if let Some(execution) = &self.execution {
            execution.stop(stop);
        }
    }

    /// Kills the command, if it still runs, and waits until it is gone.
    pub async fn kill(self) {
        if let Some(execution) = self.execution {
            execution.kill().await;
        }
    }

    /// A new link begins, and the server has everything up to `sequence`.
    pub fn resume_after(&mut self, sequence: u64) {
        self.acknowledge(sequence);
        self.outbox.resume_after(self.acknowledged);
        self.started_sent = false;
        self.result_sent = false;
    }

    /// The server has everything up to `sequence`.
    pub fn acknowledge(&mut self, sequence: u64) {
        if sequence > self.outbox.last_sequence() {
            let last = self.outbox.last_sequence();
            tracing::error!(attempt = %self.key, sequence, last, "a frame never made was acknowledged");
        }
        self.acknowledged = self.acknowledged.max(sequence.min(self.outbox.last_sequence()));
        self.outbox.acknowledge(self.acknowledged);
    }

    /// Whether something waits to be sent on the present link.
    #[must_use]
    pub fn has_message(&self) -> bool {
        self.owes_start() || self.outbox.has_unsent() || self.owes_result()
    }

    /// What to send next: the start, then output, then the result.
    pub fn next_message(&mut self) -> Option<Message> {
        if self.owes_start() {
            self.started_sent = true;
            let (attempt, time) = (Some(self.key.into()), self.started.map(timestamp));
            return Some(Message::Started(AttemptStarted { attempt, time }));
        }
        if self.outbox.has_unsent() {
            let frames: Vec<Frame> = self.outbox.take_unsent(BATCH_FRAMES);
            let frames = frames.into_iter().map(frame_to_wire).collect();
            return Some(Message::Logs(LogBatch { attempt: Some(self.key.into()), frames }));
        }
        if self.owes_result() {
            self.result_sent = true;
            return self.result.clone().map(Message::Result);
        }
        None
    }

    fn owes_start(&self) -> bool {
        self.started.is_some() && !self.started_sent
    }

    fn owes_result(&self) -> bool {
        self.result.is_some() && !self.result_sent
    }
}

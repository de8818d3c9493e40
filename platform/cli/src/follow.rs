//! Following a job's output and state through broken links, without losing or repeating a byte.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hodei_proto::v1::{self, OutputStream, StreamLogsRequest, StreamLogsResponse, WatchJobRequest};
use tokio::time::Instant;
use tonic::Status;

use crate::{
    failure::Failure,
    gap::Lost,
    screen::Screen,
    server::{PATIENCE, Server, backoff, may_pass},
    view::plain,
};

/// The first piece of output that was not shown yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// 0: the first attempt.
    pub(crate) epoch: u32,
    pub(crate) sequence: u64,
}

impl Position {
    pub(crate) const START: Self = Self { epoch: 0, sequence: 1 };

    /// Behind this piece.
    fn after(epoch: u32, sequence: u64) -> Self {
        Self { epoch, sequence: sequence.saturating_add(1) }
    }

    /// As flags of `hodei job logs`.
    fn as_flags(self) -> String {
        if self == Self::START {
            return String::new();
        }
        format!(" --from-attempt {} --from-sequence {}", self.epoch, self.sequence)
    }
}

/// Patience with a server that is away: some time, and growing pauses.
struct Patience {
    since: Instant,
    delays: backon::ExponentialBackoff,
}

impl Patience {
    fn new() -> Self {
        Self { since: Instant::now(), delays: backoff() }
    }

    /// Waits before the next try, or says that it has been enough.
    async fn wait(&mut self) -> bool {
        let delay = self.delays.next().unwrap_or_default();
        if self.since.elapsed() + delay > PATIENCE {
            return false;
        }
        tokio::time::sleep(delay).await;
        true
    }
}

/// One job's output on its way to the screen.
#[derive(Debug)]
pub(crate) struct Follower<'a> {
    server: &'a Server,
    screen: &'a Screen,
    job: &'a str,
    position: Position,
    follow: bool,
    /// What was shown last is not a whole line.
    mid_line: bool,
}

impl<'a> Follower<'a> {
    pub(crate) fn new(
        server: &'a Server,
        screen: &'a Screen,
        job: &'a str,
        position: Position,
        follow: bool,
    ) -> Self {
        Self { server, screen, job, position, follow, mid_line: false }
    }

    /// Shows all output: what there is, or with `follow` until the job has ended. Counts what it
    /// shows in `progress`.
    pub(crate) async fn run(mut self, progress: &AtomicU64) -> Result<(), Failure> {
        let mut patience = Patience::new();
        loop {
            let before = self.position;
            let cause = match self.stream(progress).await? {
                None if !self.follow || self.is_over().await? => return Ok(()),
                None => "the log ended before the job".to_owned(),
                Some(status) if may_pass(&status) => in_words(&status),
                Some(status) => return Err(self.server.failure(&status)),
            };
            if self.position != before {
                patience = Patience::new();
            }
            if !patience.wait().await {
                let (job, from) = (self.job.to_owned(), self.position.as_flags());
                return Err(Failure::Lost { job, cause, from });
            }
        }
    }

    /// One stream, from the position to its end; what ended it if it did not end well.
    async fn stream(&mut self, progress: &AtomicU64) -> Result<Option<Status>, Failure> {
        let request = StreamLogsRequest {
            job_id: self.job.to_owned(),
            from_epoch: self.position.epoch,
            from_sequence: self.position.sequence,
            follow: self.follow,
        };
        let mut stream = match self.server.logs().stream(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ok(Some(status)),
        };
        loop {
            match stream.message().await {
                Ok(Some(response)) => {
                    progress.fetch_add(1, Ordering::Relaxed);
                    self.show(response).await?;
                }
                Ok(None) => return Ok(None),
                Err(status) => return Ok(Some(status)),
            }
        }
    }

    async fn show(&mut self, response: StreamLogsResponse) -> Result<(), Failure> {
        let mut lost: Option<Lost> = None;
        for frame in response.frames {
            let next = Position::after(response.epoch, frame.sequence);
            let shown =
                self.position.epoch == response.epoch && frame.sequence < self.position.sequence;
            if shown {
                continue;
            }
            if let Some(here) = Lost::of(&frame) {
                lost = Some(lost.map_or(here, |before| before.and(here)));
            } else {
                self.show_lost(lost.take()).await?;
            }
            let stream = frame.stream();
            self.mid_line = frame.data.last().map_or(self.mid_line, |last| *last != b'\n');
            self.screen.show(stream, frame.data).await?;
            self.position = next;
        }
        self.show_lost(lost).await
    }

    /// Says between the pieces of output, on stderr, what is lost there.
    async fn show_lost(&mut self, lost: Option<Lost>) -> Result<(), Failure> {
        let Some(lost) = lost else { return Ok(()) };
        let begin = if std::mem::take(&mut self.mid_line) { "\n" } else { "" };
        let line = Bytes::from(format!("{begin}{}", lost.line()));
        self.screen.show(OutputStream::Stderr, line).await
    }

    async fn is_over(&self) -> Result<bool, Failure> {
        Ok(is_final(get(self.server, self.job).await?.state()))
    }
}

/// The job as it is.
pub(crate) async fn get(server: &Server, id: &str) -> Result<v1::Job, Failure> {
    let (jobs, request) = (server.jobs(), v1::GetJobRequest { id: id.to_owned() });
    let response = server.call(|| {
        let (mut jobs, request) = (jobs.clone(), request.clone());
        async move { jobs.get(request).await }
    });
    required(response.await?.job)
}

/// A field the server always fills.
pub(crate) fn required<T>(field: Option<T>) -> Result<T, Failure> {
    field.ok_or_else(|| Failure::Local {
        what: "the server's answer has no job in it".to_owned(),
        help: "Is the server of the same version as this command?".to_owned(),
    })
}

/// Whether nothing can happen to a job any more.
pub(crate) fn is_final(state: v1::JobState) -> bool {
    state.to_core().is_some_and(hodei_core::job::JobState::is_final)
}

/// Watches a job until its final state, telling each change once, through broken links too.
pub(crate) async fn watch(
    server: &Server,
    id: &str,
    mut on_change: impl FnMut(&v1::Job) -> Result<(), Failure>,
) -> Result<v1::Job, Failure> {
    let (mut patience, mut version) = (Patience::new(), None);
    loop {
        let cause = match server.jobs().watch(WatchJobRequest { id: id.to_owned() }).await {
            Err(status) if !may_pass(&status) => return Err(server.failure(&status)),
            Err(status) => in_words(&status),
            Ok(response) => {
                let mut changes = response.into_inner();
                loop {
                    match changes.message().await {
                        Ok(Some(change)) => {
                            patience = Patience::new();
                            let job = required(change.job)?;
                            if version.replace(job.version) != Some(job.version) {
                                on_change(&job)?;
                            }
                            if is_final(job.state()) {
                                return Ok(job);
                            }
                        }
                        Ok(None) => break "the watch ended before the job".to_owned(),
                        Err(status) if !may_pass(&status) => return Err(server.failure(&status)),
                        Err(status) => {
                            break in_words(&status);
                        }
                    }
                }
            }
        };
        if !patience.wait().await {
            return Err(Failure::Lost { job: id.to_owned(), cause, from: String::new() });
        }
    }
}

/// What a server said of a failure that may pass.
fn in_words(status: &Status) -> String {
    format!("{:?}: {}", status.code(), plain(status.message()))
}

#[cfg(test)]
mod outside_input {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_place_behind_any_piece_can_be_asked_for(
            epoch in any::<u32>(), sequence in prop_oneof![any::<u64>(), Just(u64::MAX)],
        ) {
            let next = Position::after(epoch, sequence);
            prop_assert!(next.epoch == epoch && next.sequence >= sequence);
            let flags = next.as_flags();
            prop_assert!(next == Position::START || flags.contains(&next.sequence.to_string()));
        }
    }
}

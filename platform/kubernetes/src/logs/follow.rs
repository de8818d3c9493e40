//! The agent's own log as it is written. What was told already is for `resume`, the lines for
//! `lines`; here is when to ask, when to wait, and when it is over.
//!
//! A piece that the kubelet ends by itself proves nothing: it may stop after a rotation. So once
//! the shared watch says that the container has ended, the log is asked for once more, without
//! following, and what that piece has at its end is the end. A piece that says nothing for [`QUIET`] is
//! asked for anew, for a connection may die without a word.

use std::{collections::VecDeque, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use hodei_core::{
    failure::FailureCause,
    provider::{LogEntry, LogQuery, ProviderError, WorkerHandle},
};
use k8s_openapi::api::core::v1::Pod;
use kube::core::subresource::LogParams;
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    has_no_log_yet, is_gone,
    lines::Lines,
    resume::{GAP, Resume},
};
use crate::{
    api::{ApiFailure, Call, ClusterApi, RetryPolicy},
    names::CONTAINER,
    phase::LogState,
    watch::{LogView, WatchReader},
};

const OPERATION: &str = "follow worker log";

/// How long a piece may say nothing; less than what `connect` lets a connection be silent.
const QUIET: Duration = Duration::from_secs(50);

type Piece = BoxStream<'static, Result<Bytes, ApiFailure>>;

/// Follows a log; see [`hodei_core::provider::WorkerProvider::follow_worker_logs`].
pub(super) struct Follow {
    api: ClusterApi,
    watch: WatchReader,
    handle: WorkerHandle,
    query: LogQuery,
    resume: Resume,
    lines: Lines,
    ready: VecDeque<LogEntry>,
    /// The answer that is being read, and whether its end is the log's.
    piece: Option<(Piece, bool)>,
    /// Whether the last piece came to its own end.
    whole: bool,
    retry: RetryPolicy,
    delays: ExponentialBackoff,
    over: bool,
}

impl Follow {
    pub(super) fn new(
        api: ClusterApi,
        watch: WatchReader,
        handle: WorkerHandle,
        query: LogQuery,
    ) -> Self {
        let retry = api.retry();
        Self {
            api,
            watch,
            handle,
            query,
            resume: Resume::new(query),
            lines: Lines::default(),
            ready: VecDeque::new(),
            piece: None,
            whole: false,
            retry,
            delays: make_delays(retry),
            over: false,
        }
    }

    pub(super) fn into_stream(self) -> BoxStream<'static, Result<LogEntry, ProviderError>> {
        futures::stream::unfold(self, |mut follow| async move {
            let item = follow.next().await?;
            Some((item, follow))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<LogEntry, ProviderError>> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Some(Ok(entry));
            }
            if self.over {
                return None;
            }
            let step = match self.piece.take() {
                Some(piece) => self.read(piece).await,
                None => self.open().await,
            };
            if let Err(error) = step {
                self.over = true;
                return Some(Err(error));
            }
        }
    }

    /// Asks for the next piece, or waits until it makes sense to.
    async fn open(&mut self) -> Result<(), ProviderError> {
        let seen = self.watch.log_of(&self.handle);
        let last = match seen {
            LogView::Closed => return Err(self.closed()),
            LogView::Gone(state) => return self.end_of_gone(state),
            LogView::Here(LogState::NotStarted) if !self.query.previous => {
                self.watch.await_other(&self.handle, seen).await;
                return Ok(());
            }
            LogView::Here(LogState::Ended) => true,
            LogView::Here(_) | LogView::Unknown => self.query.previous,
        };
        let fail = |failure: ApiFailure| failure.into_error(OPERATION, &self.handle.resource);
        let call = self.call(last).map_err(fail)?;
        match self.api.open(&call).await {
            Ok(piece) => {
                self.lines.clear();
                self.whole = false;
                self.resume.piece_began();
                self.piece = Some((piece, last));
            }
            Err(failure) if failure.is_not_found() => return self.end_of_gone(None),
            // An image that is gone, or a pod that was refused by its node, leaves no log.
            Err(failure) if has_no_log_yet(&failure) && last => self.over = true,
            Err(failure) if has_no_log_yet(&failure) || failure.is_retriable() => {
                tracing::debug!(worker_id = %self.handle.worker, %failure, "no log yet");
                self.pause(seen, failure.retry_after()).await;
            }
            Err(failure) => return Err(fail(failure)),
        }
        Ok(())
    }

    fn call(&self, last: bool) -> Result<Call, ApiFailure> {
        let begun = self.resume.has_begun();
        let params = LogParams {
            container: Some(CONTAINER.to_owned()),
            follow: !last,
            previous: self.query.previous,
            tail_lines: self.query.tail.filter(|_| !begun).map(i64::from),
            since_time: self.resume.ask_since(),
            timestamps: true,
            ..LogParams::default()
        };
        Call::new(self.api.requests::<Pod>().logs(&self.handle.resource, &params))
    }

    /// Reads on; the piece is kept unless it is over.
    async fn read(&mut self, (mut piece, last): (Piece, bool)) -> Result<(), ProviderError> {
        match timeout(QUIET, piece.next()).await {
            Ok(Some(Ok(bytes))) => {
                let Self { lines, resume, ready, .. } = self;
                lines.push(&bytes, |line| resume.take(&line, |entry| ready.push_back(entry)));
                if !ready.is_empty() {
                    self.delays = make_delays(self.retry);
                }
                self.piece = Some((piece, last));
            }
            Ok(Some(Err(failure))) => {
                tracing::debug!(worker_id = %self.handle.worker, %failure, "the log was cut off");
                self.pause(self.watch.log_of(&self.handle), None).await;
            }
            Ok(None) if last => self.end(),
            Ok(None) => {
                self.whole = true;
                let seen = self.watch.log_of(&self.handle);
                if seen == LogView::Here(LogState::Running) || seen == LogView::Unknown {
                    self.pause(seen, None).await;
                }
            }
            // The way may be broken without a sign; asking again is not hurried.
            Err(_) => {}
        }
        Ok(())
    }

    /// Waits for a while that grows and is random, but no longer than until the watch says something
    /// else of this worker.
    async fn pause(&mut self, seen: LogView, asked: Option<Duration>) {
        let own = self.delays.next().unwrap_or(self.retry.longest);
        let until = Instant::now() + own.max(asked.unwrap_or_default().min(self.retry.longest));
        if asked.is_some() {
            return sleep_until(until).await;
        }
        tokio::select! {
            () = self.watch.await_other(&self.handle, seen) => {}
            () = sleep_until(until) => {}
        }
    }

    /// The pod is gone: that is the end if all was read, or if there was nothing to read.
    fn end_of_gone(&mut self, state: Option<LogState>) -> Result<(), ProviderError> {
        if !self.whole && state != Some(LogState::NotStarted) {
            return Err(is_gone(OPERATION, &self.handle));
        }
        self.end();
        Ok(())
    }

    fn end(&mut self) {
        self.over = true;
        let Self { lines, resume, ready, .. } = self;
        if let Some(line) = lines.finish() {
            resume.take(&line, |entry| ready.push_back(entry));
        }
        if resume.is_behind() {
            ready.push_back(LogEntry { time: None, line: GAP.to_owned() });
        }
    }

    fn closed(&self) -> ProviderError {
        ProviderError {
            operation: OPERATION,
            subject: self.handle.resource.clone(),
            failure: hodei_core::failure::Failure {
                cause: FailureCause::ApiUnavailable,
                message: "the provider was closed".to_owned(),
            },
            retry_after: None,
            source: None,
        }
    }
}

fn make_delays(retry: RetryPolicy) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(retry.first)
        .with_max_delay(retry.longest)
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;

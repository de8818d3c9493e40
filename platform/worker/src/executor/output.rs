//! Both outputs of a command, read apart and in the order they become readable.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hodei_core::session::OutputStream;
use jiff::Timestamp;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{ChildStderr, ChildStdout},
    sync::mpsc,
};

use super::Event;

/// What is left to read of both pipes.
#[derive(Debug)]
pub(super) struct Output {
    stdout: Option<Pipe<ChildStdout>>,
    stderr: Option<Pipe<ChildStderr>>,
    frame_bytes: usize,
}

#[derive(Debug)]
struct Pipe<R> {
    reader: R,
    buffer: BytesMut,
}

impl Output {
    pub(super) fn new(
        stdout: Option<ChildStdout>,
        stderr: Option<ChildStderr>,
        frame_bytes: usize,
    ) -> Self {
        Self {
            stdout: stdout.map(|reader| Pipe { reader, buffer: BytesMut::new() }),
            stderr: stderr.map(|reader| Pipe { reader, buffer: BytesMut::new() }),
            frame_bytes: frame_bytes.max(1),
        }
    }

    /// Whether a writer may still be there.
    pub(super) fn is_open(&self) -> bool {
        self.stdout.is_some() || self.stderr.is_some()
    }

    /// Reads no more.
    pub(super) fn close(&mut self) {
        (self.stdout, self.stderr) = (None, None);
    }

    /// Moves one piece on, once there is room for it; the bytes moved, 0 at the end of a pipe.
    /// With an `idle` limit both pipes are closed when nothing can be read for that long. Safe to
    /// cancel: what was read has been sent.
    pub(super) async fn forward(
        &mut self,
        to: &mpsc::Sender<Event>,
        idle: Option<Duration>,
    ) -> usize {
        let Ok(permit) = to.reserve().await else {
            self.close();
            return 0;
        };
        let read = match idle {
            None => Some(self.read().await),
            Some(limit) => tokio::time::timeout(limit, self.read()).await.ok(),
        };
        let Some((stream, data)) = read else {
            self.close();
            return 0;
        };
        let bytes = data.len();
        if bytes > 0 {
            permit.send(Event::Output { stream, time: Timestamp::now(), data });
        }
        bytes
    }

    async fn read(&mut self) -> (OutputStream, Bytes) {
        let most = self.frame_bytes;
        tokio::select! {
            data = read(&mut self.stdout, most), if self.stdout.is_some() => (OutputStream::Stdout, data),
            data = read(&mut self.stderr, most), if self.stderr.is_some() => (OutputStream::Stderr, data),
            else => (OutputStream::Stdout, Bytes::new()),
        }
    }
}

/// Whatever is there, at most `most` bytes; nothing at the end, and the pipe is closed then.
async fn read<R: AsyncRead + Unpin>(pipe: &mut Option<Pipe<R>>, most: usize) -> Bytes {
    let Some(Pipe { reader, buffer }) = pipe else { return Bytes::new() };
    // Small pieces share one allocation; a new one is made when less than a quarter is left of it.
    if buffer.capacity() < most.div_ceil(4) {
        buffer.reserve(most);
    }
    let room = buffer.capacity().min(most);
    match reader.take(u64::try_from(room).unwrap_or(u64::MAX)).read_buf(buffer).await {
        Ok(0) => *pipe = None,
        Ok(_) => return buffer.split().freeze(),
        Err(error) => {
            tracing::warn!(%error, "an output pipe could not be read");
            *pipe = None;
        }
    }
    Bytes::new()
}

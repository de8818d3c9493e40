//! The job's output on this terminal or pipe: raw bytes, each to its own stream, flushed as they come.
//!
//! Writing happens on a thread of its own, so that a slow reader never keeps Ctrl-C from being seen.

use std::{
    io::{self, Write as _},
    thread,
};

use bytes::Bytes;
use hodei_proto::v1::OutputStream;
use tokio::sync::mpsc;

use crate::{failure::Failure, view::one_line};

/// Pieces on their way to the screen; more would only hide a slow reader.
const QUEUE: usize = 16;

/// Where output goes.
#[derive(Debug)]
pub(crate) struct Screen {
    pieces: mpsc::Sender<(OutputStream, Bytes)>,
    writer: thread::JoinHandle<io::Result<()>>,
}

impl Screen {
    pub(crate) fn open() -> Self {
        let (pieces, mut written) = mpsc::channel::<(OutputStream, Bytes)>(QUEUE);
        let writer = thread::spawn(move || {
            while let Some((stream, data)) = written.blocking_recv() {
                match stream {
                    OutputStream::Stderr => write(&mut io::stderr().lock(), &data)?,
                    _ => write(&mut io::stdout().lock(), &data)?,
                }
            }
            Ok(())
        });
        Self { pieces, writer }
    }

    /// Shows a piece.
    pub(crate) async fn show(&self, stream: OutputStream, data: Bytes) -> Result<(), Failure> {
        self.pieces.send((stream, data)).await.map_err(|_| Failure::OutputClosed)
    }

    /// Waits until nobody reads the output any more.
    pub(crate) async fn closed(&self) {
        self.pieces.closed().await;
    }

    /// Waits until all is written.
    pub(crate) async fn finish(self) -> Result<(), Failure> {
        drop(self.pieces);
        let writer = self.writer;
        let written = tokio::task::spawn_blocking(move || writer.join()).await;
        match written {
            Ok(Ok(Ok(()))) => Ok(()),
            _ => Err(Failure::OutputClosed),
        }
    }
}

fn write(to: &mut impl io::Write, data: &[u8]) -> io::Result<()> {
    to.write_all(data)?;
    to.flush()
}

/// Prints an answer of the command itself.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|_| Failure::OutputClosed)
}

/// Says something about what goes on, in one line; never part of an answer.
pub(crate) fn note(text: &str) {
    // If nobody reads stderr there is nobody to tell.
    let _ = writeln!(io::stderr().lock(), "hodei: {}", one_line(text));
}

/// Says what went wrong and what to do.
pub(crate) fn report(failure: Failure) {
    let _ = writeln!(io::stderr().lock(), "{:?}", miette::Report::new(failure));
}

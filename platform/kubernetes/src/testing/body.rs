//! Bodies that come in pieces, break, or never end.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};

pub(crate) type FakeBody = UnsyncBoxBody<Bytes, io::Error>;

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Whole,
    Broken,
    /// It does not: nothing comes any more.
    Never,
}

/// A body in pieces.
#[derive(Debug, Clone)]
pub(crate) struct Streamed {
    pub(crate) chunks: Vec<Vec<u8>>,
    pub(crate) end: End,
    /// Held while the body is being read.
    pub(crate) alive: Arc<()>,
}

impl Streamed {
    pub(crate) fn new(text: impl Into<Vec<u8>>, end: End) -> Self {
        Self { chunks: vec![text.into()], end, alive: Arc::default() }
    }

    pub(super) fn into_body(self) -> FakeBody {
        let chunks = self.chunks.into_iter().map(|chunk| Ok(Frame::data(Bytes::from(chunk))));
        let end = match self.end {
            End::Whole => stream::empty().boxed(),
            End::Broken => stream::iter([Err(io::Error::other("connection reset"))]).boxed(),
            End::Never => stream::pending().boxed(),
        };
        let alive = self.alive;
        let frames = stream::iter(chunks).chain(end).inspect(move |_| _ = &alive);
        StreamBody::new(frames).boxed_unsync()
    }
}

/// A body that is there at once.
pub(super) fn full(text: String) -> FakeBody {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

/// A body that begins at once, and comes when it is known.
pub(super) fn later(text: impl Future<Output = String> + Send + 'static) -> FakeBody {
    let text = stream::once(text).map(|text| Ok(Frame::data(Bytes::from(text))));
    StreamBody::new(text).boxed_unsync()
}

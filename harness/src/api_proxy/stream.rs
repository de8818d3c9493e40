//! The body of an answer on its way through, and what can happen to it there.

use bytes::Bytes;
use futures::Stream;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::client::Body;
use tokio::sync::watch;

use super::fault::{WatchFault, expired_event};

/// The error type of bodies.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// A body that this proxy sends.
pub(super) type ProxyBody = UnsyncBoxBody<Bytes, BodyError>;

/// Ends a connection without a word.
#[derive(Debug, thiserror::Error)]
#[error("the fault proxy broke this connection")]
pub(super) struct Cut;

/// How far a body came.
enum Passing {
    Open(Body, watch::Receiver<Option<WatchFault>>),
    Breaking,
    Over,
}

/// Passes a body on until an order comes.
pub(super) fn obeying(body: Body, orders: watch::Receiver<Option<WatchFault>>) -> ProxyBody {
    BodyExt::boxed_unsync(StreamBody::new(pass(Passing::Open(body, orders))))
}

/// Passes on half of the first line and breaks the connection.
pub(super) fn truncated(body: Body) -> ProxyBody {
    let (sender, orders) = watch::channel(Some(WatchFault::Truncate));
    drop(sender);
    obeying(body, orders)
}

fn pass(from: Passing) -> impl Stream<Item = Result<Frame<Bytes>, BodyError>> + Send {
    futures::stream::unfold(from, async |state| {
        let (mut body, mut orders) = match state {
            Passing::Over => return None,
            Passing::Breaking => {
                // What was passed on is sent before the connection breaks.
                tokio::task::yield_now().await;
                return Some((Err(Cut.into()), Passing::Over));
            }
            Passing::Open(body, orders) => (body, orders),
        };
        loop {
            let order = *orders.borrow_and_update();
            match order {
                Some(WatchFault::End) => return None,
                Some(WatchFault::Stall) => std::future::pending::<()>().await,
                Some(WatchFault::Expire) => {
                    let event = Frame::data(Bytes::from(expired_event()));
                    return Some((Ok(event), Passing::Over));
                }
                Some(WatchFault::Truncate) | None => {}
            }
            let frame = tokio::select! {
                biased;
                Ok(()) = orders.changed() => continue,
                frame = body.frame() => frame?,
            };
            return Some(match frame {
                Err(error) => (Err(error.into()), Passing::Over),
                Ok(frame) if order == Some(WatchFault::Truncate) && frame.is_data() => {
                    let data = frame.into_data().unwrap_or_default();
                    (Ok(Frame::data(half_line(&data))), Passing::Breaking)
                }
                Ok(frame) => (Ok(frame), Passing::Open(body, orders)),
            });
        }
    })
}

/// The first half of the first line: never a whole one.
fn half_line(data: &Bytes) -> Bytes {
    let line = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    data.slice(..line / 2)
}

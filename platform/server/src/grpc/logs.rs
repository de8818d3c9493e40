//! `LogStreamService`: a job's output from any position.

use std::sync::Arc;

use hodei_core::id::{Epoch, InvalidId};
use hodei_proto::v1::{
    StreamLogsRequest, StreamLogsResponse, log_stream_service_server::LogStreamService,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::unavailable;
use crate::{
    app::App,
    logs::follow::{FollowError, Position},
};

/// Pieces on their way to one follower; it falls back to the database beyond that.
const PIECES: usize = 2;
/// Largest number of frame bytes in one message: well under what clients take.
const MESSAGE_BYTES: usize = 512 << 10;

/// The service.
pub(super) struct LogsService {
    pub(super) app: Arc<App>,
}

#[tonic::async_trait]
impl LogStreamService for LogsService {
    type StreamStream = ReceiverStream<Result<StreamLogsResponse, Status>>;

    async fn stream(
        &self,
        request: Request<StreamLogsRequest>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let request = request.into_inner();
        let job = request
            .job_id
            .parse()
            .map_err(|error: InvalidId| Status::invalid_argument(error.to_string()))?;
        let position =
            Position { job, epoch: Epoch(request.from_epoch), sequence: request.from_sequence };
        match self.app.store.job(job).await {
            Ok(Some(_)) => {}
            Ok(None) => return Err(Status::not_found(format!("there is no job {job}"))),
            Err(error) => return Err(unavailable(error)),
        }
        let (out, stream) = mpsc::channel(PIECES);
        let (pieces, mut received) = mpsc::channel(1);
        let app = self.app.clone();
        self.app.tasks.spawn(async move {
            let forward = async {
                while let Some(piece) = received.recv().await {
                    for message in split(piece) {
                        if out.send(Ok(message)).await.is_err() {
                            return;
                        }
                    }
                }
            };
            let follow = app.logs.stream(position, request.follow, pieces);
            let both = async { tokio::join!(follow, forward).0 };
            let left = out.closed();
            let result = tokio::select! {
                result = both => result,
                () = left => Ok(()),
                () = app.stop.cancelled() => {
                    let _ = out.try_send(Err(Status::unavailable("the server is going away: follow again")));
                    Ok(())
                }
            };
            let status = match result {
                Ok(()) | Err(FollowError::Left) => None,
                Err(error) => Some(last_word(error)),
            };
            if let Some(status) = status {
                let _ = out.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// What a follower is told when its stream cannot go on.
fn last_word(error: FollowError) -> Status {
    let text = error.to_string();
    match error {
        FollowError::Store(error) => unavailable(error),
        FollowError::Left => Status::cancelled(text),
        FollowError::NoSuchJob => Status::not_found("the job is gone"),
        FollowError::Removed { .. } => Status::out_of_range(text),
        FollowError::Damaged { .. } => {
            tracing::error!(problem = text, "stored output cannot be read");
            Status::data_loss(text)
        }
        FollowError::Away(_) => {
            tracing::warn!(problem = text, "the log store does not answer");
            Status::unavailable("the log store does not answer; try again")
        }
    }
}

/// Cuts a piece into messages of a bounded size; no frame is cut.
fn split(piece: StreamLogsResponse) -> Vec<StreamLogsResponse> {
    let mut messages = Vec::with_capacity(1);
    let mut frames = Vec::new();
    let mut bytes = 0;
    for frame in piece.frames {
        let size = frame.data.len() + 64;
        if bytes + size > MESSAGE_BYTES && !frames.is_empty() {
            messages.push(StreamLogsResponse {
                epoch: piece.epoch,
                frames: std::mem::take(&mut frames),
            });
            bytes = 0;
        }
        bytes += size;
        frames.push(frame);
    }
    messages.push(StreamLogsResponse { epoch: piece.epoch, frames });
    messages
}

#[cfg(test)]
mod tests {
    use hodei_proto::v1::LogFrame;

    use super::*;

    #[test]
    fn no_message_is_too_large_and_no_frame_is_lost() {
        let frame =
            |sequence| LogFrame { sequence, data: vec![0; 60 << 10].into(), ..Default::default() };
        let piece = StreamLogsResponse { epoch: 1, frames: (1..=40).map(frame).collect() };
        let messages = split(piece);
        assert!(messages.len() > 1);
        let sequences: Vec<_> =
            messages.iter().flat_map(|m| &m.frames).map(|frame| frame.sequence).collect();
        assert_eq!(sequences, (1..=40).collect::<Vec<_>>());
        assert!(messages.iter().all(|m| m.frames.len() <= 8));
    }
}

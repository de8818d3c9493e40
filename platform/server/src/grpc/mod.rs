//! The gRPC face: `hodei.v1`, health and reflection. Each service only translates; what it means is
//! decided elsewhere.

mod agent;
mod jobs;
mod logs;
mod present;
pub(crate) mod serve;

use tonic::Status;

use crate::store::StoreError;

/// What a client is told when the database fails: that it may try again, and nothing about it.
fn unavailable(error: StoreError) -> Status {
    tracing::error!(%error, "a request failed");
    match error {
        StoreError::Database(_) => Status::unavailable("the database does not answer; try again"),
        _ => Status::internal("the request could not be carried out"),
    }
}

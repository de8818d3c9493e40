//! The gRPC face: `hodei.v1`, health and reflection. Each service only translates; what it means is
//! decided elsewhere.

mod agent;
mod jobs;
mod logs;
mod present;
pub(crate) mod serve;

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::store::StoreError;

/// What a client is told when the database fails: that it may try again, and nothing about it.
fn unavailable(error: StoreError) -> Status {
    tracing::error!(%error, "a request failed");
    match error {
        StoreError::Database(_) => Status::unavailable("the database does not answer; try again"),
        _ => Status::internal("the request could not be carried out"),
    }
}

/// What a peer is told that asks too often: when to try again, for programs too (`google.rpc.RetryInfo`).
fn too_many(what: &str, wait: Duration) -> Status {
    let text = format!("too many {what}; try again in {} s", wait.as_secs() + 1);
    let details = ErrorDetails::with_retry_info(Some(wait));
    Status::with_error_details(Code::ResourceExhausted, text, details)
}

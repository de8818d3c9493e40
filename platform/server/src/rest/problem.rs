//! Errors as `application/problem+json` (RFC 9457).

use axum::{
    Json,
    extract::rejection::{JsonRejection, PathRejection, QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::store::StoreError;

/// Media type of a problem.
pub(super) const MEDIA_TYPE: &str = "application/problem+json";

/// Why a request failed (RFC 9457). Some problems have members of their own: `field`, `stage`, `cause`,
/// `workers`, `retry_after_seconds`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProblemBody {
    /// URI of the kind of problem.
    #[serde(rename = "type")]
    kind: String,
    /// The status in words.
    title: &'static str,
    /// The status.
    status: u16,
    /// What is wrong, and what would be right.
    detail: String,
    #[serde(flatten)]
    #[schema(ignore)]
    more: Map<String, Value>,
}

/// A problem: a status, a kind that programs can tell, a detail for a person, and whatever more helps.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    kind: &'static str,
    detail: String,
    more: Map<String, Value>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, detail: detail.into(), more: Map::new() }
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-request", detail)
    }

    /// A parameter of the query that is not what it should be.
    pub(super) fn query(field: &str, problem: impl std::fmt::Display) -> Self {
        let detail = format!("{field}: {problem}");
        Self::new(StatusCode::BAD_REQUEST, "invalid-query", detail).with("field", json!(field))
    }

    /// Adds a member of its own.
    pub(crate) fn with(mut self, name: &str, value: Value) -> Self {
        self.more.insert(name.to_owned(), value);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = ProblemBody {
            kind: format!("https://hodei.io/problems/{}", self.kind),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: self.detail,
            more: self.more,
        };
        let content_type = [(header::CONTENT_TYPE, MEDIA_TYPE)];
        (self.status, content_type, Json(body).into_response().into_body()).into_response()
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a request failed");
        let detail = "the database does not answer; try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "database-unavailable", detail)
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), "invalid-body", rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), "invalid-query", rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), "invalid-path", rejection.body_text())
    }
}

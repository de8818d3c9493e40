//! The pool of a registered provider: `PUT /api/providers/{name}/pool` sets its bounds, `DELETE` removes it.
//! Idle workers that have no place any more go; a busy one goes when its job has ended.

use std::sync::Arc;

use axum::{
    Json,
    extract::{
        Path, State,
        rejection::{JsonRejection, PathRejection},
    },
    http::StatusCode,
};
use serde_json::{Value, json};

use super::{
    problem::{Problem, ProblemBody},
    providers::{no_such_provider, parse_name},
};
use crate::{app::App, pool::Pool};

/// The pool that a request describes.
pub(super) fn parse_pool(value: &Value) -> Result<Pool, Problem> {
    Pool::from_json(value)
        .map_err(|invalid| Problem::invalid(invalid.to_string()).with("mistakes", json!(invalid.0)))
}

/// Sets the bounds of a provider's pool. Idle workers that have no place any more go.
#[utoipa::path(
    put, path = "/api/providers/{name}/pool", operation_id = "setPool", tag = "providers",
    params(("name" = String, Path, description = "Name of the provider")),
    request_body(
        content = Object,
        description = "`minimum`, `maximum`, `idle_seconds` (300), `maximum_age_seconds` (86400)"
    ),
    responses(
        (status = 200, description = "The bounds from now on", body = Pool),
        (status = 400, description = "The body is not JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such provider", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "Its pool is set by the server's environment", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "Bounds that cannot be; every mistake is named", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn set(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
    body: Result<Json<Value>, JsonRejection>,
) -> Result<Json<Pool>, Problem> {
    let (Path(name), Json(value)) = (name?, body?);
    let pool = parse_pool(&value)?;
    write(&app, &name, Some(pool)).await?;
    Ok(Json(pool))
}

/// Removes a provider's pool: each worker has one job then. Repeated, it changes nothing.
#[utoipa::path(
    delete, path = "/api/providers/{name}/pool", operation_id = "removePool", tag = "providers",
    params(("name" = String, Path, description = "Name of the provider")),
    responses(
        (status = 204, description = "It has no pool"),
        (status = 404, description = "There is no such provider", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "Its pool is set by the server's environment", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The name is not one", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Problem> {
    let Path(name) = name?;
    write(&app, &name, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn write(app: &App, name: &str, pool: Option<Pool>) -> Result<(), Problem> {
    let id = parse_name(name)?;
    let row = app.store.provider(&id).await?.ok_or_else(|| no_such_provider(&id))?;
    if row.from_environment {
        let detail = format!("the pool of {id} is set by HODEI_K8S_POOL_* of the server");
        return Err(Problem::new(StatusCode::CONFLICT, "provider-of-environment", detail));
    }
    let known = app.store.set_pool(&id, pool).await?;
    known.then_some(()).ok_or_else(|| no_such_provider(&id))
}

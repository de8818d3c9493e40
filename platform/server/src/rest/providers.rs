//! Registration of providers.
//!
//! `POST /api/providers` with `{"type", "name", "config"}` connects the provider and checks its health
//! before anything is stored. The same name with the same type and config answers 200 with what is
//! there; with another config 409: a change is a DELETE and a POST. Settings are not shown again.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Path, State, rejection::JsonRejection},
    http::StatusCode,
};
use hodei_core::{
    id::ProviderId,
    provider::{Unhealthy, WorkerProvider},
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::problem::Problem;
use crate::{
    app::App,
    registry::ConnectError,
    scheduler::roster::{CONNECT_TIMEOUT, attach},
    store::providers::{ProviderRow, Removal},
};

/// How long a provider may take to say what it can offer.
const CAPABILITIES_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Registration {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    #[serde(default = "empty")]
    config: Value,
}

fn empty() -> Value {
    json!({})
}

fn show_provider(app: &App, row: &ProviderRow) -> Value {
    let health = app.registry.health(&row.id);
    let checked_at = app.registry.get(&row.id).map(|entry| entry.checked_at);
    json!({
        "type": row.kind,
        "name": row.id,
        "source": if row.from_environment { "environment" } else { "api" },
        "created_at": row.created_at,
        "healthy": health.is_ok(),
        "problem": health.err(),
        "checked_at": checked_at,
        "health_age_seconds": checked_at.map(age_seconds),
    })
}

fn parse_name(name: &str) -> Result<ProviderId, Problem> {
    name.parse().map_err(|error| Problem::invalid(format!("name: {error}")))
}

fn no_such_provider(id: &ProviderId) -> Problem {
    let detail = format!("there is no provider {id}");
    Problem::new(StatusCode::NOT_FOUND, "no-such-provider", detail)
}

/// `POST /api/providers`
pub(super) async fn register(
    State(app): State<Arc<App>>,
    body: Result<Json<Registration>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let Json(Registration { kind, name, config }) = body?;
    let id = parse_name(&name)?;
    if !config.is_object() {
        return Err(Problem::invalid("config: must be an object"));
    }
    if let Some(row) = app.store.provider(&id).await? {
        return same_or_conflict(&app, &row, &kind, &config);
    }
    let provider = connect_and_check(&app, &id, &kind, &config).await?;
    let row = app.store.add_provider(&id, &kind, false, &config).await?;
    if row.kind != kind || row.config != config {
        return same_or_conflict(&app, &row, &kind, &config);
    }
    attach(&app, row.clone(), provider).await?;
    Ok((StatusCode::CREATED, Json(show_provider(&app, &row))))
}

fn same_or_conflict(
    app: &App,
    row: &ProviderRow,
    kind: &str,
    config: &Value,
) -> Result<(StatusCode, Json<Value>), Problem> {
    if row.kind == kind && row.config == *config && !row.from_environment {
        return Ok((StatusCode::OK, Json(show_provider(app, row))));
    }
    let detail = format!("provider {} is registered with another configuration", row.id);
    Err(Problem::new(StatusCode::CONFLICT, "provider-exists", detail))
}

async fn connect_and_check(
    app: &App,
    id: &ProviderId,
    kind: &str,
    config: &Value,
) -> Result<Arc<dyn WorkerProvider>, Problem> {
    let connecting = async {
        let provider = app.registry.factory.connect(id, kind, Some(config)).await?;
        provider.health_check().await?;
        Ok(provider)
    };
    match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(connected) => connected.map_err(refused),
        Err(_) => {
            let detail = format!("the provider gave no answer within {CONNECT_TIMEOUT:?}");
            Err(Problem::new(StatusCode::BAD_GATEWAY, "provider-unhealthy", detail))
        }
    }
}

fn refused(error: ConnectError) -> Problem {
    let detail = error.to_string();
    match error {
        ConnectError::UnknownKind(_) | ConnectError::Config(_) => Problem::invalid(detail),
        ConnectError::Unhealthy(Unhealthy { stage, .. }) => {
            Problem::new(StatusCode::BAD_GATEWAY, "provider-unhealthy", detail)
                .with("stage", json!(stage))
        }
        ConnectError::Provider(error) => {
            Problem::new(StatusCode::BAD_GATEWAY, "provider-failed", detail)
                .with("cause", json!(error.cause()))
        }
    }
}

/// `GET /api/providers`
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    let rows = app.store.providers().await?;
    let shown: Vec<_> = rows.iter().map(|row| show_provider(&app, row)).collect();
    Ok(Json(json!({"providers": shown})))
}

/// `GET /api/providers/{name}`: as in the list, with what it can offer. What it last said stands, with
/// its age, while it gives no answer.
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    let id = parse_name(&name)?;
    let row = app.store.provider(&id).await?.ok_or_else(|| no_such_provider(&id))?;
    let mut shown = show_provider(&app, &row);
    let problem = measure(&app, &id).await;
    let entry = app.registry.get(&id);
    let known = entry.and_then(|entry| entry.capabilities);
    shown["capabilities_age_seconds"] = json!(known.as_ref().map(|(_, at)| age_seconds(*at)));
    shown["capabilities"] = json!(known.map(|(capabilities, _)| capabilities));
    shown["capabilities_problem"] = json!(problem);
    Ok(Json(shown))
}

/// Asks a provider what it can offer; why it did not say so, if it did not.
async fn measure(app: &App, id: &ProviderId) -> Option<String> {
    let Some(entry) = app.registry.get(id) else { return Some("not connected".to_owned()) };
    match timeout(CAPABILITIES_TIMEOUT, entry.provider.capabilities()).await {
        Ok(Ok(capabilities)) => {
            app.registry.set_capabilities(id, capabilities);
            None
        }
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {CAPABILITIES_TIMEOUT:?}")),
    }
}

fn age_seconds(at: Timestamp) -> i64 {
    Timestamp::now().duration_since(at).as_secs().max(0)
}

/// `DELETE /api/providers/{name}`
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let id = parse_name(&name)?;
    match app.store.remove_provider(&id).await? {
        Removal::Removed => Ok(StatusCode::NO_CONTENT),
        Removal::Unknown => Err(no_such_provider(&id)),
        Removal::InUse(workers) => {
            let detail = format!("provider {id} still has {workers} workers");
            Err(Problem::new(StatusCode::CONFLICT, "provider-in-use", detail)
                .with("workers", json!(workers)))
        }
    }
}

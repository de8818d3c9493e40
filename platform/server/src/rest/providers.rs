//! Registration of providers.
//!
//! `POST /api/providers` with `{"type", "name", "config"}` connects the provider and checks its health
//! before anything is stored. The same name with the same type and config answers 200 with what is
//! there; with another config 409: a change is a DELETE and a POST. Settings are not shown again, but
//! for the bounds of its `pool`, if it was given one.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::StatusCode,
};
use hodei_core::{
    id::ProviderId,
    provider::{ProviderCapabilities, Unhealthy, WorkerProvider},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use utoipa::{IntoParams, ToSchema};

use super::{
    page::{cut, page_size, page_token},
    pool::parse_pool,
    problem::{Problem, ProblemBody},
};
use crate::{
    app::App,
    pool::Pool,
    registry::ConnectError,
    scheduler::roster::{CONNECT_TIMEOUT, attach},
    store::{
        notify::{Topic, changed_within},
        providers::{ProviderRow, Removal},
    },
};

/// How long a provider may take to say what it can offer.
const CAPABILITIES_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a removal waits for the idle workers of a pool to go.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(40);
const DRAIN_POLL: Duration = Duration::from_secs(1);

/// A provider to connect.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Registration {
    /// The adapter: `kubernetes`.
    #[serde(rename = "type")]
    kind: String,
    /// A DNS-1123 label.
    name: String,
    /// The adapter's settings; deploy/kubernetes/README.md lists them.
    #[serde(default = "empty")]
    #[schema(value_type = Object)]
    config: Value,
    /// Bounds of its pool: `minimum`, `maximum`, `idle_seconds` (300), `maximum_age_seconds` (86400).
    /// Absent: each worker has one job.
    #[schema(value_type = Option<Object>)]
    pool: Option<Value>,
}

/// A registered provider. Its settings are not shown.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Provider)]
pub(super) struct ProviderView {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    source: Source,
    created_at: Timestamp,
    /// Its pool, if its workers are pooled.
    pool: Option<Pool>,
    /// What its last health check said.
    healthy: bool,
    /// Why it is not healthy.
    problem: Option<String>,
    /// When that was checked.
    checked_at: Option<Timestamp>,
    health_age_seconds: Option<i64>,
}

/// Where a provider's settings come from.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ProviderSource)]
pub(super) enum Source {
    Environment,
    Api,
}

/// A provider, and what it can offer. What it last said stands, with its age, while it gives no answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProviderDetail)]
pub(super) struct DetailView {
    #[serde(flatten)]
    provider: ProviderView,
    #[schema(value_type = Option<Object>)]
    capabilities: Option<ProviderCapabilities>,
    capabilities_age_seconds: Option<i64>,
    /// Why it did not say now what it can offer.
    capabilities_problem: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Most providers of the page: 1 to 500, 50 if nothing is said.
    page_size: Option<u32>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

/// A page of providers, by name.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProviderPage)]
pub(super) struct Page {
    providers: Vec<ProviderView>,
    /// Token of the next page; `null` on the last.
    next_page_token: Option<String>,
}

fn empty() -> Value {
    json!({})
}

fn show_provider(app: &App, row: &ProviderRow) -> ProviderView {
    let health = app.registry.health(&row.id);
    let checked_at = app.registry.get(&row.id).map(|entry| entry.checked_at);
    ProviderView {
        kind: row.kind.clone(),
        name: row.id.to_string(),
        source: if row.from_environment { Source::Environment } else { Source::Api },
        created_at: row.created_at,
        pool: row.pool,
        healthy: health.is_ok(),
        problem: health.err(),
        checked_at,
        health_age_seconds: checked_at.map(age_seconds),
    }
}

pub(super) fn parse_name(name: &str) -> Result<ProviderId, Problem> {
    name.parse().map_err(|error| Problem::invalid(format!("name: {error}")))
}

pub(super) fn no_such_provider(id: &ProviderId) -> Problem {
    let detail = format!("there is no provider {id}");
    Problem::new(StatusCode::NOT_FOUND, "no-such-provider", detail)
}

/// Connects a provider, checks its health, and stores it.
///
/// The same registration again answers 200 with what is there; a change is a DELETE and a POST.
#[utoipa::path(
    post, path = "/api/providers", operation_id = "registerProvider", tag = "providers",
    request_body = Registration,
    responses(
        (status = 200, description = "It was registered so already", body = ProviderView),
        (status = 201, description = "It is registered", body = ProviderView),
        (status = 400, description = "The body is no JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The name is registered with other settings", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not said to be JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The settings are not valid", body = ProblemBody, content_type = "application/problem+json"),
        (status = 502, description = "The provider does not work", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn register(
    State(app): State<Arc<App>>,
    body: Result<Json<Registration>, JsonRejection>,
) -> Result<(StatusCode, Json<ProviderView>), Problem> {
    let Json(Registration { kind, name, config, pool }) = body?;
    let id = parse_name(&name)?;
    if !config.is_object() {
        return Err(Problem::invalid("config: must be an object"));
    }
    if holds_nul(&config) {
        return Err(Problem::invalid("config: must not hold a NUL character"));
    }
    let pool = pool.as_ref().map(parse_pool).transpose()?;
    if let Some(row) = app.store.provider(&id).await? {
        return same_or_conflict(&app, &row, &kind, &config, pool);
    }
    let provider = connect_and_check(&app, &id, &kind, &config).await?;
    let row = app.store.add_provider(&id, &kind, false, &config, pool).await?;
    if row.kind != kind || row.config != config || row.pool != pool {
        return same_or_conflict(&app, &row, &kind, &config, pool);
    }
    attach(&app, row.clone(), provider).await?;
    Ok((StatusCode::CREATED, Json(show_provider(&app, &row))))
}

/// Whether a name or a text in it holds a NUL, which PostgreSQL does not keep.
fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(fields) => {
            fields.iter().any(|(name, value)| name.contains('\0') || holds_nul(value))
        }
        _ => false,
    }
}

fn same_or_conflict(
    app: &App,
    row: &ProviderRow,
    kind: &str,
    config: &Value,
    pool: Option<Pool>,
) -> Result<(StatusCode, Json<ProviderView>), Problem> {
    let same = row.kind == kind && row.config == *config && row.pool == pool;
    if same && !row.from_environment {
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

/// Providers, by name.
#[utoipa::path(
    get, path = "/api/providers", operation_id = "listProviders", tag = "providers", params(ListQuery),
    responses(
        (status = 200, description = "A page of providers", body = Page),
        (status = 400, description = "A parameter is not valid", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Page>, Problem> {
    let Query(query) = query?;
    let after: Option<ProviderId> = page_token(query.page_token.as_deref())?;
    let size = page_size(query.page_size)?;
    let mut rows = app.store.list_providers(after.as_ref(), size + 1).await?;
    let next_page_token = cut(&mut rows, size, |row| row.id.to_string());
    let providers = rows.iter().map(|row| show_provider(&app, row)).collect();
    Ok(Json(Page { providers, next_page_token }))
}

/// One provider, with what it can offer.
#[utoipa::path(
    get, path = "/api/providers/{name}", operation_id = "getProvider", tag = "providers",
    params(("name" = String, Path, description = "Name of the provider")),
    responses(
        (status = 200, description = "The provider", body = DetailView),
        (status = 404, description = "There is no such provider", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The name is not one", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<DetailView>, Problem> {
    let Path(name) = name?;
    let id = parse_name(&name)?;
    let row = app.store.provider(&id).await?.ok_or_else(|| no_such_provider(&id))?;
    let provider = show_provider(&app, &row);
    let capabilities_problem = measure(&app, &id).await;
    let known = app.registry.get(&id).and_then(|entry| entry.capabilities);
    Ok(Json(DetailView {
        provider,
        capabilities_age_seconds: known.as_ref().map(|(_, at)| age_seconds(*at)),
        capabilities: known.map(|(capabilities, _)| capabilities),
        capabilities_problem,
    }))
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

/// Removes a provider that has no workers. Idle workers of its pool go first, and this waits for them.
#[utoipa::path(
    delete, path = "/api/providers/{name}", operation_id = "removeProvider", tag = "providers",
    params(("name" = String, Path, description = "Name of the provider")),
    responses(
        (status = 204, description = "It is removed"),
        (status = 404, description = "There is no such provider", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It still has workers", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The name is not one", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Problem> {
    let Path(name) = name?;
    let id = parse_name(&name)?;
    let mut room = app.hub.subscribe(Topic::Queue);
    let mut removal = app.store.remove_provider(&id).await?;
    if matches!(removal, Removal::Draining(_)) {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        while matches!(removal, Removal::Draining(_) | Removal::InUse(_))
            && Instant::now() < deadline
        {
            changed_within(&mut room, DRAIN_POLL).await;
            removal = app.store.remove_provider(&id).await?;
        }
    }
    match removal {
        Removal::Removed => Ok(StatusCode::NO_CONTENT),
        Removal::Unknown => Err(no_such_provider(&id)),
        Removal::InUse(workers) | Removal::Draining(workers) => {
            let detail = format!("provider {id} still has {workers} workers");
            Err(Problem::new(StatusCode::CONFLICT, "provider-in-use", detail)
                .with("workers", json!(workers)))
        }
    }
}

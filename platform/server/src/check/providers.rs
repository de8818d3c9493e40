//! The providers of the database and of the environment: whether each can be reached and used.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use serde_json::json;
use tokio::time::timeout;

use super::{Finding, Status};
use crate::{
    config::Config,
    pool::Pool,
    registry::{ConnectError, ProviderFactory},
    server::ENVIRONMENT_PROVIDER,
    store::{Store, providers::ProviderRow},
};

/// How long a provider may take for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many are asked at a time.
const AT_ONCE: usize = 8;

pub(super) async fn check(
    config: &Config,
    store: Option<&Store>,
    factory: Arc<dyn ProviderFactory>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut rows = match store {
        None => {
            let detail = "those of the database are not known";
            findings.push(Finding::new("providers", Status::Skipped, detail));
            Vec::new()
        }
        Some(store) => store.providers().await.unwrap_or_else(|error| {
            findings.push(Finding::new("providers", Status::Unavailable, error));
            Vec::new()
        }),
    };
    if config.k8s_enabled
        && let Err(invalid) = Pool::from_env(|name| std::env::var(name).ok())
    {
        let name = format!("pool of {ENVIRONMENT_PROVIDER}");
        findings.push(Finding::new(name, Status::Wrong, invalid));
    }
    if config.k8s_enabled && !rows.iter().any(|row| row.id.as_str() == ENVIRONMENT_PROVIDER) {
        rows.extend(of_environment());
    }
    if rows.is_empty() && findings.is_empty() {
        let detail = "none is registered: jobs wait until there is one";
        findings.push(Finding::new("providers", Status::Warning, detail));
    }
    let asked = stream::iter(rows).map(|row| ask(row, factory.clone()));
    findings.extend(asked.buffered(AT_ONCE).collect::<Vec<_>>().await);
    findings
}

fn of_environment() -> Option<ProviderRow> {
    Some(ProviderRow {
        id: ENVIRONMENT_PROVIDER.parse().ok()?,
        kind: "kubernetes".to_owned(),
        from_environment: true,
        config: json!({}),
        created_at: Timestamp::now(),
        pool: None,
    })
}

async fn ask(row: ProviderRow, factory: Arc<dyn ProviderFactory>) -> Finding {
    let name = format!("provider {}", row.id);
    let config = (!row.from_environment).then_some(&row.config);
    let asking = async {
        let provider = factory.connect(&row.id, &row.kind, config).await?;
        Ok(provider.health_check().await?)
    };
    match timeout(PATIENCE, asking).await {
        Ok(Ok(())) => Finding::new(name, Status::Ok, format_args!("{} answers", row.kind)),
        Ok(Err(error @ (ConnectError::UnknownKind(_) | ConnectError::Config(_)))) => {
            Finding::new(name, Status::Wrong, error)
        }
        Ok(Err(error)) => Finding::new(name, Status::Unavailable, error),
        Err(_) => {
            Finding::new(name, Status::Unavailable, format_args!("no answer within {PATIENCE:?}"))
        }
    }
}

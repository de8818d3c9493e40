//! Keeps the connected providers in step with the registered ones, whichever replica registered them.

use std::{sync::Arc, time::Duration};

use hodei_core::provider::WorkerProvider;
use tokio_util::sync::CancellationToken;

use super::observe;
use crate::{
    app::App,
    registry::ConnectError,
    store::{
        StoreError,
        notify::{Topic, changed_within, notify},
        providers::ProviderRow,
    },
};

const POLL: Duration = Duration::from_secs(5);
/// How long connecting may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn run(app: Arc<App>) {
    let mut changed = app.hub.subscribe(Topic::Providers);
    loop {
        changed.mark_unchanged();
        if let Err(error) = sync(&app).await {
            tracing::warn!(%error, "the providers could not be looked up");
        }
        changed_within(&mut changed, POLL).await;
    }
}

async fn sync(app: &Arc<App>) -> Result<(), StoreError> {
    let rows = app.store.providers().await?;
    app.registry.retain(&rows);
    for row in rows {
        let known = app.registry.get(&row.id);
        if known.is_some_and(|entry| entry.row.created_at == row.created_at) {
            continue;
        }
        match connect(app, &row).await {
            Ok(provider) => attach(app, row, provider).await?,
            Err(error) => {
                tracing::warn!(provider = %row.id, %error, "not connected; trying again");
                app.registry.set_broken(&row.id, error.to_string());
            }
        }
    }
    Ok(())
}

/// Connects the provider that a row describes.
pub(crate) async fn connect(
    app: &App,
    row: &ProviderRow,
) -> Result<Arc<dyn WorkerProvider>, ConnectError> {
    let config = (!row.from_environment).then_some(&row.config);
    let connecting = app.registry.factory.connect(&row.id, &row.kind, config);
    tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| {
        Err(ConnectError::Config(format!("no connection within {CONNECT_TIMEOUT:?}")))
    })
}

/// Puts a connected provider to work.
pub(crate) async fn attach(
    app: &Arc<App>,
    row: ProviderRow,
    provider: Arc<dyn WorkerProvider>,
) -> Result<(), StoreError> {
    let stop: CancellationToken = app.stop.child_token();
    let (id, kind) = (row.id.clone(), row.kind.clone());
    if app.registry.add(row, provider.clone(), stop.clone()) {
        match kind.as_str() {
            "kubernetes" => tracing::info!(provider = %id, "Kubernetes provider initialized"),
            kind => tracing::info!(provider = %id, kind, "provider initialized"),
        }
        app.tasks.spawn(observe::run(app.clone(), provider, stop));
        notify(&app.store.pool, Topic::Queue).await?;
    }
    Ok(())
}

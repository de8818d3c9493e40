//! Removes a one-time password from the cluster once it was used.

use std::{sync::Arc, time::Duration};

use hodei_core::id::{ProviderId, WorkerId};

use crate::{app::App, policy::backoff};

/// Tries here and now; after that the reconciler goes on.
const TRIES: u32 = 5;
const TRY_TIMEOUT: Duration = Duration::from_secs(15);

/// Has the provider discard the worker's password, and writes down that it is gone.
pub(crate) async fn discard_otp(app: Arc<App>, worker: WorkerId, provider: String) {
    let Ok(id) = provider.parse::<ProviderId>() else { return };
    for tries in 0..TRIES {
        let Some(entry) = app.registry.get(&id) else { return };
        let discarded = tokio::time::timeout(TRY_TIMEOUT, entry.provider.discard_otp(worker)).await;
        match discarded {
            Ok(Ok(())) => {
                if let Err(error) = app.store.otp_discarded(worker).await {
                    tracing::debug!(%error, worker_id = %worker, "will be discarded again");
                }
                return;
            }
            Ok(Err(error)) => {
                tracing::warn!(worker_id = %worker, %error, "the password is still in the cluster");
            }
            Err(_) => tracing::warn!(worker_id = %worker, "no answer; the password is still there"),
        }
        if app.stop.run_until_cancelled(tokio::time::sleep(backoff(tries))).await.is_none() {
            return;
        }
    }
}

//! Removing a worker: the Pod with a UID precondition, its Secret, and the confirmation that both
//! are gone. Confirmation comes from the shared watch; the API is asked only when the watch is stale
//! or the deadline has come.

use std::time::Duration;

use hodei_core::{
    failure::{Failure, FailureCause},
    id::WorkerId,
    provider::{ProviderError, WorkerHandle, WorkerPhase},
};
use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use crate::{
    api::ApiFailure,
    measure,
    names::{owned_worker, pod_name, secret_name},
    provider::KubernetesProvider,
    watch::Presence,
};

/// Beside the grace period: the kubelet's own 30 s are for volumes and sandboxes.
const CONFIRMATION: Duration = Duration::from_secs(30);
/// How often the API is asked while the watch is stale.
const ASK_EVERY: Duration = Duration::from_secs(5);

impl KubernetesProvider {
    /// Removes this very worker and waits for the confirmation.
    pub(crate) async fn destroy(
        &self,
        operation: &'static str,
        handle: &WorkerHandle,
    ) -> Result<(), ProviderError> {
        let worker_id = handle.worker;
        let start = Instant::now();
        let fail = |failure: ApiFailure| failure.into_error(operation, &handle.resource);
        let secret = self.discard(worker_id);
        let pod = self.destroy_pod(operation, handle);
        let (secret, pod) = tokio::join!(secret, pod);
        pod?;
        secret.map_err(fail)?;
        self.discarded().remove(&worker_id);
        measure::worker_destroyed(&self.id, start.elapsed());
        tracing::info!(%worker_id, provider_id = %self.id, took = ?start.elapsed(),
            "worker destroyed");
        Ok(())
    }

    /// Removes whatever stands under a worker's id, if it is ours.
    pub(crate) async fn destroy_any(&self, worker: WorkerId) -> Result<(), ProviderError> {
        const OPERATION: &str = "destroy unknown worker";
        let fail = |failure: ApiFailure| failure.into_error(OPERATION, pod_name(worker));
        if let Some(handle) = self.watch.handle_of(worker) {
            return self.destroy(OPERATION, &handle).await;
        }
        // The view may lag behind a create that was cut off, so the API is asked.
        match self.get_pod(worker).await.map_err(fail)? {
            Some(pod) => match self.own_handle(&pod, worker) {
                Some(handle) => self.destroy(OPERATION, &handle).await,
                None => {
                    tracing::warn!(worker_id = %worker, provider_id = %self.id,
                        owner = ?owned_worker(&pod.metadata, &self.id),
                        "a pod of the worker's name is not ours and is left alone");
                    Ok(())
                }
            },
            None => self.discard(worker).await.map_err(fail),
        }
    }

    /// Removes the worker's Secret once; later calls know that it is gone.
    pub(crate) async fn discard(&self, worker: WorkerId) -> Result<(), ApiFailure> {
        if self.discarded().contains(&worker) {
            return Ok(());
        }
        self.delete_secret(&secret_name(worker)).await?;
        self.discarded().insert(worker);
        Ok(())
    }

    async fn destroy_pod(
        &self,
        operation: &'static str,
        handle: &WorkerHandle,
    ) -> Result<(), ProviderError> {
        let grace = self.config.grace_period_seconds;
        let known = matches!(self.watch.find(handle), Some((Presence::Here(_), _)));
        if self.delete_pod(operation, handle, grace).await? {
            return Ok(());
        }
        // Force within the grace period would kill a worker that is ending in good order.
        let patience = match self.config.force_delete_after_seconds {
            Some(seconds) => Duration::from_secs(seconds.into()),
            None => CONFIRMATION,
        };
        let deadline = Duration::from_secs(grace.into()) + patience;
        if self.await_gone(handle, known, deadline).await {
            return Ok(());
        }
        if self.config.force_delete_after_seconds.is_some() {
            tracing::warn!(worker_id = %handle.worker, provider_id = %self.id, ?deadline,
                "no confirmation: deleting the pod by force");
            if self.delete_pod(operation, handle, 0).await?
                || self.await_gone(handle, known, CONFIRMATION).await
            {
                return Ok(());
            }
        }
        Err(self.unconfirmed(operation, handle, deadline))
    }

    /// Asks for the removal; `true` when there is nothing of this UID (any more).
    async fn delete_pod(
        &self,
        operation: &'static str,
        handle: &WorkerHandle,
        grace_seconds: u32,
    ) -> Result<bool, ProviderError> {
        let delete =
            self.api.delete::<Pod>(&handle.resource, Some(&handle.uid), Some(grace_seconds));
        let outcome = match delete {
            Ok(call) => self.api.send(&call).await,
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(_) => Ok(false),
            // Gone, or a namesake stands there, which is not touched.
            Err(failure) if failure.is_not_found() || failure.is_conflict() => {
                self.watch.forget(handle);
                Ok(true)
            }
            Err(failure) => Err(failure.into_error(operation, &handle.resource)),
        }
    }

    /// Waits for the resource to be gone. A view that never had it (another replica made it a moment
    /// ago) proves nothing by not having it, so then the API is asked.
    async fn await_gone(&self, handle: &WorkerHandle, known: bool, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut ask_at = Instant::now() + if known { ASK_EVERY } else { Duration::ZERO };
        let mut changes = self.watch.changes();
        loop {
            let fresh = self.watch.is_fresh();
            let absent = matches!(self.watch.find(handle), Some((Presence::Gone, _)));
            if fresh && absent && known {
                return true;
            }
            let now = Instant::now();
            let ask = now >= deadline || (now >= ask_at && (!fresh || !known));
            if ask && self.is_gone_by_api(handle).await {
                return true;
            }
            if now >= deadline {
                return false;
            }
            if now >= ask_at {
                ask_at = now + ASK_EVERY;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return false },
                () = tokio::time::sleep_until(deadline.min(ask_at)) => {}
            }
        }
    }

    /// Whether the API says so; an API that does not answer has not said so.
    async fn is_gone_by_api(&self, handle: &WorkerHandle) -> bool {
        let gone = match self.get_pod(handle.worker).await {
            Ok(pod) => pod.is_none_or(|pod| pod.metadata.uid.as_deref() != Some(&handle.uid)),
            Err(failure) => {
                tracing::debug!(worker_id = %handle.worker, provider_id = %self.id, %failure,
                    "can't tell whether the pod is gone");
                false
            }
        };
        if gone {
            self.watch.forget(handle);
        }
        gone
    }

    fn unconfirmed(
        &self,
        operation: &'static str,
        handle: &WorkerHandle,
        waited: Duration,
    ) -> ProviderError {
        let (cause, last) = match self.watch.find(handle) {
            Some((Presence::Here(seen), age)) => {
                let cause = match &seen.phase {
                    WorkerPhase::Failed(failure) => failure.cause,
                    _ => FailureCause::Unknown,
                };
                let node = seen.node.as_deref().unwrap_or("none");
                let held = match self.watch.finalizers_of(handle) {
                    finalizers if finalizers.is_empty() => String::new(),
                    finalizers => format!("; held by the finalizers {}", finalizers.join(", ")),
                };
                let last = format!("{:?} on node {node}, seen {:?} ago{held}", seen.phase, age.0);
                (cause, last)
            }
            Some((Presence::Gone, _)) | None => {
                let trouble = self.watch.trouble().unwrap_or_else(|| "no view yet".to_owned());
                (FailureCause::ApiUnavailable, format!("the watch is stale: {trouble}"))
            }
        };
        ProviderError {
            operation,
            subject: handle.resource.clone(),
            failure: Failure {
                cause,
                message: format!(
                    "still there {waited:?} after its removal was asked for; last: {last}"
                ),
            },
            retry_after: None,
            source: None,
        }
    }
}

#[cfg(test)]
#[path = "destroy_tests.rs"]
mod tests;

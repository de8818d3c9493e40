//! Making a worker: the Secret, then the Pod. Repeating it after a crash gives the same worker.

use std::time::Instant;

use hodei_core::{
    failure::{Failure, FailureCause},
    id::WorkerId,
    provider::{ProviderError, WorkerHandle, WorkerSpec},
};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Pod, Secret},
};
use kube::api::{GetParams, PostParams};

use crate::{
    api::{ApiFailure, Call},
    measure,
    names::{owned_worker, pod_name, secret_name},
    pod::{make_pod, make_secret},
    provider::{KubernetesProvider, SYNC_DEADLINE},
};

const OPERATION: &str = "create worker";

/// How often a pod is asked for while lists of the watch come in between.
const ASKS: usize = 3;

impl KubernetesProvider {
    /// Makes the worker, or adopts the one this provider made before.
    pub(crate) async fn create(&self, spec: &WorkerSpec) -> Result<WorkerHandle, ProviderError> {
        let worker_id = spec.worker;
        let start = Instant::now();
        let made = self.create_both(spec).await;
        match &made {
            Ok(handle) => {
                measure::worker_created(&self.id, start.elapsed());
                tracing::info!(%worker_id, provider_id = %self.id, pod = %handle.resource,
                    uid = %handle.uid, "worker created");
            }
            Err(error) => {
                measure::worker_failed(&self.id, error.cause());
                tracing::warn!(%worker_id, provider_id = %self.id, cause = %error.cause(), %error,
                    "worker not created");
            }
        }
        made
    }

    async fn create_both(&self, spec: &WorkerSpec) -> Result<WorkerHandle, ProviderError> {
        let hidden = spellings(spec);
        let fail = |failure: ApiFailure| failure.into_error(OPERATION, pod_name(spec.worker));
        if let Err(failure) = self.create_secret(spec, &hidden).await {
            if failure.may_have_happened() {
                self.remove_orphaned_secret(spec.worker).await;
            }
            return Err(fail(failure));
        }
        let made = self.create_pod(spec, &hidden).await.map_err(fail).and_then(|made| match made {
            Some(handle) => Ok(handle),
            None => Err(foreign(spec.worker)),
        });
        if made.is_err() {
            self.remove_orphaned_secret(spec.worker).await;
        }
        made
    }

    /// The name of a worker's Secret contains the worker's UUID, so one that exists was made for this
    /// very worker by a create that did not come to its end. Its password may be another (only the
    /// hash was stored), so it is replaced. It is not read: we have no permission to, on purpose.
    async fn create_secret(&self, spec: &WorkerSpec, hidden: &[String]) -> Result<(), ApiFailure> {
        let secret = make_secret(&self.id, &self.config, spec.worker, &spec.otp);
        let create = self
            .api
            .create(&secret, &PostParams::default())?
            .hiding(hidden.iter().cloned())
            .metadata_only();
        self.discarded().remove(&spec.worker);
        let replaced = match self.api.send(&create).await {
            Ok(_) => return Ok(()),
            // Our own request arrived, only its answer was lost.
            Err(failure) if failure.is_already_exists() && failure.was_repeated() => return Ok(()),
            Err(failure) if failure.is_already_exists() => secret_name(spec.worker),
            Err(failure) => return Err(failure),
        };
        tracing::info!(worker_id = %spec.worker, provider_id = %self.id, "replacing the Secret");
        self.delete_secret(&replaced).await?;
        self.api.send(&create).await.map(drop)
    }

    /// The pod's handle, or `None` where the name is taken by something that is not ours.
    async fn create_pod(
        &self,
        spec: &WorkerSpec,
        hidden: &[String],
    ) -> Result<Option<WorkerHandle>, ApiFailure> {
        let pod = make_pod(&self.id, &self.config, spec);
        let create = self.api.create(&pod, &PostParams::default())?.hiding(hidden.iter().cloned());
        let lists = self.watch.lists();
        match self.api.send(&create).await {
            Ok(answer) => {
                let pod: Pod = answer.read()?;
                let certain = self.watch.answered(&pod, lists);
                if !certain {
                    self.confirm(spec.worker).await?;
                }
                Ok(self.own_handle(&pod, spec.worker))
            }
            Err(failure) if failure.is_already_exists() => {
                let Some(pod) = self.confirm(spec.worker).await? else {
                    return Err(ApiFailure::malformed(
                        "the pod existed and was gone a moment later; ask again".to_owned(),
                    ));
                };
                let adopted = self.own_handle(&pod, spec.worker);
                if adopted.is_some() && pod.metadata.deletion_timestamp.is_some() {
                    return Err(ApiFailure::malformed(
                        "the pod of an earlier create is still being removed; ask again".to_owned(),
                    ));
                }
                if adopted.is_some() {
                    tracing::info!(worker_id = %spec.worker, provider_id = %self.id,
                        "adopted the worker's pod");
                }
                Ok(adopted)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Asks for the pod until the view and the answer can be put in an order.
    async fn confirm(&self, worker: WorkerId) -> Result<Option<Pod>, ApiFailure> {
        let mut last = None;
        for _ in 0..ASKS {
            self.watch.await_synced(SYNC_DEADLINE).await;
            let lists = self.watch.lists();
            let Some(pod) = self.get_pod(worker).await? else { return Ok(None) };
            if self.own_handle(&pod, worker).is_none() || self.watch.answered(&pod, lists) {
                return Ok(Some(pod));
            }
            last = Some(pod);
        }
        Ok(last)
    }

    /// The pod under a worker's name, whoever made it.
    pub(crate) async fn get_pod(&self, worker: WorkerId) -> Result<Option<Pod>, ApiFailure> {
        let request = self.api.requests::<Pod>().get(&pod_name(worker), &GetParams::default());
        match self.api.send(&Call::new(request)?).await {
            Ok(answer) => answer.read().map(Some),
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The handle of a pod, if this provider made it for this worker.
    pub(crate) fn own_handle(&self, pod: &Pod, worker: WorkerId) -> Option<WorkerHandle> {
        (owned_worker(&pod.metadata, &self.id) == Some(worker)).then(|| WorkerHandle {
            worker,
            resource: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        })
    }

    /// Removes a worker's Secret; one that is gone already is a success.
    pub(crate) async fn delete_secret(&self, name: &str) -> Result<(), ApiFailure> {
        match self.api.send(&self.api.delete::<Secret>(name, None, None)?).await {
            Err(failure) if !failure.is_not_found() => Err(failure),
            _ => Ok(()),
        }
    }

    /// Best effort: the error that led here is the one to report, and `destroy_unknown` tries again.
    async fn remove_orphaned_secret(&self, worker: WorkerId) {
        if let Err(failure) = self.delete_secret(&secret_name(worker)).await {
            tracing::warn!(worker_id = %worker, provider_id = %self.id, %failure,
                "the Secret of a worker that was not created is left");
        }
    }
}

fn foreign(worker: WorkerId) -> ProviderError {
    ProviderError {
        operation: OPERATION,
        subject: pod_name(worker),
        failure: Failure {
            cause: FailureCause::Conflict,
            message: "a pod of this name exists and is not this provider's; it was not touched"
                .to_owned(),
        },
        retry_after: None,
        source: None,
    }
}

/// Every form in which the password could be echoed: as it is, and as the API encodes a Secret.
fn spellings(spec: &WorkerSpec) -> Vec<String> {
    let plain = spec.otp.expose().to_owned();
    let encoded = serde_json::to_value(ByteString(plain.clone().into_bytes()));
    let encoded = encoded.ok().and_then(|value| value.as_str().map(str::to_owned));
    std::iter::once(plain).chain(encoded).collect()
}

#[cfg(test)]
#[path = "create_tests.rs"]
mod tests;

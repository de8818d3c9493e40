//! A pod in a namespace that is not the run's: only the pod goes.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};

use super::{check_owner, client, uid_of};
use crate::failure::{Classify, FailureClass, Result};
use crate::run_dir::RunDir;
use crate::wait::{Observed, await_class};

/// How long a pod may take to go that has no grace period.
const DEADLINE: Duration = Duration::from_secs(60);

pub(super) async fn remove(
    kubeconfig: &Path,
    context: &str,
    namespace: &str,
    name: &str,
    run: &RunDir,
) -> Result<()> {
    let Some(client) = client(kubeconfig, context).await? else { return Ok(()) };
    let pods = Api::<Pod>::namespaced(client, namespace);
    let subject = || format!("pod {namespace}/{name}");
    let Some(found) = pods.get_opt(name).await.infrastructure("find", subject())? else {
        return Ok(());
    };
    check_owner(&found.metadata, &subject(), run)?;
    delete(&pods, &found).await
}

/// Deletes exactly this pod, at once, and waits until it is gone.
///
/// # Errors
/// It may not be deleted, or is still there at the deadline.
pub(crate) async fn delete(pods: &Api<Pod>, pod: &Pod) -> Result<()> {
    let name = pod.name_any();
    let subject = || format!("pod {name}");
    let params = DeleteParams::default().grace_period(0).preconditions(uid_of(&pod.metadata));
    match pods.delete(&name, &params).await {
        Err(kube::Error::Api(status)) if status.is_not_found() || status.code == 409 => {}
        other => drop(other.infrastructure("delete", subject())?),
    }
    let class = FailureClass::Infrastructure;
    await_class(class, format!("{} to be gone", subject()), DEADLINE, async || {
        Ok(match pods.get_opt(&name).await.infrastructure("find", subject())? {
            Some(found) if found.metadata.uid == pod.metadata.uid => {
                let phase = found.status.and_then(|status| status.phase).unwrap_or_default();
                Observed::NotYet(format!("it is there: {phase}"))
            }
            _ => Observed::Ready(()),
        })
    })
    .await
}

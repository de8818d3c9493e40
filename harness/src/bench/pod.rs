//! The bare side: create a restricted pod and watch it, as `kubectl` does.

use std::time::Instant;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::{COMMAND, DEADLINE, Lap};
use crate::failure::{Classify, FailureClass, HarnessError, Result};

/// A namespace to make bare pods in.
#[derive(Debug, Clone)]
pub struct PodSide {
    pods: Api<Pod>,
    image: String,
}

impl PodSide {
    /// Pods of `image` in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, image: &str) -> Self {
        Self { pods: Api::namespaced(client, namespace), image: image.to_owned() }
    }

    pub(super) async fn lap(&self) -> Result<Lap> {
        let name = format!("hodei-bench-{}", uuid::Uuid::new_v4().simple());
        let lap = tokio::time::timeout(DEADLINE, self.watch_one(&name)).await;
        // The pod goes whatever came of it.
        let gone = self.pods.delete(&name, &DeleteParams::default().grace_period(0)).await;
        let lap = lap.infrastructure("await the end of", format!("pod {name}"))??;
        gone.infrastructure("delete", format!("pod {name}"))?;
        Ok(lap)
    }

    async fn watch_one(&self, name: &str) -> Result<Lap> {
        let subject = || format!("pod {name}");
        let pod: Pod =
            serde_json::from_value(self.manifest(name)).infrastructure("make", subject())?;
        let begin = Instant::now();
        let made = self.pods.create(&PostParams::default(), &pod).await;
        let version =
            made.infrastructure("create", subject())?.resource_version().unwrap_or_default();
        let only = WatchParams::default().fields(&format!("metadata.name={name}"));
        let events = self.pods.watch(&only, &version).await.infrastructure("watch", subject())?;
        let mut events = events.boxed();
        let mut started = None;
        while let Some(event) = events.next().await {
            let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) =
                event.infrastructure("watch", subject())?
            else {
                continue;
            };
            let elapsed = begin.elapsed().as_secs_f64();
            let status = pod.status.unwrap_or_default();
            let container = status.container_statuses.unwrap_or_default().into_iter().next();
            let state = container.and_then(|container| container.state).unwrap_or_default();
            if state.running.is_some() || state.terminated.is_some() {
                started = started.or(Some(elapsed));
            }
            match status.phase.as_deref() {
                Some("Succeeded") => {
                    return Ok(Lap { started: started.unwrap_or(elapsed), finished: elapsed });
                }
                Some("Failed") => {
                    let cause = status.message.unwrap_or_else(|| "it failed".to_owned());
                    return Err(HarnessError::new(
                        FailureClass::Infrastructure,
                        "run",
                        subject(),
                        cause,
                    ));
                }
                _ => {}
            }
        }
        let cause = "the watch ended before the pod did";
        Err(HarnessError::new(FailureClass::Infrastructure, "watch", subject(), cause))
    }

    /// What a worker's pod has, with the job's command in the agent's place.
    fn manifest(&self, name: &str) -> serde_json::Value {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": "hodei-bench"}},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 1000, "runAsGroup": 1000,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [{
                    "name": "bare",
                    "image": self.image,
                    "imagePullPolicy": "Never",
                    "command": COMMAND,
                    "resources": {
                        "requests": {"cpu": "10m", "memory": "32Mi"},
                        "limits": {"cpu": "1", "memory": "128Mi"},
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }],
            },
        })
    }
}

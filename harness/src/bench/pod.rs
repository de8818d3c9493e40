//! The bare side: create a restricted pod and watch it, as `kubectl` does.

use std::time::Instant;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::{DEADLINE, Lap};
use crate::failure::{Classify, FailureClass, HarnessError, Result};

/// What a watch has shown of a pod.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// Its container runs or has run.
    has_started: bool,
    /// It succeeded.
    has_ended: bool,
}

/// A namespace to make bare pods in.
#[derive(Debug, Clone)]
pub struct PodSide {
    pub(super) pods: Api<Pod>,
    image: String,
}

impl PodSide {
    /// Pods of `image` in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, image: &str) -> Self {
        Self { pods: Api::namespaced(client, namespace), image: image.to_owned() }
    }

    /// Runs one pod of a program and its arguments.
    pub(super) async fn lap(&self, argv: &[&str]) -> Result<Lap> {
        self.with_pod(async |name| {
            let begin = Instant::now();
            let mut started = None;
            let ended = self.watch_one(name, argv, |state| {
                let elapsed = begin.elapsed().as_secs_f64();
                started = started.or(state.has_started.then_some(elapsed));
                state.has_ended.then_some(elapsed)
            });
            let finished = ended.await?;
            Ok(Lap { started: started.unwrap_or(finished), finished })
        })
        .await
    }

    /// Runs `command` in a pod, and `work` on that pod once its container was started.
    pub(super) async fn with_running<T>(
        &self,
        command: &[&str],
        work: impl AsyncFn(&str) -> Result<T>,
    ) -> Result<T> {
        self.with_pod(async |name| {
            self.watch_one(name, command, |state| state.has_started.then_some(())).await?;
            work(name).await
        })
        .await
    }

    /// Gives `work` the name of a pod, and removes the pod whatever came of it.
    async fn with_pod<T>(&self, work: impl AsyncFn(&str) -> Result<T>) -> Result<T> {
        let name = format!("hodei-bench-{}", uuid::Uuid::new_v4().simple());
        let worked = tokio::time::timeout(DEADLINE, work(&name)).await;
        let gone = self.pods.delete(&name, &DeleteParams::default().grace_period(0)).await;
        let worked = worked.infrastructure("await", format!("pod {name}"))??;
        gone.infrastructure("delete", format!("pod {name}"))?;
        Ok(worked)
    }

    /// Creates a pod and watches it until `wanted` has what it wants.
    async fn watch_one<T>(
        &self,
        name: &str,
        command: &[&str],
        mut wanted: impl FnMut(Seen) -> Option<T>,
    ) -> Result<T> {
        let subject = || format!("pod {name}");
        let class = FailureClass::Infrastructure;
        let pod: Pod = serde_json::from_value(self.manifest(name, command))
            .infrastructure("make", subject())?;
        let made = self.pods.create(&PostParams::default(), &pod).await;
        let version =
            made.infrastructure("create", subject())?.resource_version().unwrap_or_default();
        let only = WatchParams::default().fields(&format!("metadata.name={name}"));
        let events = self.pods.watch(&only, &version).await.infrastructure("watch", subject())?;
        let mut events = events.boxed();
        while let Some(event) = events.next().await {
            let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) =
                event.infrastructure("watch", subject())?
            else {
                continue;
            };
            let status = pod.status.unwrap_or_default();
            let container = status.container_statuses.unwrap_or_default().into_iter().next();
            let state = container.and_then(|container| container.state).unwrap_or_default();
            let phase = status.phase.unwrap_or_default();
            let seen = Seen {
                has_started: state.running.is_some() || state.terminated.is_some(),
                has_ended: phase == "Succeeded",
            };
            if let Some(found) = wanted(seen) {
                return Ok(found);
            }
            if phase == "Failed" {
                let cause = status.message.unwrap_or_else(|| "it failed".to_owned());
                return Err(HarnessError::new(class, "run", subject(), cause));
            }
        }
        Err(HarnessError::new(class, "watch", subject(), "the watch ended before the pod did"))
    }

    /// What a worker's pod has, with the job's command in the agent's place.
    fn manifest(&self, name: &str, command: &[&str]) -> serde_json::Value {
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
                    "command": command,
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

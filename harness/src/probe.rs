//! Pods that find something out about the cluster before any case runs: each is given a script and
//! ends with an exit code. They are made of the worker image and meet Pod Security `restricted`.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams, LogParams, PostParams};
use serde_json::json;

use crate::cluster::{KindCluster, ready};
use crate::environment::HostRoute;
use crate::failure::{Classify, FailureClass, Result};
use crate::journal::{Resource, State};
use crate::progress::Stage;
use crate::run_dir::{RUN_LABEL, RunDir, RunId};
use crate::wait::{Observed, Wait};
use crate::worker_image::WorkerImage;

/// From the creation of a pod to its verdict.
const DEADLINE: Duration = Duration::from_secs(60);
/// The label that a network policy can choose a probe by.
pub(crate) const PROBE_LABEL: &str = "hodei.io/e2e-probe";

/// One pod.
pub(crate) struct Probe<'a> {
    pub(crate) name: String,
    /// Value of its [`PROBE_LABEL`].
    pub(crate) label: &'a str,
    pub(crate) node: &'a str,
    pub(crate) image: &'a WorkerImage,
    /// The name it knows this host by, if it has to.
    pub(crate) route: Option<&'a HostRoute>,
    /// For bash.
    pub(crate) script: String,
}

/// How it ended.
pub(crate) struct Ended {
    pub(crate) code: i32,
    /// Its output.
    pub(crate) said: String,
}

impl Probe<'_> {
    /// Runs it to its end and removes it.
    ///
    /// # Errors
    /// Class network: it cannot be made, or does not end within a minute.
    pub(crate) async fn run(&self, pods: &Api<Pod>, run: &RunId, stage: &Stage) -> Result<Ended> {
        let class = FailureClass::Network;
        let (name, subject) = (self.name.as_str(), format!("the probe pod on {}", self.node));
        let pod = self.pod(run).classify(FailureClass::Harness, "make", "the probe's manifest")?;
        create(pods, &pod, &subject, stage).await?;
        let interval = Duration::from_millis(150);
        let wait = Wait { class, what: subject.clone(), deadline: DEADLINE, interval };
        let ended = wait
            .until(stage, async || {
                let pod = pods.get(name).await.classify(class, "watch", &subject)?;
                let code = exit_code(&pod);
                Ok(code.map_or_else(|| Observed::NotYet(describe(&pod)), Observed::Ready))
            })
            .await;
        let said = pods.logs(name, &LogParams::default()).await.unwrap_or_default();
        // The namespace goes soon, and this pod with it: failing here would hide the finding.
        drop(pods.delete(name, &DeleteParams::default().grace_period(0)).await);
        Ok(Ended { code: ended?, said })
    }

    fn pod(&self, run: &RunId) -> Result<Pod, serde_json::Error> {
        let aliases = self
            .route
            .map(|route| json!({"ip": route.address.to_string(), "hostnames": [route.hostname]}));
        serde_json::from_value(json!({
            "metadata": {
                "name": self.name,
                "labels": {RUN_LABEL: run.as_str(), PROBE_LABEL: self.label},
            },
            "spec": {
                "nodeName": self.node,
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "activeDeadlineSeconds": DEADLINE.as_secs(),
                "terminationGracePeriodSeconds": 0,
                "hostAliases": Vec::from_iter(aliases),
                "tolerations": [{"operator": "Exists"}],
                "securityContext": {
                    "runAsNonRoot": true,
                    "runAsUser": 1000,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [{
                    "name": "probe",
                    "image": self.image.reference,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["bash", "-c", self.script],
                    "resources": {
                        "requests": {"cpu": "10m", "memory": "16Mi"},
                        "limits": {"cpu": "500m", "memory": "64Mi"},
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }],
            },
        }))
    }
}

/// Makes a namespace of the run, journalled, does `work` in it, and tells it to go.
///
/// # Errors
/// The API server refuses it, or `work` failed.
pub(crate) async fn in_namespace<T>(
    cluster: &KindCluster,
    run: &RunDir,
    purpose: &str,
    work: impl AsyncFnOnce(&str) -> Result<T>,
) -> Result<T> {
    let journal = run.journal(None);
    let name = format!("hodei-e2e-{}-{purpose}", run.id.short());
    let subject = || format!("namespace {name}");
    let entry = journal.intend(Resource::Namespace {
        kubeconfig: cluster.kubeconfig.clone(),
        context: cluster.context.clone(),
        name: name.clone(),
    })?;
    let namespace: Namespace = serde_json::from_value(
        json!({"metadata": {"name": name, "labels": {RUN_LABEL: run.id.as_str()}}}),
    )
    .classify(FailureClass::Harness, "make", subject())?;
    let api = Api::<Namespace>::all(ready::client(cluster).await?);
    api.create(&PostParams::default(), &namespace).await.infrastructure("create", subject())?;
    journal.mark(entry, State::Created)?;
    let done = work(&name).await;
    // It takes seconds to go; the end of the run sees that it has.
    api.delete(&name, &DeleteParams::default()).await.infrastructure("delete", subject())?;
    journal.mark(entry, State::Removing)?;
    done
}

/// A new namespace takes pods only once its default account is there.
async fn create(pods: &Api<Pod>, pod: &Pod, subject: &str, stage: &Stage) -> Result<()> {
    Wait::infrastructure("the default account of the probe's namespace", Duration::from_secs(20))
        .until(stage, async || match pods.create(&PostParams::default(), pod).await {
            Ok(_) => Ok(Observed::Ready(())),
            Err(kube::Error::Api(status)) if status.message.contains("serviceaccount") => {
                Ok(Observed::NotYet(status.message))
            }
            Err(error) => Err(error).classify(FailureClass::Network, "probe", subject),
        })
        .await
}

fn exit_code(pod: &Pod) -> Option<i32> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    Some(statuses.first()?.state.as_ref()?.terminated.as_ref()?.exit_code)
}

fn describe(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.clone()).unwrap_or_default();
    let waiting = status.and_then(|status| {
        status.container_statuses.as_ref()?.first()?.state.as_ref()?.waiting.clone()
    });
    format!("{phase} {}", waiting.and_then(|waiting| waiting.reason).unwrap_or_default())
}

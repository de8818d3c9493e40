//! The provider itself, with no server around it: a `KubernetesProvider` with the permissions of the
//! control plane, in the case's namespace.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use hodei_core::failure::Failure;
use hodei_core::id::WorkerId;
use hodei_core::provider::{
    ObservedWorker, ProviderError, WorkerHandle, WorkerPhase, WorkerProvider, WorkerSpec,
};
use hodei_core::secret::Secret;
use hodei_core::spec::Resources;
use hodei_harness::case::CaseEnv;
use hodei_harness::paths::write_atomically;
use hodei_harness::wait::{Observed, await_until};
use hodei_kubernetes::KubernetesProvider;
use k8s_openapi::api::core::v1::{ConfigMap, Secret as ApiSecret};
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

/// From a create to whatever a worker is to become, on a busy two-core machine.
pub(crate) const WORKER_DEADLINE: Duration = Duration::from_secs(60);
/// The ConfigMap of the stand-in agent, and the variable that holds what it runs.
const STAND_IN: &str = "stand-in";
const SCRIPT: &str = "HODEI_E2E_SCRIPT";
/// Where the worker image has its agent.
const AGENT: &str = "/usr/local/bin/hodei-worker";
/// Runs until it is told to stop, and stops at once then.
pub(crate) const UNTIL_TOLD: &str = "trap 'exit 0' TERM; sleep 600 & wait";

/// A provider with the harness's configuration.
pub(crate) async fn connect(env: &CaseEnv) -> Result<KubernetesProvider> {
    connect_as(env, "direct", json!({})).await
}

/// A provider of this name; `overrides` go over the harness's configuration.
pub(crate) async fn connect_as(
    env: &CaseEnv,
    name: &str,
    overrides: Value,
) -> Result<KubernetesProvider> {
    let mut config = env.provider_config();
    for (field, value) in overrides.as_object().into_iter().flatten() {
        config[field] = value.clone();
    }
    let config = serde_json::from_value(config).context("a provider's configuration")?;
    Ok(KubernetesProvider::connect(name.parse()?, config).await?)
}

/// A provider that may list the nodes, as soon as the API server knows of the permission.
pub(crate) async fn connect_with_nodes(
    env: &mut CaseEnv,
    overrides: Value,
) -> Result<KubernetesProvider> {
    env.allow_nodes().await?;
    let what = "the nodes to be seen";
    let connected = await_until(what, WORKER_DEADLINE, async || {
        let provider = match connect_as(env, "direct", overrides.clone()).await {
            Ok(provider) => provider,
            Err(error) => return Ok(Observed::NotYet(error.to_string())),
        };
        Ok(match provider.capabilities().await {
            Ok(offer) if offer.nodes.is_some() => Observed::Ready(provider),
            other => Observed::NotYet(format!("{other:?}")),
        })
    });
    Ok(connected.await?)
}

/// A provider whose workers run the script of [`make_script`] in place of the agent, for ends that
/// the agent does not have. All else of the pod is the provider's own.
pub(crate) async fn connect_stand_in(
    env: &CaseEnv,
    overrides: Value,
) -> Result<KubernetesProvider> {
    let agent = format!("#!/bin/sh\nexec /bin/sh -c \"${SCRIPT}\"\n");
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": STAND_IN}, "data": {"agent": agent}}))?;
    let maps = Api::<ConfigMap>::namespaced(env.kube(), env.namespace());
    maps.create(&PostParams::default(), &map).await?;
    connect_as(env, "direct", over_stand_in(overrides)).await
}

/// The configuration of [`connect_stand_in`], once the case has called that.
pub(crate) fn over_stand_in(mut overrides: Value) -> Value {
    let source = json!({"name": STAND_IN, "defaultMode": 0o555});
    overrides["volumes"] = json!([{"name": STAND_IN, "configMap": source}]);
    overrides["volume_mounts"] =
        json!([{"name": STAND_IN, "mountPath": AGENT, "subPath": "agent", "readOnly": true}]);
    overrides
}

/// A kubeconfig beside the control plane's, readable by its owner only, with other contents.
pub(crate) fn write_kubeconfig(
    env: &CaseEnv,
    name: &str,
    edit: impl FnOnce(&mut Value),
) -> Result<PathBuf> {
    let path = env.control_plane_kubeconfig().with_file_name(name);
    let mut kubeconfig: Value =
        serde_json::from_slice(&std::fs::read(env.control_plane_kubeconfig())?)?;
    edit(&mut kubeconfig);
    write_atomically(&path, kubeconfig.to_string().as_bytes(), 0o600)?;
    Ok(path)
}

/// A worker. Nothing listens at its server's address, so the agent tries to register for two minutes.
pub(crate) fn make_worker() -> WorkerSpec {
    WorkerSpec {
        worker: WorkerId::new(),
        attempt: None,
        image: None,
        resources: Resources::default(),
        server_address: "http://127.0.0.1:1".to_owned(),
        otp: Secret::generate(),
        labels: Default::default(),
        env: Default::default(),
        avoid_nodes: Vec::new(),
        deadline: None,
    }
}

/// A worker of [`connect_stand_in`] that runs a shell script.
pub(crate) fn make_script(script: &str) -> WorkerSpec {
    let mut spec = make_worker();
    spec.env.insert(SCRIPT.to_owned(), script.to_owned());
    spec
}

/// Waits until the provider sees a worker as wanted.
pub(crate) async fn await_worker(
    provider: &KubernetesProvider,
    handle: &WorkerHandle,
    what: &str,
    wanted: impl Fn(&ObservedWorker) -> bool,
) -> Result<ObservedWorker> {
    let what = format!("{} to be {what}", handle.resource);
    let seen = await_until(what, WORKER_DEADLINE, async || {
        // The view of the watch: no request is made.
        Ok(match provider.worker_status(handle).await {
            Ok(status) if wanted(&status.observed) => Observed::Ready(status.observed),
            Ok(status) => Observed::NotYet(format!("{:?}", status.observed)),
            Err(error) => Observed::NotYet(error.to_string()),
        })
    });
    Ok(seen.await?)
}

/// Waits until a worker runs.
pub(crate) async fn await_running(
    provider: &KubernetesProvider,
    handle: &WorkerHandle,
) -> Result<ObservedWorker> {
    await_worker(provider, handle, "running", |seen| seen.phase == WorkerPhase::Running).await
}

/// Waits until a worker has failed, and says why.
pub(crate) async fn await_failed(
    provider: &KubernetesProvider,
    handle: &WorkerHandle,
) -> Result<Failure> {
    let failed = |seen: &ObservedWorker| matches!(seen.phase, WorkerPhase::Failed(_));
    match await_worker(provider, handle, "failed", failed).await?.phase {
        WorkerPhase::Failed(failure) => Ok(failure),
        other => anyhow::bail!("{other:?} is no failure"),
    }
}

/// The error of a create that must not succeed.
pub(crate) async fn refusal(
    provider: &KubernetesProvider,
    spec: &WorkerSpec,
) -> Result<ProviderError> {
    match provider.create_worker(spec).await {
        Ok(handle) => anyhow::bail!("{} was created", handle.resource),
        Err(error) => Ok(error),
    }
}

/// The Secret with a worker's one-time password, as only an administrator can read it.
pub(crate) async fn find_secret(env: &CaseEnv, worker: WorkerId) -> Result<Option<ApiSecret>> {
    let secrets = Api::<ApiSecret>::namespaced(env.kube(), env.namespace());
    Ok(secrets.get_opt(&hodei_kubernetes::secret_name(worker)).await?)
}

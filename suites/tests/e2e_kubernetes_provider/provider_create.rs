//! A worker's creation: repeated, in the way of others, and refused.

use anyhow::Result;
use hodei_core::failure::FailureCause;
use hodei_core::provider::WorkerProvider;
use hodei_core::secret::Secret;
use hodei_harness::case::{CaseEnv, CaseOptions, run_case_with};
use hodei_harness::wait::{Observed, await_until};
use hodei_kubernetes::pod_name;
use k8s_openapi::api::core::v1::{Pod, Secret as ApiSecret};
use kube::ResourceExt;
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;

use crate::direct::{
    WORKER_DEADLINE, await_running, connect, connect_as, find_secret, make_worker, refusal,
};
use crate::pods::{make_pod, otp_of, pods, pods_ever};

/// That the namespace has as many managed Secrets as there are workers to register.
async fn assert_secrets(env: &CaseEnv, count: usize) -> Result<()> {
    let secrets = Api::<ApiSecret>::namespaced(env.kube(), env.namespace());
    let list = secrets.list(&ListParams::default().labels("hodei.io/managed=true")).await?;
    let names: Vec<_> = list.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names.len(), count, "{names:?}");
    Ok(())
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_duplicate_create_adopts() {
    run_case_with("lifecycle.create-twice", CaseOptions::cluster_only(), async |env| {
        let provider = connect(env).await?;
        let mut spec = make_worker();
        let handle = provider.create_worker(&spec).await?;
        assert_eq!(provider.create_worker(&spec).await?, handle, "the same again");
        await_running(&provider, &handle).await?;
        // Another server that knows only the password's hash asks with a new one.
        let restarted = connect(env).await?;
        spec.otp = Secret::generate();
        assert_eq!(restarted.create_worker(&spec).await?, handle, "adopted after a restart");
        let kept = otp_of(find_secret(env, spec.worker).await?.unwrap_or_default())?;
        assert!(kept == spec.otp.expose(), "the Secret is not the latest create's");
        assert_eq!(pods_ever(env), 1, "one worker, one pod");
        assert_secrets(env, 1).await?;
        restarted.destroy_worker(&handle).await?;
        assert_secrets(env, 0).await
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_duplicate_create_refuses_a_foreign_pod() {
    run_case_with("lifecycle.create-foreign", CaseOptions::cluster_only(), async |env| {
        let provider = connect(env).await?;
        let spec = make_worker();
        let name = pod_name(spec.worker);
        let foreign: Pod = serde_json::from_value(make_pod(env, &name, &["sleep", "600"]))?;
        let foreign = pods(env).create(&PostParams::default(), &foreign).await?;
        let error = refusal(&provider, &spec).await?;
        assert_eq!(error.cause(), FailureCause::Conflict, "{error}");
        assert!(error.to_string().contains(&name), "{error}");
        assert!(provider.list_workers().await?.is_empty(), "a foreign pod is listed");
        // A sweep after a crash knows the id only, and must not take the pod for its own.
        provider.destroy_unknown(spec.worker).await?;
        let now = pods(env).get(&name).await?;
        assert_eq!(now.uid(), foreign.uid());
        assert_eq!(now.metadata.deletion_timestamp, None, "the foreign pod was told to go");
        assert_eq!(now.labels(), foreign.labels(), "the foreign pod was labelled");
        assert_secrets(env, 0).await
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_quota_is_typed() {
    let options = CaseOptions::cluster_only().pod_quota(1);
    run_case_with("lifecycle.quota", options, async |env| {
        let provider = connect(env).await?;
        let first = provider.create_worker(&make_worker()).await?;
        let second = make_worker();
        let error = refusal(&provider, &second).await?;
        assert_eq!(error.cause(), FailureCause::Quota, "{error}");
        assert!(error.cause().is_transient(), "a full quota is waited for");
        assert!(error.retry_after.is_some_and(|wait| !wait.is_zero()), "{:?}", error.retry_after);
        assert!(error.to_string().contains("exceeded quota: workers"), "{error}");
        assert_secrets(env, 1).await?;
        assert_eq!(provider.health_check().await, Ok(()), "busy is not broken");
        provider.destroy_worker(&first).await?;
        // The controller counts what went a moment later.
        let admitted = await_until("the quota to be free again", WORKER_DEADLINE, async || {
            Ok(match provider.create_worker(&second).await {
                Ok(handle) => Observed::Ready(handle),
                Err(error) => Observed::NotYet(error.to_string()),
            })
        });
        let handle = admitted.await?;
        await_running(&provider, &handle).await?;
        assert_eq!(pods_ever(env), 2);
        provider.destroy_worker(&handle).await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_admission_names_its_rule() {
    run_case_with("lifecycle.admission", CaseOptions::cluster_only(), async |env| {
        let volumes = json!([{"name": "host", "hostPath": {"path": "/"}}]);
        let forbidden = connect_as(env, "unsafe", json!({"volumes": volumes})).await?;
        let plain = connect(env).await?;
        let mut huge = make_worker();
        huge.resources.cpu_limit = Some("5".to_owned());
        for (provider, spec, rules) in [
            (&forbidden, make_worker(), ["violates PodSecurity \"restricted", "hostPath"]),
            (&plain, huge, ["maximum cpu usage per Container is 4", "limit is 5"]),
        ] {
            let error = refusal(provider, &spec).await?;
            assert_eq!(error.cause(), FailureCause::Admission, "{error}");
            assert!(!error.cause().is_transient(), "a rule does not change by waiting");
            for rule in rules {
                assert!(error.to_string().contains(rule), "{rule} is not in {error}");
            }
        }
        let unhealthy = forbidden.health_check().await.unwrap_err();
        assert!(unhealthy.message.contains("hostPath"), "{unhealthy}");
        assert_eq!(pods_ever(env), 0);
        assert_secrets(env, 0).await
    });
}

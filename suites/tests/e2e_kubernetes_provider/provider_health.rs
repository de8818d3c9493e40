//! What a provider says of its own health: well, or the first stage that is broken.

use std::time::{Duration, Instant};

use hodei_core::failure::FailureCause;
use hodei_core::provider::{HealthStage, WorkerProvider};
use hodei_harness::case::{CaseOptions, run_case_with};
use hodei_harness::wait::{Observed, await_until};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::json;

use crate::direct::{WORKER_DEADLINE, connect, connect_as, make_worker, refusal, write_kubeconfig};
use crate::pods::{pods, pods_ever};

/// Where nothing listens.
const NOBODY: &str = "127.0.0.1:1";
/// An operator who asks whether a provider is well does not wait longer than this.
const VERDICT_DEADLINE: Duration = Duration::from_secs(10);

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_health_good() {
    run_case_with("lifecycle.health-good", CaseOptions::cluster_only(), async |env| {
        let provider = connect(env).await?;
        assert_eq!(provider.health_check().await, Ok(()));
        let made = pods(env).list(&ListParams::default()).await?.items;
        assert!(made.is_empty(), "a health check makes nothing: {made:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_health_unreachable() {
    run_case_with("lifecycle.health-unreachable", CaseOptions::cluster_only(), async |env| {
        let path = write_kubeconfig(env, "unreachable.kubeconfig", |kubeconfig| {
            kubeconfig["clusters"][0]["cluster"]["server"] = json!(format!("https://{NOBODY}"));
        })?;
        let provider = connect_as(env, "direct", json!({"kubeconfig": path})).await?;
        let asked = Instant::now();
        let unhealthy = provider.health_check().await.unwrap_err();
        assert_eq!(unhealthy.stage, HealthStage::Tcp, "{unhealthy}");
        assert!(unhealthy.message.contains(NOBODY), "{unhealthy}");
        assert!(asked.elapsed() < VERDICT_DEADLINE, "it took {:?}", asked.elapsed());
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_health_wrong_token() {
    run_case_with("lifecycle.health-wrong-token", CaseOptions::cluster_only(), async |env| {
        let path = write_kubeconfig(env, "wrong-token.kubeconfig", |kubeconfig| {
            kubeconfig["users"][0]["user"]["token"] = json!("not-a-token");
        })?;
        let provider = connect_as(env, "direct", json!({"kubeconfig": path})).await?;
        let unhealthy = provider.health_check().await.unwrap_err();
        assert_eq!(unhealthy.stage, HealthStage::Authentication, "{unhealthy}");
        assert!(!unhealthy.message.contains("not-a-token"), "{unhealthy}");
        let error = refusal(&provider, &make_worker()).await?;
        assert_eq!(error.cause(), FailureCause::Forbidden, "{error}");
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_health_forbidden() {
    run_case_with("lifecycle.health-forbidden", CaseOptions::cluster_only(), async |env| {
        let provider = connect(env).await?;
        assert_eq!(provider.health_check().await, Ok(()));
        let bindings = Api::<RoleBinding>::namespaced(env.kube(), env.namespace());
        bindings.delete("hodei-worker-provider", &DeleteParams::default()).await?;
        // The API server learns of it by a watch of its own, perhaps in the middle of a check.
        let noticed =
            await_until("the missing permission to be told", WORKER_DEADLINE, async || {
                Ok(match provider.health_check().await {
                    Err(unhealthy) if unhealthy.message.contains("rbac.yaml") => {
                        Observed::Ready(unhealthy)
                    }
                    other => Observed::NotYet(format!("{other:?}")),
                })
            });
        let unhealthy = noticed.await?;
        assert_eq!(unhealthy.stage, HealthStage::Authorization, "{unhealthy}");
        for words in ["create pods", "watch pods", "delete secrets", env.namespace()] {
            assert!(unhealthy.message.contains(words), "{words} is not in {unhealthy}");
        }
        let error = refusal(&provider, &make_worker()).await?;
        assert_eq!(error.cause(), FailureCause::Forbidden, "{error}");
        assert!(error.to_string().contains("cannot create resource"), "{error}");
        assert_eq!(pods_ever(env), 0);
        Ok(())
    });
}

//! The cluster, its policies, and the way to the host: if these fail, so will all else.

use std::time::Duration;

use anyhow::Result;
use hodei_harness::case::{
    CONTROL_PLANE_ACCOUNT, CaseOptions, WORKER_ACCOUNT, pod_terminated, read_manifest,
    run_case_with,
};
use hodei_harness::progress::Progress;
use hodei_harness::{cluster, host_route};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::api::{
    Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use serde_json::{Value, json};

use crate::pods::{make_pod, pods};

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_cluster_ready() {
    run_case_with("infra.cluster-ready", CaseOptions::cluster_only(), async |env| {
        let stage = Progress::silent().unlisted();
        cluster::ready::await_ready(&env.environment().cluster, &stage).await?;
        let nodes = Api::<Node>::all(env.kube()).list(&ListParams::default()).await?;
        assert_eq!(nodes.items.len(), env.environment().cluster.nodes.len());
        let accounts = Api::<ServiceAccount>::namespaced(env.kube(), env.namespace());
        let worker = accounts.get(WORKER_ACCOUNT).await?;
        assert_eq!(worker.automount_service_account_token, Some(false));
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_pod_security_refuses_privileged() {
    run_case_with("infra.pod-security", CaseOptions::cluster_only(), async |env| {
        let mut privileged = make_pod(env, "privileged", &["true"]);
        privileged["spec"]["containers"][0]["securityContext"]["privileged"] = json!(true);
        privileged["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] =
            json!(true);
        let refused =
            pods(env).create(&dry_run(), &pod(&privileged)?).await.unwrap_err().to_string();
        assert!(refused.contains("PodSecurity") && refused.contains("restricted"), "{refused}");
        let decent = pods(env).create(&dry_run(), &pod(&make_pod(env, "decent", &["true"]))?).await;
        assert!(decent.is_ok(), "the policy refuses even a restricted pod: {decent:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_rbac_matrix() {
    run_case_with("infra.rbac-matrix", CaseOptions::cluster_only(), async |env| {
        let own = env.namespace().to_owned();
        let server = CONTROL_PLANE_ACCOUNT;
        let table = [
            (server, own.as_str(), "create", "pods", "", true),
            (server, &own, "delete", "pods", "", true),
            (server, &own, "watch", "pods", "", true),
            (server, &own, "get", "pods", "log", true),
            (server, &own, "create", "secrets", "", true),
            (server, &own, "get", "secrets", "", false),
            (server, &own, "list", "secrets", "", false),
            (server, &own, "create", "pods", "exec", false),
            (server, "default", "create", "pods", "", false),
            (server, "kube-system", "get", "secrets", "", false),
            (WORKER_ACCOUNT, &own, "get", "pods", "", false),
            (WORKER_ACCOUNT, &own, "get", "secrets", "", false),
            (WORKER_ACCOUNT, &own, "create", "pods", "", false),
        ];
        let reviews = Api::<SubjectAccessReview>::all(env.kube());
        for (account, namespace, verb, resource, subresource, expected) in table {
            let review: SubjectAccessReview = serde_json::from_value(json!({"spec": {
                "user": format!("system:serviceaccount:{own}:{account}"),
                "resourceAttributes": {
                    "namespace": namespace, "verb": verb, "resource": resource, "subresource": subresource,
                },
            }}))?;
            let answer = reviews.create(&PostParams::default(), &review).await?;
            let allowed = answer.status.is_some_and(|status| status.allowed);
            assert_eq!(
                allowed, expected,
                "{account}: {verb} {resource}/{subresource} in {namespace}"
            );
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_quota_and_limits_enforced() {
    let options = CaseOptions::cluster_only().pod_quota(1);
    run_case_with("infra.quota", options, async |env| {
        let params = PostParams::default();
        pods(env).create(&params, &pod(&make_pod(env, "first", &["sleep", "60"]))?).await?;
        let second = pods(env).create(&params, &pod(&make_pod(env, "second", &["true"]))?).await;
        let refused = second.unwrap_err().to_string();
        assert!(refused.contains("exceeded quota"), "{refused}");
        let mut huge = make_pod(env, "huge", &["true"]);
        huge["spec"]["containers"][0]["resources"]["limits"]["cpu"] = json!("500");
        let refused = pods(env).create(&dry_run(), &pod(&huge)?).await.unwrap_err().to_string();
        assert!(refused.contains("maximum cpu usage"), "{refused}");
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_worker_image_identity() {
    run_case_with("infra.worker-image", CaseOptions::cluster_only(), async |env| {
        let nodes = env.environment().cluster.nodes.clone();
        for node in &nodes {
            let mut manifest = make_pod(env, &format!("image-{node}"), &["true"]);
            manifest["spec"]["nodeName"] = json!(node);
            pods(env).create(&PostParams::default(), &pod(&manifest)?).await?;
        }
        let deadline = Duration::from_secs(60);
        let ended = env.await_pods("a pod of the image on every node", deadline, |all| {
            let ended = all.iter().filter(|record| pod_terminated(&record.pod) == Some(0));
            let ended: Vec<_> = ended.map(|record| record.pod.clone()).collect();
            (ended.len() == nodes.len()).then_some(ended)
        });
        let wanted = &env.environment().worker_image.id;
        for pod in ended.await? {
            let status =
                pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
            let id = &status[0].image_id;
            assert!(id.ends_with(wanted.as_str()), "the node runs {id}, built was {wanted}");
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_host_route_from_every_node() {
    run_case_with("infra.host-route", CaseOptions::cluster_only(), async |env| {
        let stage = Progress::silent().unlisted();
        let environment = env.environment();
        let run = hodei_harness::run_dir::RunId::generate();
        let route = host_route::resolve(&environment.cluster, &stage).await?;
        assert_eq!(route, environment.host, "the address changed since the environment was made");
        let (cluster, image) = (&environment.cluster, &environment.worker_image);
        host_route::prove(&route, cluster, image, env.namespace(), &run, &stage).await?;
        assert_eq!(env.recorder().pods().len(), cluster.nodes.len(), "one probe on each node");
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_manifests_valid() {
    run_case_with("infra.manifests", CaseOptions::cluster_only(), async |env| {
        let directory = env.environment().workspace.join("deploy/kubernetes");
        let params = PatchParams { dry_run: true, ..PatchParams::apply("hodei-e2e").force() };
        let mut checked = 0;
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            for mut document in read_manifest(&path)? {
                let (resource, clustered) = resource_of(&document);
                let api: Api<DynamicObject> = if clustered {
                    Api::all_with(env.kube(), &resource)
                } else {
                    document["metadata"]["namespace"] = json!(env.namespace());
                    Api::namespaced_with(env.kube(), env.namespace(), &resource)
                };
                let name = document["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let applied = api.patch(&name, &params, &Patch::Apply(&document)).await;
                assert!(applied.is_ok(), "{} {name}: {applied:?}", path.display());
                checked += 1;
            }
        }
        assert!(checked >= 8, "only {checked} objects were found");
        Ok(())
    });
}

fn resource_of(document: &Value) -> (ApiResource, bool) {
    let kind = document["kind"].as_str().unwrap_or_default();
    let version = document["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let clustered = kind.starts_with("Cluster") || kind == "Namespace";
    (ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind)), clustered)
}

fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}

fn pod(manifest: &Value) -> Result<Pod> {
    Ok(serde_json::from_value(manifest.clone())?)
}

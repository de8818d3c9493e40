//! The namespace of a case: Pod Security, quota, limits, the accounts and permissions of
//! deploy/kubernetes/rbac-test.yaml, and a kubeconfig of the control plane's account, so that the
//! server under test can do what its permissions allow and no more.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{LimitRange, Namespace, ResourceQuota, ServiceAccount};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams};
use kube::config::Kubeconfig;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::CaseOptions;
use crate::cluster::KindCluster;
use crate::environment::Environment;
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::journal::{EntryId, Journal, Resource, State};
use crate::paths::write_atomically;
use crate::run_dir::{CASE_LABEL, EXPIRY_LABEL, RUN_LABEL, RunId};

/// The account of the server under test.
pub const CONTROL_PLANE_ACCOUNT: &str = "hodei-control-plane";
/// The account of the workers.
pub const WORKER_ACCOUNT: &str = "hodei-jobs-worker";
/// Accounts and permissions, in the checkout.
const RBAC: &str = "deploy/kubernetes/rbac-test.yaml";
/// Nobody needs a case's namespace after this long.
const EXPIRY: Duration = Duration::from_secs(4 * 3600);
/// How long a case's token is good for; the shortest that Kubernetes gives is 10 minutes.
pub(super) const TOKEN_VALIDITY: Duration = Duration::from_secs(2 * 3600);

/// A namespace that a case made.
#[derive(Debug)]
pub(super) struct CaseNamespace {
    pub(super) name: String,
    entry: EntryId,
    cluster_objects: Vec<(EntryId, ApiResource, String)>,
}

/// Where and for whom a namespace is made.
pub(super) struct Place<'a> {
    pub(super) client: &'a Client,
    pub(super) environment: &'a Environment,
    pub(super) journal: &'a Journal,
    pub(super) run: &'a RunId,
    pub(super) case: &'a str,
}

impl CaseNamespace {
    /// Makes the namespace and all that belongs into it.
    pub(super) async fn create(
        place: &Place<'_>,
        name: &str,
        options: &CaseOptions,
    ) -> Result<Self> {
        let subject = || format!("namespace {name}");
        let cluster = &place.environment.cluster;
        let entry = place.journal.intend(Resource::Namespace {
            kubeconfig: cluster.kubeconfig.clone(),
            context: cluster.context.clone(),
            name: name.to_owned(),
        })?;
        let namespace = object::<Namespace>(json!({"metadata": {
            "name": name,
            "labels": labels(place, true),
        }}))?;
        let namespaces = Api::<Namespace>::all(place.client.clone());
        let params = PostParams::default();
        namespaces.create(&params, &namespace).await.infrastructure("create", subject())?;
        place.journal.mark(entry, State::Created)?;
        let mut made = Self { name: name.to_owned(), entry, cluster_objects: Vec::new() };
        made.create_limits(place, options).await?;
        made.apply(place, &place.environment.workspace.join(RBAC)).await?;
        Ok(made)
    }

    async fn create_limits(&self, place: &Place<'_>, options: &CaseOptions) -> Result<()> {
        let params = PostParams::default();
        let subject = || format!("the limits of namespace {}", self.name);
        let quota = object::<ResourceQuota>(json!({
            "metadata": {"name": "workers", "labels": labels(place, false)},
            "spec": {"hard": {"pods": options.pod_quota.to_string(), "count/secrets": "400"}},
        }))?;
        let limits = object::<LimitRange>(json!({
            "metadata": {"name": "workers", "labels": labels(place, false)},
            "spec": {"limits": [{
                "type": "Container",
                "defaultRequest": {"cpu": "10m", "memory": "32Mi"},
                "default": {"cpu": "500m", "memory": "128Mi"},
                "max": {"cpu": "4", "memory": "8Gi"},
            }]},
        }))?;
        let quotas = Api::<ResourceQuota>::namespaced(place.client.clone(), &self.name);
        let ranges = Api::<LimitRange>::namespaced(place.client.clone(), &self.name);
        let (quota, limits) =
            tokio::join!(quotas.create(&params, &quota), ranges.create(&params, &limits));
        quota.infrastructure("create", subject())?;
        limits.infrastructure("create", subject())?;
        Ok(())
    }

    /// Creates the objects of a manifest: those of a namespace in this one, those of the cluster
    /// under a name of their own and journalled. What is there already is left as it is.
    pub(super) async fn apply(&mut self, place: &Place<'_>, manifest: &Path) -> Result<()> {
        let documents = read_manifest(manifest)?;
        self.apply_documents(place, documents, &manifest.display().to_string()).await
    }

    /// As [`Self::apply`], for what was read from a manifest and changed.
    pub(super) async fn apply_documents(
        &mut self,
        place: &Place<'_>,
        documents: Vec<Value>,
        manifest: &str,
    ) -> Result<()> {
        for mut document in documents {
            let type_name = document["kind"].as_str().unwrap_or_default().to_owned();
            if type_name == "Namespace" {
                continue;
            }
            let clustered = type_name.starts_with("Cluster");
            self.rewrite(&mut document, clustered, place);
            let object: DynamicObject = serde_json::from_value(document).classify(
                FailureClass::Harness,
                "understand",
                manifest,
            )?;
            let resource = api_resource(&object);
            let name = object.name_any();
            let api = if clustered {
                let cluster = &place.environment.cluster;
                let entry = place.journal.intend(Resource::ClusterObject {
                    kubeconfig: cluster.kubeconfig.clone(),
                    context: cluster.context.clone(),
                    type_name: type_name.clone(),
                    name: name.clone(),
                })?;
                self.cluster_objects.push((entry, resource.clone(), name.clone()));
                Api::<DynamicObject>::all_with(place.client.clone(), &resource)
            } else {
                Api::<DynamicObject>::namespaced_with(place.client.clone(), &self.name, &resource)
            };
            let made = api.create(&PostParams::default(), &object).await;
            match made {
                Err(kube::Error::Api(status)) if status.is_already_exists() => {}
                made => drop(made.infrastructure("create", format!("{type_name} {name}"))?),
            }
        }
        Ok(())
    }

    fn rewrite(&self, document: &mut Value, clustered: bool, place: &Place<'_>) {
        let own =
            |name: &Value| json!(format!("{}-{}", name.as_str().unwrap_or_default(), self.name));
        document["metadata"]["labels"] = labels(place, false);
        if clustered {
            document["metadata"]["name"] = own(&document["metadata"]["name"]);
        } else {
            document["metadata"]["namespace"] = json!(self.name);
        }
        if document["roleRef"]["kind"] == "ClusterRole" {
            document["roleRef"]["name"] = own(&document["roleRef"]["name"]);
        }
        for subject in document["subjects"].as_array_mut().into_iter().flatten() {
            subject["namespace"] = json!(self.name);
        }
    }

    /// Tells everything to go. The namespace takes seconds to; the run's audit sees that it does.
    pub(super) async fn delete(&self, client: &Client, journal: &Journal) -> Result<()> {
        for (entry, resource, name) in &self.cluster_objects {
            let api = Api::<DynamicObject>::all_with(client.clone(), resource);
            gone_or(api.delete(name, &DeleteParams::default()).await.map(drop))
                .infrastructure("delete", name)?;
            journal.mark(*entry, State::Removed)?;
        }
        let namespaces = Api::<Namespace>::all(client.clone());
        gone_or(namespaces.delete(&self.name, &DeleteParams::default()).await.map(drop))
            .infrastructure("delete", format!("namespace {}", self.name))?;
        journal.mark(self.entry, State::Removing)
    }

    /// Leaves everything for a person to look at.
    pub(super) fn keep(&self, journal: &Journal) -> Result<()> {
        for (entry, _, _) in &self.cluster_objects {
            journal.mark(*entry, State::Kept)?;
        }
        journal.mark(self.entry, State::Kept)
    }
}

/// A missing thing is as good as a deleted one.
fn gone_or(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other,
    }
}

fn labels(place: &Place<'_>, security: bool) -> Value {
    let expires =
        Timestamp::now().as_second() + i64::try_from(EXPIRY.as_secs()).unwrap_or(i64::MAX);
    let mut labels = json!({
        RUN_LABEL: place.run.as_str(),
        CASE_LABEL: place.case,
        EXPIRY_LABEL: expires.to_string(),
    });
    if security {
        for mode in ["enforce", "audit", "warn"] {
            labels[format!("pod-security.kubernetes.io/{mode}")] = json!("restricted");
        }
    }
    labels
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).classify(FailureClass::Harness, "make", "a manifest")
}

fn api_resource(object: &DynamicObject) -> ApiResource {
    let types = object.types.clone().unwrap_or_default();
    let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind))
}

/// The documents of a YAML file.
///
/// # Errors
/// It cannot be read or is not YAML.
pub fn read_manifest(path: &Path) -> Result<Vec<Value>> {
    let subject = || path.display().to_string();
    let text = std::fs::read_to_string(path).classify(FailureClass::Harness, "read", subject())?;
    let documents = serde_saphyr::from_multiple::<Value>(&text);
    let documents = documents.map_err(|error| error.to_string());
    let documents = documents.classify(FailureClass::Harness, "understand", subject())?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// Writes a kubeconfig of the control plane's account in `namespace`, readable by its owner only.
///
/// # Errors
/// The API server gives no token, or the file cannot be written.
pub(crate) async fn write_kubeconfig(
    client: &Client,
    cluster: &KindCluster,
    namespace: &str,
    directory: &Path,
    validity: Duration,
) -> Result<PathBuf> {
    let subject = || format!("a kubeconfig of {CONTROL_PLANE_ACCOUNT}");
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
    let request = object::<TokenRequest>(json!({
        "spec": {"audiences": [], "expirationSeconds": validity.as_secs()},
    }))?;
    let issued = accounts
        .create_token_request(CONTROL_PLANE_ACCOUNT, &PostParams::default(), &request)
        .await
        .infrastructure("issue", subject())?;
    let token = issued.status.map(|status| status.token).unwrap_or_default();
    let admin = Kubeconfig::read_from(&cluster.kubeconfig).infrastructure("read", subject())?;
    let context = admin.contexts.iter().find(|known| known.name == cluster.context);
    let wanted = context.and_then(|known| known.context.as_ref()).map(|known| &known.cluster);
    let reached = admin.clusters.iter().find(|known| Some(&known.name) == wanted);
    let reached = reached.and_then(|known| known.cluster.clone()).ok_or_else(|| {
        let cause = format!(
            "{} has no cluster of context {}",
            cluster.kubeconfig.display(),
            cluster.context
        );
        HarnessError::new(FailureClass::Harness, "make", subject(), cause)
    })?;
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster.name, "cluster": reached}],
        "users": [{"name": CONTROL_PLANE_ACCOUNT, "user": {"token": token}}],
        "contexts": [{"name": namespace, "context": {
            "cluster": cluster.name, "user": CONTROL_PLANE_ACCOUNT, "namespace": namespace,
        }}],
        "current-context": namespace,
    });
    let path = directory.join("control-plane.kubeconfig");
    // JSON is YAML.
    write_atomically(&path, kubeconfig.to_string().as_bytes(), 0o600)?;
    Ok(path)
}

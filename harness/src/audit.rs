//! The audit of a whole run: cluster, Postgres, engine and process table are asked, not the
//! journal, whether anything of the run is left. What was kept on purpose is no leak.

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, ListParams};
use kube::{Client, Resource, ResourceExt};

use crate::cluster::{KindCluster, ready};
use crate::engine::docker;
use crate::failure::{Classify, Result};
use crate::journal::{Contents, Resource as Journalled, State};
use crate::lineage;
use crate::progress::Stage;
use crate::run_dir::{RUN_LABEL, RunId};

/// Everything of a run that is still there, each as "kind name".
///
/// # Errors
/// The cluster or the engine does not answer, so that nothing can be said.
pub async fn leaks(
    run: &RunId,
    cluster: &KindCluster,
    journal: &Contents,
    stage: &Stage,
) -> Result<Vec<String>> {
    let client = ready::client(cluster).await?;
    let mut left = labelled::<Namespace>(&client, run, "namespace").await?;
    left.extend(labelled::<ClusterRole>(&client, run, "ClusterRole").await?);
    left.extend(labelled::<ClusterRoleBinding>(&client, run, "ClusterRoleBinding").await?);
    left.extend(containers(run, stage).await?);
    for entry in &journal.entries {
        if let Journalled::Process { program } = &entry.resource {
            let of_this = lineage::marked(&entry.id.to_string());
            left.extend(
                of_this.iter().map(|process| format!("process {program} ({})", process.pid)),
            );
        }
    }
    let kept: Vec<_> = journal
        .entries
        .iter()
        .filter(|entry| entry.state == State::Kept)
        .map(|entry| entry.resource.describe())
        .collect();
    left.retain(|found| !kept.contains(found));
    Ok(left)
}

async fn labelled<K>(client: &Client, run: &RunId, what: &str) -> Result<Vec<String>>
where
    K: Resource<Scope = ClusterResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let params = ListParams::default().labels(&format!("{RUN_LABEL}={run}"));
    let list = Api::<K>::all(client.clone()).list_metadata(&params).await;
    let list = list.infrastructure("list", format!("each {what} of run {run}"))?;
    Ok(list.iter().map(|object| format!("{what} {}", object.name_any())).collect())
}

async fn containers(run: &RunId, stage: &Stage) -> Result<Vec<String>> {
    let filter = format!("label={RUN_LABEL}={run}");
    let list =
        docker(["ps", "--all", "--filter", &filter, "--format", "{{.Names}}"]).run(stage).await;
    let output = list.infrastructure("list", format!("containers of run {run}"))?;
    Ok(output.stdout.lines().map(|name| format!("container {name}")).collect())
}

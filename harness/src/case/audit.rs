//! The audit of one case: when it has ended, cluster and database must agree that nothing is left.

use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::api::{Api, ListParams};
use kube::{Resource, ResourceExt};

use super::CaseEnv;
use crate::failure::{Classify, Result};
use crate::wait::{Observed, await_until};

/// How long a control plane may take to clear up after the last job.
const SETTLE_DEADLINE: Duration = Duration::from_secs(45);
/// What the provider puts on everything it makes.
const MANAGED: &str = "hodei.io/managed=true";
/// What of the database is not over.
const OPEN: [(&str, &str); 3] = [
    ("job", "SELECT id, state, reason FROM jobs WHERE finished_at IS NULL"),
    (
        "attempt",
        "SELECT job_id, epoch, state, reason FROM attempts WHERE state NOT IN ('finished', 'lost')",
    ),
    ("worker", "SELECT id, state, reason FROM workers WHERE state <> 'terminated'"),
];

impl CaseEnv {
    /// Waits until nothing is left of what the case made through the server.
    ///
    /// # Errors
    /// Something is still there at the deadline: the error lists it.
    pub(super) async fn audit(&self) -> Result<()> {
        let what = format!("nothing to be left of case {}", self.id);
        await_until(what, SETTLE_DEADLINE, async || {
            let mut left = self.left_in_cluster().await?;
            if self.stack.is_some() {
                left.extend(self.left_in_database().await?);
            }
            Ok(if left.is_empty() {
                Observed::Ready(())
            } else {
                Observed::NotYet(left.join("; "))
            })
        })
        .await
    }

    async fn left_in_cluster(&self) -> Result<Vec<String>> {
        let (pods, secrets, claims) = tokio::try_join!(
            self.managed::<Pod>("pod"),
            self.managed::<Secret>("secret"),
            self.managed::<PersistentVolumeClaim>("volume claim"),
        )?;
        Ok([pods, secrets, claims].concat())
    }

    async fn managed<K>(&self, what: &str) -> Result<Vec<String>>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let api = Api::<K>::namespaced(self.client.clone(), self.namespace());
        let list = api.list_metadata(&ListParams::default().labels(MANAGED)).await;
        let list = list.infrastructure("list", format!("each {what} of {}", self.namespace()))?;
        Ok(list.iter().map(|object| format!("{what} {}", object.name_any())).collect())
    }

    async fn left_in_database(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for (what, sql) in OPEN {
            left.extend(self.rows(sql).await?.iter().map(|row| format!("{what} {row}")));
        }
        Ok(left)
    }
}

//! What a case may do to what it works with, each with its way back: the proxies of the worker link and
//! in front of the Kubernetes API, nodes, the API server. What is disturbed is undone when the case ends, however
//! it does; after a SIGKILL the journal says what is left to undo.

use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, EvictParams, ListParams};

use super::env::client_by;
use super::{CONTROL_PLANE_ACCOUNT, CaseEnv, CaseOptions};
use crate::api_audit::{self, ApiRequest};
use crate::api_proxy::ApiProxy;
use crate::cluster::network;
use crate::cluster::node::{self, Stop};
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::journal::{EntryId, Resource, State};
use crate::link_proxy::LinkProxy;
use crate::postgres;

/// What a case holds to disturb with, and what it has disturbed.
#[derive(Debug, Default)]
pub(super) struct Disturbance {
    proxy: Option<ApiProxy>,
    stopped: Vec<(EntryId, String)>,
    cordoned: Vec<(EntryId, String)>,
    given: Vec<(EntryId, String, String)>,
    /// Containers beside the cluster's nodes.
    pub(super) neighbours: Vec<(EntryId, String)>,
}

impl Disturbance {
    pub(super) async fn start(
        options: &CaseOptions,
        kubeconfig: &Path,
        namespace: &str,
        directory: &Path,
    ) -> Result<Self> {
        if !options.api_proxy {
            return Ok(Self::default());
        }
        let upstream = client_by(kubeconfig).await?;
        let proxy = ApiProxy::start(upstream, namespace, directory).await?;
        Ok(Self { proxy: Some(proxy), ..Self::default() })
    }

    /// The kubeconfig through the proxy, if there is one.
    pub(super) fn kubeconfig(&self) -> Option<&Path> {
        self.proxy.as_ref().map(ApiProxy::kubeconfig)
    }
}

impl CaseEnv {
    /// The proxy between the case's provider and the Kubernetes API.
    ///
    /// # Errors
    /// The case asked for none.
    pub fn api_proxy(&self) -> Result<&ApiProxy> {
        self.disturbance.proxy.as_ref().ok_or_else(|| {
            let cause = "it asked for none (CaseOptions::api_proxy)";
            let subject = format!("the API proxy of case {}", self.id);
            HarnessError::new(FailureClass::Harness, "use", subject, cause)
        })
    }

    /// The proxy between the case's workers and its server.
    ///
    /// # Errors
    /// The case asked for none.
    pub fn link_proxy(&self) -> Result<&LinkProxy> {
        let proxy = self.stack.as_ref().and_then(|stack| stack.link_proxy.as_ref());
        proxy.ok_or_else(|| {
            let cause = "it asked for none (CaseOptions::link_proxy)";
            let subject = format!("the link proxy of case {}", self.id);
            HarnessError::new(FailureClass::Harness, "use", subject, cause)
        })
    }

    /// The requests that the case's control plane has made since a moment, by the API server's own
    /// audit log. Feature `audit-log`.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn api_requests(&self, since: Timestamp) -> Result<Vec<ApiRequest>> {
        let user = format!("system:serviceaccount:{}:{CONTROL_PLANE_ACCOUNT}", self.namespace());
        api_audit::requests(&self.environment.cluster, &user, since).await
    }

    /// Stops a worker node until [`Self::start_node`] or the end of the case. The cluster takes
    /// about 50 s to call it not Ready: [`Self::await_node_ready`]. Features `node-control` and
    /// `multi-node`; such a case is exclusive.
    ///
    /// # Errors
    /// It is the control plane's node, or the engine fails.
    pub async fn stop_node(&mut self, name: &str, how: Stop) -> Result<()> {
        let cluster = self.environment.cluster.name.clone();
        let resource = Resource::NodeDown { cluster: cluster.clone(), name: name.to_owned() };
        let entry = self.journal.intend(resource)?;
        self.disturbance.stopped.push((entry, name.to_owned()));
        node::stop(&cluster, name, how).await?;
        self.journal.mark(entry, State::Created)
    }

    /// Starts a node that was stopped and waits until it is Ready.
    ///
    /// # Errors
    /// It is not Ready within two and a half minutes.
    pub async fn start_node(&mut self, name: &str) -> Result<()> {
        node::start(&self.environment.cluster.name, name).await?;
        node::await_ready(&self.client, name, true).await?;
        network::connect(&self.environment.cluster).await?;
        for (entry, _) in self.disturbance.stopped.extract_if(.., |(_, node)| node == name) {
            self.journal.mark(entry, State::Removed)?;
        }
        Ok(())
    }

    /// Waits until a node is Ready, or not.
    ///
    /// # Errors
    /// It is not so within two and a half minutes.
    pub async fn await_node_ready(&self, name: &str, wanted: bool) -> Result<()> {
        node::await_ready(&self.client, name, wanted).await
    }

    /// Keeps new pods off a node until [`Self::uncordon`] or the end of the case. Feature
    /// `node-control`; such a case is exclusive.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn cordon(&mut self, name: &str) -> Result<()> {
        let cluster = &self.environment.cluster;
        let entry = self.journal.intend(Resource::NodeCordoned {
            kubeconfig: cluster.kubeconfig.clone(),
            context: cluster.context.clone(),
            name: name.to_owned(),
        })?;
        self.disturbance.cordoned.push((entry, name.to_owned()));
        node::set_schedulable(&self.client, name, false).await?;
        self.journal.mark(entry, State::Created)
    }

    /// Lets pods onto a node again.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn uncordon(&mut self, name: &str) -> Result<()> {
        node::set_schedulable(&self.client, name, true).await?;
        for (entry, _) in self.disturbance.cordoned.extract_if(.., |(_, node)| node == name) {
            self.journal.mark(entry, State::Removed)?;
        }
        Ok(())
    }

    /// Gives a node so many of an extended resource until [`Self::take_resource`] or the end of the
    /// case. Its name has to be the case's own. Feature `node-control`.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn give_resource(&mut self, node: &str, resource: &str, count: u32) -> Result<()> {
        let cluster = &self.environment.cluster;
        let entry = self.journal.intend(Resource::NodeResource {
            kubeconfig: cluster.kubeconfig.clone(),
            context: cluster.context.clone(),
            name: node.to_owned(),
            resource: resource.to_owned(),
        })?;
        self.disturbance.given.push((entry, node.to_owned(), resource.to_owned()));
        node::set_resource(&self.client, node, resource, Some(count)).await?;
        self.journal.mark(entry, State::Created)
    }

    /// Takes an extended resource from a node that was given it.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn take_resource(&mut self, node: &str, resource: &str) -> Result<()> {
        node::set_resource(&self.client, node, resource, None).await?;
        let taken = |(_, on, what): &mut (EntryId, String, String)| on == node && what == resource;
        for (entry, ..) in self.disturbance.given.extract_if(.., taken) {
            self.journal.mark(entry, State::Removed)?;
        }
        Ok(())
    }

    /// Asks for a pod of the case to be evicted, as a drain does.
    ///
    /// # Errors
    /// The API server refuses: there is no such pod, or a disruption budget forbids it.
    pub async fn evict(&self, pod: &str) -> Result<()> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), self.namespace());
        let evicted = pods.evict(pod, &EvictParams::default()).await;
        evicted.map(drop).infrastructure("evict", format!("pod {pod}"))
    }

    /// Cordons a node and evicts the case's own pods from it; answers how many. Pods of others
    /// stay.
    ///
    /// # Errors
    /// As for [`Self::cordon`] and [`Self::evict`].
    pub async fn drain(&mut self, name: &str) -> Result<usize> {
        self.cordon(name).await?;
        let pods = Api::<Pod>::namespaced(self.client.clone(), self.namespace());
        let on_node = ListParams::default().fields(&format!("spec.nodeName={name}"));
        let found = pods.list_metadata(&on_node).await;
        let found = found.infrastructure("list", format!("the pods on {name}"))?;
        for pod in &found {
            self.evict(&pod.name_any()).await?;
        }
        Ok(found.items.len())
    }

    /// Kills the API server and waits until it is back. Every case notices: such a case is
    /// exclusive. Feature `node-control`.
    ///
    /// # Errors
    /// It is not back within two minutes.
    pub async fn restart_api_server(&self) -> Result<()> {
        node::restart_api_server(&self.environment.cluster).await
    }

    /// Makes Postgres crash and waits until it is back. Every case notices: such a case is exclusive.
    ///
    /// # Errors
    /// As for [`postgres::crash`].
    pub async fn crash_postgres(&self) -> Result<()> {
        postgres::crash(&self.environment.postgres.admin_url).await
    }

    /// Undoes what is still disturbed; all of it is tried, the first error is answered.
    pub(super) async fn end_disturbances(&mut self) -> Result<()> {
        let mut first = self.remove_neighbours().await;
        if let Ok(link) = self.link_proxy() {
            link.heal();
        }
        if let Some(proxy) = &self.disturbance.proxy {
            first = first.and(proxy.heal().await);
        }
        let names = |list: &[(EntryId, String)]| -> Vec<String> {
            list.iter().map(|(_, name)| name.clone()).collect()
        };
        for name in names(&self.disturbance.stopped) {
            first = first.and(self.start_node(&name).await);
        }
        for name in names(&self.disturbance.cordoned) {
            first = first.and(self.uncordon(&name).await);
        }
        for (_, node, resource) in self.disturbance.given.clone() {
            first = first.and(self.take_resource(&node, &resource).await);
        }
        first
    }
}

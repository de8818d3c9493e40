//! A pod like a worker's on each node that takes workers: whether the image is there and starts under
//! `restricted`, and whether the server can be reached from it, hop by hop.
//!
//! Each is in the journal before it is made, and gone when this returns.

use std::time::{Duration, Instant};

use futures::StreamExt;
use hodei_kubernetes::KubernetesConfig;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, ListParams, LogParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::admission::{Admission, little, worker_pod};
use super::ask::ask;
use super::ended::{Ended, describe, ended, fix_of, hop_of};
use super::server::ServerAddress;
use crate::doctor::{Check, Status};
use crate::failure::{Classify, FailureClass, Result};
use crate::host_route::{Hops, script};
use crate::journal::{Journal, Resource, State};
use crate::progress::Stage;
use crate::reap::delete_pod;
use crate::run_dir::{RUN_LABEL, RunDir};
use crate::wait::{Observed, Wait};

/// Probes at a time.
const AT_ONCE: usize = 8;
/// After its deadline a probe that nobody deleted goes on no longer than this.
const LEFT_ALONE: Duration = Duration::from_secs(60);
/// Nodes that are probed at most.
pub(super) const MOST: usize = 100;
/// How a probe is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// From its creation to its verdict: pulling an image takes longest.
    pub(super) deadline: Duration,
    /// Between two looks.
    pub(super) interval: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(120), interval: Duration::from_millis(500) }
    }
}

/// What probes are made of, and where.
pub(super) struct Prober<'a> {
    pub(super) client: &'a Client,
    pub(super) config: &'a KubernetesConfig,
    pub(super) server: Option<&'a ServerAddress>,
    pub(super) run: &'a RunDir,
    pub(super) journal: Journal,
    pub(super) context: &'a str,
    pub(super) stage: &'a Stage,
    pub(super) patience: Patience,
    /// How many more pods the quota admits, if that is bounded.
    pub(super) room: Option<u64>,
}

impl Prober<'_> {
    /// A check for each node, in their order; without nodes, one for where the scheduler puts it.
    ///
    /// # Errors
    /// A signal came, or the journal cannot be written. What was made is deleted.
    pub(super) async fn probe(&self, nodes: Option<&[String]>) -> Result<Vec<Check>> {
        let places: Vec<_> = match nodes {
            Some(nodes) => nodes.iter().take(MOST).map(|node| Some(node.as_str())).collect(),
            None => vec![None],
        };
        let probes = places.into_iter().enumerate().map(|(index, node)| self.on(index, node));
        // As many at a time as the quota admits; if it admits none, one is told so.
        let room = self.room.and_then(|room| usize::try_from(room).ok()).unwrap_or(AT_ONCE);
        let checks = futures::stream::iter(probes).buffered(room.clamp(1, AT_ONCE));
        checks.collect::<Vec<_>>().await.into_iter().collect()
    }

    async fn on(&self, index: usize, node: Option<&str>) -> Result<Check> {
        let image = &self.config.image;
        let id = node.map_or_else(|| "probe".to_owned(), |node| format!("probe {node}"));
        let needed = match self.server {
            Some(server) => format!("{image} starts, and reaches {server}"),
            None => format!("{image} starts"),
        };
        let check = |status, found: String| Check::new(&id, &needed, status, found);
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.config.namespace);
        let name = format!("hodei-doctor-{}-{index}", self.run.id.short());
        let pod = self.pod(&name, node)?;
        let entry = self.journal.intend(Resource::Pod {
            kubeconfig: self.config.kubeconfig.clone().unwrap_or_default().into(),
            context: self.context.to_owned(),
            namespace: self.config.namespace.clone(),
            name: name.clone(),
        })?;
        let begun = Instant::now();
        let made = match ask(pods.create(&PostParams::default(), &pod)).await {
            Ok(made) => made,
            Err(refused) => {
                // Otherwise it may have been made: the end of the visit looks.
                if refused.is_certain() {
                    self.journal.mark(entry, State::Removed)?;
                }
                return Ok(Admission::from(refused).check(&id, &needed));
            }
        };
        self.journal.mark(entry, State::Created)?;
        let ended = self.ended(&pods, &name).await;
        let said = match ended {
            Ok(Ended::Exited(0)) | Err(_) => String::new(),
            Ok(_) => ask(pods.logs(&name, &LogParams::default())).await.unwrap_or_default(),
        };
        let warning = match ended {
            Ok(Ended::Exited(_)) => None,
            Ok(Ended::Stuck(..)) | Err(_) => self.last_warning(&name).await,
        };
        let deleted = delete_pod(&pods, &made).await;
        if deleted.is_ok() {
            self.journal.mark(entry, State::Removed)?;
        }
        let took = begun.elapsed().as_secs_f64();
        Ok(match ended {
            Err(error) if error.is_interrupted() => return Err(error),
            Err(error) => {
                let event = warning.map(|event| format!("; last warning: {event}"));
                check(Status::Fail, format!("{}{}", error.source, event.unwrap_or_default()))
                    .fix("kubectl describe pod says more of a worker that stays like this")
            }
            Ok(Ended::Stuck(reason, words)) => {
                let fix = fix_of(&reason);
                let words = if words.is_empty() { warning.unwrap_or_default() } else { words };
                check(Status::Fail, format!("{reason}: {words}")).fix(fix)
            }
            Ok(Ended::Exited(0)) => check(Status::Ok, self.proved(took)),
            Ok(Ended::Exited(code)) => {
                let (hop, fix) = hop_of(code);
                check(Status::Fail, format!("{hop}: {}", last_line(&said))).fix(fix)
            }
        })
    }

    fn proved(&self, took: f64) -> String {
        match self.server.map(|server| server.hops) {
            Some(Hops::Grpc) => format!("started; name, TCP and gRPC answer ({took:.1} s)"),
            Some(Hops::Tcp) => format!("started; name and TCP answer ({took:.1} s)"),
            None => format!("started ({took:.1} s)"),
        }
    }

    /// A worker's pod that runs the probe's script, asks for little, and is not a provider's.
    fn pod(&self, name: &str, node: Option<&str>) -> Result<Pod> {
        let mut pod = worker_pod(self.config);
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.labels = Some([(RUN_LABEL.to_owned(), self.run.id.to_string())].into());
        let script = match self.server {
            Some(server) => script(&server.host, server.port, server.hops),
            None => "exit 0".to_owned(),
        };
        let harness = FailureClass::Harness;
        if let Some(spec) = &mut pod.spec {
            let longest = self.patience.deadline + LEFT_ALONE;
            spec.active_deadline_seconds = i64::try_from(longest.as_secs()).ok();
            spec.termination_grace_period_seconds = Some(0);
            for container in &mut spec.containers {
                container.command = Some(vec!["bash".into(), "-c".into(), script.clone()]);
                container.args = None;
                // The one-time password of a worker is in a Secret that is not there.
                container.env = None;
                container.resources = Some(little());
            }
            if let Some(node) = node {
                // Through the scheduler, as a worker goes: with `nodeName` nobody would look.
                let terms = json!([{"matchFields": [
                    {"key": "metadata.name", "operator": "In", "values": [node]},
                ]}]);
                let affinity = json!({"nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
                }});
                let affinity = serde_json::from_value(affinity);
                spec.affinity = Some(affinity.classify(harness, "make", "a probe")?);
            }
        }
        Ok(pod)
    }

    async fn ended(&self, pods: &Api<Pod>, name: &str) -> Result<Ended> {
        let wait = Wait {
            class: FailureClass::Infrastructure,
            what: format!("probe {name}"),
            deadline: self.patience.deadline,
            interval: self.patience.interval,
        };
        wait.until(self.stage, async || {
            Ok(match ask(pods.get(name)).await {
                Ok(pod) => match ended(&pod) {
                    Some(ended) => Observed::Ready(ended),
                    None => Observed::NotYet(describe(&pod)),
                },
                Err(refused) => Observed::NotYet(refused.to_string()),
            })
        })
        .await
    }

    /// The newest warning of the cluster about a pod.
    async fn last_warning(&self, name: &str) -> Option<String> {
        let events = Api::<Event>::namespaced(self.client.clone(), &self.config.namespace);
        let of_pod = ListParams::default().fields(&format!("involvedObject.name={name}"));
        let events = ask(events.list(&of_pod)).await.ok()?.items.into_iter();
        let warnings = events.filter(|event| event.type_.as_deref() == Some("Warning"));
        let newest = warnings.max_by_key(|event| {
            event
                .last_timestamp
                .as_ref()
                .map(|time| time.0)
                .or(event.creation_timestamp().map(|time| time.0))
        })?;
        let (reason, words) =
            (newest.reason.unwrap_or_default(), newest.message.unwrap_or_default());
        Some(format!("{reason}: {words}"))
    }
}

/// What a script said last.
fn last_line(said: &str) -> &str {
    said.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("nothing was said")
}

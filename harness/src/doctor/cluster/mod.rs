//! Whether a cluster that is there already is fit to run workers: version, rights, Pod Security,
//! bounds, nodes, and a probe on each node that takes workers.
//!
//! What can be seen without making anything is seen so. Probes are the only thing that is made; they
//! are in the journal of a run of their own before they are, and gone when this returns. Where a right
//! is missing, it is named, and what needs it is left out. Whether the cluster's network enforces
//! policies is left to others.

mod admission;
mod ask;
mod ended;
mod probe;
mod rights;
mod room;
mod server;

use hodei_kubernetes::KubernetesConfig;
use kube::Client;

pub use server::ServerAddress;

use self::admission::DryRuns;
use self::ask::{Refused, ask};
use self::probe::{MOST, Patience, Prober};
use self::rights::Rights;
use super::{Check, Report, Status};
use crate::failure::{HarnessError, Result};
use crate::journal::Journal;
use crate::paths::{Paths, remove_tree};
use crate::progress::Stage;
use crate::reap::{Kept, remove_outstanding};
use crate::run_dir::RunDir;

/// The oldest minor version of Kubernetes 1 that workers run on.
const OLDEST_MINOR: u32 = 28;

/// Which cluster is looked at, and for what workers.
#[derive(Debug, Clone)]
pub struct ClusterRequest {
    /// The provider's settings, with its kubeconfig, and its context if it is not the current one.
    pub config: KubernetesConfig,
    /// Who is impersonated, if anybody is.
    pub user: Option<String>,
    /// The server that workers are to reach, if that is to be proved.
    pub server: Option<ServerAddress>,
}

/// Looks at a cluster.
///
/// # Errors
/// A signal came, or the journal cannot be written. What is wrong with the cluster is in the report
/// and not an error.
pub async fn examine(paths: &Paths, request: &ClusterRequest, stage: &Stage) -> Result<Report> {
    let config = &request.config;
    let kubeconfig = config.kubeconfig.clone().unwrap_or_default();
    let user = request.user.as_deref();
    let connected = ask::connect(kubeconfig.as_ref(), config.context.as_deref(), user).await;
    let (client, context) = match connected {
        Ok(connected) => connected,
        Err(words) => {
            let needed = "a kubeconfig with the context";
            let found = format!("{kubeconfig}: {words}");
            let check = Check::new("kubeconfig", needed, Status::Fail, found);
            let checks = vec![check.fix("say --kubeconfig PATH and --context NAME")];
            return Ok(Report { checks, notes: Vec::new() });
        }
    };
    let visit = Visit { client, context, request, patience: Patience::default() };
    let report = visit.examine(paths, stage).await?;
    if stage.is_cancelled() {
        return Err(HarnessError::interrupted("examine", "the cluster"));
    }
    Ok(report)
}

/// A look at one cluster.
struct Visit<'a> {
    client: Client,
    context: String,
    request: &'a ClusterRequest,
    patience: Patience,
}

impl Visit<'_> {
    async fn examine(&self, paths: &Paths, stage: &Stage) -> Result<Report> {
        let config = &self.request.config;
        let (client, namespace) = (&self.client, config.namespace.as_str());
        stage.line("version");
        let version = version(client, &self.context).await;
        let is_there = version.id == "kubernetes-version";
        let mut report = Report { checks: vec![version], notes: Vec::new() };
        if !is_there {
            return Ok(report);
        }
        stage.line("rights");
        let rights = Rights::review(client, namespace).await;
        report.checks.extend(rights.checks(namespace));
        report.notes = notes(&rights);
        let (check, level) = admission::namespace(client, namespace).await;
        report.checks.push(check);
        let Some(level) = level else { return Ok(report) };
        stage.line("admission and bounds");
        let may_create = rights.may("create", "pods");
        if may_create {
            let dry_runs = DryRuns::make(client, config).await;
            report.checks.extend([dry_runs.security_check(&level), dry_runs.worker_check()]);
        } else {
            let of = |id| not_looked_at(id, "pods are admitted (dry run)", "create pods");
            report.checks.extend([of("pod-security"), of("worker-pod")]);
        }
        let ((bounds, room), (check, nodes)) =
            tokio::join!(room::bounds(client, config), room::nodes(client, config));
        report.checks.extend(bounds);
        report.checks.push(check);
        if self.request.server.is_none() {
            let note = "no --server was given, so that the way to it was not probed";
            report.notes.push(note.to_owned());
        }
        if let Some(nodes) = nodes.as_ref().filter(|nodes| nodes.len() > MOST) {
            report.notes.push(format!("{MOST} of {} nodes were probed", nodes.len()));
        }
        let right = ["create", "get", "delete"].into_iter().find(|verb| !rights.may(verb, "pods"));
        match right {
            Some(verb) => {
                let missing = format!("{verb} pods");
                report.checks.push(not_looked_at(
                    "probe",
                    "the image starts on each node",
                    &missing,
                ));
            }
            None => report.checks.extend(self.probe(paths, nodes.as_deref(), room, stage).await?),
        }
        Ok(report)
    }

    /// Probes, in a run of its own that leaves nothing, not even itself.
    async fn probe(
        &self,
        paths: &Paths,
        nodes: Option<&[String]>,
        room: Option<u64>,
        stage: &Stage,
    ) -> Result<Vec<Check>> {
        if nodes.is_some_and(<[String]>::is_empty) {
            return Ok(Vec::new());
        }
        stage.line("probes");
        let (run, lock) = RunDir::create(paths.state())?;
        let prober = Prober {
            client: &self.client,
            config: &self.request.config,
            server: self.request.server.as_ref(),
            run: &run,
            journal: run.journal(None),
            context: &self.context,
            stage,
            patience: self.patience,
            room,
        };
        let probed = prober.probe(nodes).await;
        let mut left = Vec::new();
        for one in remove_outstanding(&run, Kept::Spare).await? {
            let Some(error) = one.error else { continue };
            let found = format!("{} is left: {}", one.what, error.source);
            let check = Check::new("clean-up", "nothing is left", Status::Fail, found);
            left.push(check.fix("`hodei-e2e reap` removes it"));
        }
        if Journal::read(&run.journal_path())?.outstanding().is_empty() {
            remove_tree(&run.path)?;
        }
        drop(lock);
        let mut checks = probed?;
        checks.extend(left);
        Ok(checks)
    }
}

fn not_looked_at(id: &str, needed: &str, right: &str) -> Check {
    let found = format!("not looked at: {right} is not granted");
    Check::new(id, needed, Status::Warn, found).fix("ask as somebody who may")
}

fn notes(rights: &Rights) -> Vec<String> {
    let policies = "whether the cluster's network enforces policies was not looked at";
    let mut notes = vec![policies.to_owned()];
    if !rights.user.starts_with("system:serviceaccount:") {
        notes.push(format!(
            "rights are those of {}; for the control plane's ask with --as system:serviceaccount:NAMESPACE:NAME",
            if rights.user.is_empty() { "this user" } else { &rights.user }
        ));
    }
    notes
}

/// The version; `api-server` in its place if there is none that answers.
async fn version(client: &Client, context: &str) -> Check {
    let needed = format!("Kubernetes 1.{OLDEST_MINOR} or newer");
    let fail =
        |words: String, fix: &str| Check::new("api-server", &needed, Status::Fail, words).fix(fix);
    let info = match ask(client.apiserver_version()).await {
        Ok(info) => info,
        Err(Refused::Unknown(words)) => {
            return fail(words, "the credentials of the kubeconfig are not accepted: renew them");
        }
        Err(refused) => {
            let fix = "see that the server of the kubeconfig is right and can be reached from here";
            return fail(refused.to_string(), fix);
        }
    };
    let found = format!("{}, context {context}", info.git_version);
    let check = |status| Check::new("kubernetes-version", &needed, status, found);
    // Managed clusters write "34+".
    let minor = info.minor.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>();
    match minor {
        Ok(minor) if info.major != "1" || minor >= OLDEST_MINOR => check(Status::Ok),
        Ok(_) => check(Status::Fail).fix("upgrade the cluster"),
        Err(_) => check(Status::Warn).fix("its version is not understood; it may be new enough"),
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

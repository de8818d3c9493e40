//! Removing what a run left: exactly what its journal lists, and only what still carries the
//! run's mark.
//!
//! A run whose owner lives is never touched, except by that owner itself at its own end.

mod pod;

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ObjectMeta};

pub(crate) use pod::delete as delete_pod;

use crate::cluster::{KindCluster, node, ready};
use crate::environment::SecretUrl;
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::journal::{Entry, Journal, Resource, State};
use crate::lineage;
use crate::postgres;
use crate::run_dir::{RUN_LABEL, RunDir};
use crate::wait::{Observed, await_class};

/// Between SIGTERM and SIGKILL for a process that a dead run left.
const PROCESS_GRACE: Duration = Duration::from_secs(3);
/// How often processes are looked for that others started while they were ended.
const PASSES: usize = 5;
/// How long a namespace may take to go.
const NAMESPACE_DEADLINE: Duration = Duration::from_secs(120);

/// Things that are removed at the same time: a run of many rounds leaves thousands.
const AT_ONCE: usize = 32;

/// What is to be done with what a person asked to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It stays.
    Spare,
    /// It goes too.
    Remove,
}

/// What came of one entry of a journal.
#[derive(Debug)]
pub struct Reaped {
    /// "namespace hodei-e2e-3fa9c1-x".
    pub what: String,
    /// `None`: it is gone. Otherwise why it is not.
    pub error: Option<HarnessError>,
}

/// What came of one run.
#[derive(Debug)]
pub enum RunReaped {
    /// Its owner lives; nothing was touched.
    Live,
    /// These entries were still open.
    Done(Vec<Reaped>),
}

/// Removes what a run left, unless its owner lives. `dry_run` only says what it would do.
///
/// # Errors
/// The run's lock or journal cannot be read.
pub async fn reap(run: &RunDir, kept: Kept, dry_run: bool) -> Result<RunReaped> {
    // Held until the end, so that two reapers do not meet.
    let Some(_lock) = run.try_lock()? else { return Ok(RunReaped::Live) };
    if dry_run {
        let contents = Journal::read(&run.journal_path())?;
        let open = contents.outstanding();
        let wanted = open.into_iter().filter(|entry| is_wanted(entry, kept));
        let listed = wanted.map(|entry| Reaped { what: entry.resource.describe(), error: None });
        return Ok(RunReaped::Done(listed.collect()));
    }
    Ok(RunReaped::Done(remove_outstanding(run, kept).await?))
}

/// Removes what a run still has, as its owner or in its owner's place. Processes first, so that
/// nothing is made while the rest is removed. Several things go at a time, within a bound.
///
/// # Errors
/// The journal cannot be read. What cannot be removed is told in the answer.
pub async fn remove_outstanding(run: &RunDir, kept: Kept) -> Result<Vec<Reaped>> {
    let journal = run.journal(None);
    let (mut reaped, mut tried) = (Vec::new(), HashSet::new());
    // A database is dropped before the container it is in goes.
    for turn in [Turn::Process, Turn::Other, Turn::Container] {
        loop {
            // Read again each time: until it is gone, a process may write down more.
            let contents = Journal::read(&run.journal_path())?;
            let open = contents.outstanding().into_iter().filter(|entry| is_wanted(entry, kept));
            let group: Vec<_> = open
                .filter(|entry| Turn::of(&entry.resource) == turn && tried.insert(entry.id))
                .collect();
            if group.is_empty() {
                break;
            }
            let removals = group.into_iter().map(|entry| remove(run, &journal, entry));
            let removals = futures::stream::iter(removals).buffer_unordered(AT_ONCE);
            reaped.extend(removals.collect::<Vec<_>>().await);
        }
    }
    Ok(reaped)
}

/// When something is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Process,
    Other,
    Container,
}

impl Turn {
    const fn of(resource: &Resource) -> Self {
        match resource {
            Resource::Process { .. } => Self::Process,
            Resource::Container { .. } => Self::Container,
            _ => Self::Other,
        }
    }
}

fn is_wanted(entry: &Entry, kept: Kept) -> bool {
    kept == Kept::Remove || entry.state != State::Kept
}

async fn remove(run: &RunDir, journal: &Journal, entry: &Entry) -> Reaped {
    let removed = match &entry.resource {
        Resource::Namespace { kubeconfig, context, name } => {
            remove_namespace(kubeconfig, context, name, run).await
        }
        Resource::Pod { kubeconfig, context, namespace, name } => {
            pod::remove(kubeconfig, context, namespace, name, run).await
        }
        Resource::ClusterObject { kubeconfig, context, type_name, name } => {
            remove_cluster_object(kubeconfig, context, type_name, name, run).await
        }
        Resource::Database { admin_url, name } => remove_database(admin_url, name, run).await,
        Resource::Container { name } => postgres::remove_container(name, run.id.as_str()).await,
        Resource::Process { program } => end_process(entry, program).await,
        Resource::Directory { path } => crate::paths::remove_tree(path),
        Resource::NodeDown { cluster, name } => node::start(cluster, name).await,
        Resource::NodeCordoned { kubeconfig, context, name } => {
            match client(kubeconfig, context).await {
                Ok(Some(client)) => node::set_schedulable(&client, name, true).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            }
        }
        Resource::NodeResource { kubeconfig, context, name, resource } => {
            match client(kubeconfig, context).await {
                Ok(Some(client)) => node::set_resource(&client, name, resource, None).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            }
        }
    };
    let removed = removed.and_then(|()| journal.mark(entry.id, State::Removed));
    Reaped { what: entry.resource.describe(), error: removed.err() }
}

async fn client(kubeconfig: &Path, context: &str) -> Result<Option<kube::Client>> {
    if !kubeconfig.exists() {
        // This tool removes the kubeconfig when it deletes the cluster, and with it all there was.
        return Ok(None);
    }
    let cluster = KindCluster {
        name: context.trim_start_matches("kind-").to_owned(),
        kubeconfig: kubeconfig.to_path_buf(),
        context: context.to_owned(),
        nodes: Vec::new(),
    };
    ready::client(&cluster).await.map(Some)
}

async fn remove_namespace(
    kubeconfig: &Path,
    context: &str,
    name: &str,
    run: &RunDir,
) -> Result<()> {
    let Some(client) = client(kubeconfig, context).await? else { return Ok(()) };
    let subject = || format!("namespace {name}");
    let api = Api::<Namespace>::all(client);
    let Some(found) = api.get_opt(name).await.infrastructure("find", subject())? else {
        return Ok(());
    };
    check_owner(&found.metadata, &subject(), run)?;
    let params = DeleteParams::default().preconditions(uid_of(&found.metadata));
    if let Err(error) = api.delete(name, &params).await {
        let over = matches!(&error, kube::Error::Api(status) if status.is_not_found());
        if !over {
            return Err(error).infrastructure("delete", subject());
        }
    }
    let class = FailureClass::Infrastructure;
    await_class(class, format!("namespace {name} to be gone"), NAMESPACE_DEADLINE, async || {
        Ok(match api.get_opt(name).await.infrastructure("find", subject())? {
            None => Observed::Ready(()),
            Some(namespace) => {
                let conditions = namespace.status.and_then(|status| status.conditions);
                let said: Vec<_> = conditions
                    .into_iter()
                    .flatten()
                    .map(|c| c.message.unwrap_or_default())
                    .collect();
                Observed::NotYet(format!("terminating: {}", said.join("; ")))
            }
        })
    })
    .await
}

async fn remove_cluster_object(
    kubeconfig: &Path,
    context: &str,
    type_name: &str,
    name: &str,
    run: &RunDir,
) -> Result<()> {
    let Some(client) = client(kubeconfig, context).await? else { return Ok(()) };
    let kind = GroupVersionKind::gvk("rbac.authorization.k8s.io", "v1", type_name);
    let api = Api::<DynamicObject>::all_with(client, &ApiResource::from_gvk(&kind));
    let subject = || format!("{type_name} {name}");
    let Some(found) = api.get_opt(name).await.infrastructure("find", subject())? else {
        return Ok(());
    };
    check_owner(&found.metadata, &subject(), run)?;
    let params = DeleteParams::default().preconditions(uid_of(&found.metadata));
    api.delete(name, &params).await.map(drop).infrastructure("delete", subject())
}

fn uid_of(metadata: &ObjectMeta) -> kube::api::Preconditions {
    kube::api::Preconditions { uid: metadata.uid.clone(), resource_version: None }
}

fn check_owner(metadata: &ObjectMeta, subject: &str, run: &RunDir) -> Result<()> {
    let label = metadata.labels.as_ref().and_then(|labels| labels.get(RUN_LABEL));
    if label.is_some_and(|label| label == run.id.as_str()) {
        return Ok(());
    }
    let cause = format!("its label {RUN_LABEL} is {label:?}, not {}: it is another's", run.id);
    Err(HarnessError::new(FailureClass::Harness, "remove", subject, cause))
}

async fn remove_database(admin_url: &str, name: &str, run: &RunDir) -> Result<()> {
    if !name.contains(run.id.short()) {
        let cause = "its name does not hold the run's id";
        return Err(HarnessError::new(
            FailureClass::Harness,
            "drop",
            format!("database {name}"),
            cause,
        ));
    }
    match postgres::drop_database(&SecretUrl::new(admin_url), name).await {
        // The run's own server went with the run, and the database with it.
        Err(error) if error.operation == "connect to" => Ok(()),
        other => other,
    }
}

/// Ends the processes of an entry, and those that they start while they are ended.
async fn end_process(entry: &Entry, program: &str) -> Result<()> {
    let me = i32::try_from(std::process::id()).unwrap_or_default();
    let mut left = Vec::new();
    for _ in 0..PASSES {
        left = lineage::marked(&entry.id.to_string());
        left.extend(entry.process.filter(lineage::ProcessIdentity::is_alive));
        left.retain(|process| process.pid != me);
        if left.is_empty() {
            return Ok(());
        }
        let ends = left.iter().map(|process| lineage::end(*process, PROCESS_GRACE));
        futures::future::join_all(ends).await;
    }
    let pids: Vec<_> = left.iter().map(|process| process.pid.to_string()).collect();
    let cause = format!("process {} does not end", pids.join(", "));
    Err(HarnessError::new(FailureClass::Infrastructure, "end", program, cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::MARK_ENV;

    /// Reaps a run whose lock was released. A child that another test is just forking holds a copy
    /// of it until its exec.
    async fn reap_free(run: &RunDir, kept: Kept, dry_run: bool) -> Vec<Reaped> {
        let freed = await_class(
            FailureClass::Harness,
            "the lock to be free",
            Duration::from_secs(10),
            async || match reap(run, kept, dry_run).await? {
                RunReaped::Live => Ok(Observed::NotYet("held".into())),
                RunReaped::Done(reaped) => Ok(Observed::Ready(reaped)),
            },
        );
        freed.await.unwrap()
    }

    #[tokio::test]
    async fn a_dead_run_loses_what_it_listed_and_a_live_one_nothing() {
        let state = tempfile::tempdir().unwrap();
        let (run, lock) = RunDir::create(state.path()).unwrap();
        let journal = run.journal(Some("a"));
        let outside = tempfile::tempdir().unwrap();
        let path = outside.path().join("left");
        std::fs::create_dir(&path).unwrap();
        journal.intend(Resource::Directory { path: path.clone() }).unwrap();
        let entry = journal.intend(Resource::Process { program: "sleep".into() }).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .env(MARK_ENV, entry.to_string())
            .spawn()
            .unwrap();

        assert!(matches!(reap(&run, Kept::Spare, false).await.unwrap(), RunReaped::Live));
        assert!(path.exists());
        drop(lock);
        let planned = reap_free(&run, Kept::Spare, true).await;
        assert!(path.exists() && planned.len() == 2);
        // The mark shows in /proc only once the child has become sleep.
        let stage = crate::progress::Progress::silent().unlisted();
        let wait = crate::wait::Wait::infrastructure("the mark", Duration::from_secs(5));
        let marked = async || {
            let found = lineage::marked(&entry.to_string());
            Ok(if found.is_empty() { Observed::NotYet(String::new()) } else { Observed::Ready(()) })
        };
        wait.until(&stage, marked).await.unwrap();
        let reaped = reap_free(&run, Kept::Spare, false).await;
        assert!(reaped.iter().all(|one| one.error.is_none()), "{reaped:?}");
        assert!(!path.exists() && !child.wait().unwrap().success());
        let again = reap_free(&run, Kept::Spare, false).await;
        assert!(again.is_empty(), "reaping twice does nothing: {again:?}");
    }

    /// A process of a killed run goes on until it is ended, and writes down what it makes.
    #[tokio::test]
    async fn what_a_process_makes_while_it_is_ended_is_removed_too() {
        let state = tempfile::tempdir().unwrap();
        let (run, lock) = RunDir::create(state.path()).unwrap();
        let entry = run.journal(None).intend(Resource::Process { program: "sh".into() }).unwrap();
        let (path, told) = (state.path().join("late"), state.path().join("told"));
        let ready = state.path().join("ready");
        let other = Journal::at(told.clone(), None);
        other.intend(Resource::Directory { path: path.clone() }).unwrap();
        let script = format!(
            "trap 'cat {} >> {}; mkdir {}; exit 0' TERM; mkdir {}; while :; do sleep 0.05; done",
            told.display(),
            run.journal_path().display(),
            path.display(),
            ready.display(),
        );
        let mut child = std::process::Command::new("sh")
            .args(["-c", &script])
            .env(MARK_ENV, entry.to_string())
            .spawn()
            .unwrap();
        drop(lock);
        let stage = crate::progress::Progress::silent().unlisted();
        let wait = crate::wait::Wait::infrastructure("the trap", Duration::from_secs(10));
        let looks = async || {
            let is_there = ready.exists();
            Ok(if is_there { Observed::Ready(()) } else { Observed::NotYet(String::new()) })
        };
        wait.until(&stage, looks).await.unwrap();
        let reaped = reap_free(&run, Kept::Spare, false).await;
        assert!(child.wait().unwrap().success(), "it was not asked to end");
        assert_eq!(reaped.len(), 2, "{reaped:?}");
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_was_kept_is_spared_unless_asked_for() {
        let state = tempfile::tempdir().unwrap();
        let (run, lock) = RunDir::create(state.path()).unwrap();
        let path = state.path().join("kept");
        std::fs::create_dir(&path).unwrap();
        let journal = run.journal(None);
        let entry = journal.intend(Resource::Directory { path: path.clone() }).unwrap();
        journal.mark(entry, State::Kept).unwrap();
        drop(lock);
        reap_free(&run, Kept::Spare, false).await;
        assert!(path.exists());
        reap_free(&run, Kept::Remove, false).await;
        assert!(!path.exists());
    }
}

//! The watch on a connection that is cut, or dies without a word.

use std::time::Duration;

use anyhow::{Context, Result};
use hodei_core::provider::{WorkerHandle, WorkerPhase, WorkerProvider};
use hodei_harness::case::{CaseEnv, CaseOptions, run_case_with};
use hodei_harness::wait::{Observed, await_until};
use hodei_kubernetes::KubernetesProvider;
use kube::api::DeleteParams;
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::direct::{await_running, await_worker, connect_as, make_worker, write_kubeconfig};
use crate::pods::pods;

/// A watch is given up after 35 s; the list after it may meet another dead connection, and as long.
const HALF_OPEN_DEADLINE: Duration = Duration::from_secs(120);

/// What becomes of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// Those there are end; new ones are not taken.
    Cut,
    /// Those there are stay and carry nothing; new ones work.
    Stalled,
}

/// A way to the API server that can be broken. It ends when it is dropped.
struct Forwarder {
    port: u16,
    way: watch::Sender<Way>,
    task: JoinHandle<()>,
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Forwarder {
    async fn start(target: String) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let way = watch::Sender::new(Way::Open);
        let seen = way.subscribe();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *seen.borrow() != Way::Cut {
                    tokio::spawn(forward(client, target.clone(), way_from_now(&seen)));
                }
            }
        });
        Ok(Self { port, way, task })
    }
}

/// A receiver for which the way as it is now is no news.
fn way_from_now(seen: &watch::Receiver<Way>) -> watch::Receiver<Way> {
    let mut now = seen.clone();
    now.mark_unchanged();
    now
}

/// Until one side ends, or the way is cut.
async fn forward(mut client: TcpStream, target: String, mut way: watch::Receiver<Way>) {
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => return,
        _ = way.changed() => {}
    }
    // Stalled: both ends are held open until the way is cut or the case is over.
    drop(way.wait_for(|now| *now == Way::Cut).await);
}

/// A provider behind a forwarder, with one worker that runs.
async fn connect_behind(env: &CaseEnv) -> Result<(Forwarder, KubernetesProvider, WorkerHandle)> {
    let kubeconfig: serde_json::Value =
        serde_json::from_slice(&std::fs::read(env.control_plane_kubeconfig())?)?;
    let server = kubeconfig["clusters"][0]["cluster"]["server"].as_str().unwrap_or_default();
    let target = server.strip_prefix("https://").context("a server without TLS")?;
    let host = target.rsplit_once(':').context("a server without a port")?.0.to_owned();
    let forwarder = Forwarder::start(target.to_owned()).await?;
    let path = write_kubeconfig(env, "forwarded.kubeconfig", |kubeconfig| {
        let cluster = &mut kubeconfig["clusters"][0]["cluster"];
        cluster["server"] = json!(format!("https://127.0.0.1:{}", forwarder.port));
        cluster["tls-server-name"] = json!(host);
    })?;
    let provider = connect_as(env, "direct", json!({"kubeconfig": path})).await?;
    let handle = provider.create_worker(&make_worker()).await?;
    await_running(&provider, &handle).await?;
    Ok((forwarder, provider, handle))
}

/// Removes a worker's pod where the provider's watch cannot see it.
async fn delete_unseen(env: &CaseEnv, handle: &WorkerHandle) -> Result<()> {
    pods(env).delete(&handle.resource, &DeleteParams::default().grace_period(0)).await?;
    env.await_gone().await?;
    Ok(())
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_watch_is_taken_up_again() {
    run_case_with("lifecycle.watch-cut", CaseOptions::cluster_only(), async |env| {
        let (forwarder, provider, handle) = connect_behind(env).await?;
        forwarder.way.send_replace(Way::Cut);
        delete_unseen(env, &handle).await?;
        let status = provider.worker_status(&handle).await?;
        assert_eq!(status.observed.phase, WorkerPhase::Running, "seen through a cut");
        forwarder.way.send_replace(Way::Open);
        await_worker(&provider, &handle, "gone", |s| s.phase == WorkerPhase::Gone).await?;
        assert!(provider.list_workers().await?.is_empty());
        let next = provider.create_worker(&make_worker()).await?;
        await_running(&provider, &next).await?;
        provider.destroy_worker(&next).await?;
        provider.destroy_worker(&handle).await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_half_open_watch_is_noticed() {
    run_case_with("lifecycle.watch-half-open", CaseOptions::cluster_only(), async |env| {
        let (forwarder, provider, handle) = connect_behind(env).await?;
        forwarder.way.send_replace(Way::Stalled);
        delete_unseen(env, &handle).await?;
        let before = provider.worker_status(&handle).await?;
        assert_eq!(before.observed.phase, WorkerPhase::Running, "seen through a dead connection");
        let noticed = await_until("the loss to be noticed", HALF_OPEN_DEADLINE, async || {
            Ok(match provider.worker_status(&handle).await {
                Ok(status) if status.observed.phase == WorkerPhase::Gone => Observed::Ready(()),
                other => Observed::NotYet(format!("{other:?}")),
            })
        });
        noticed.await?;
        provider.destroy_worker(&handle).await?;
        Ok(())
    });
}

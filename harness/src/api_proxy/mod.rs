//! The fault proxy: a reverse proxy of one case in front of the Kubernetes API. It forwards with
//! the case's control-plane credentials, writes down every request, and lets the case make any of
//! them go wrong.
//!
//! It speaks HTTP/1.1 without TLS on loopback and asks for a token that only its own kubeconfig
//! holds. Answers are streamed; a request's body is read whole first, as the API server limits it
//! to 3 MiB. Upgrades (exec, attach, port-forward) are not passed on.

mod call;
mod fault;
mod record;
mod serve;
mod stream;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kube::Client;
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

pub use call::ApiCall;
pub use fault::{Fault, Match, Refusal, WatchFault};
pub use record::ProxiedRequest;

use self::serve::Shared;
use crate::failure::{Classify, Result};
use crate::paths::write_atomically;
use crate::ports::PortLease;

/// A proxy that serves until it is dropped.
pub struct ApiProxy {
    shared: Arc<Shared>,
    lease: PortLease,
    accepting: tokio::sync::Mutex<Option<AbortOnDropHandle<()>>>,
    kubeconfig: PathBuf,
}

impl ApiProxy {
    /// Starts a proxy in front of what `upstream` reaches and writes its kubeconfig, whose
    /// default namespace is `namespace`, into `directory`. `upstream` must not retry by itself.
    ///
    /// # Errors
    /// No port is free, or the kubeconfig cannot be written.
    pub async fn start(upstream: Client, namespace: &str, directory: &Path) -> Result<Self> {
        let lease = PortLease::take()?;
        let token = uuid::Uuid::new_v4().simple().to_string();
        let kubeconfig = directory.join("api-proxy.kubeconfig");
        let content = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "api-proxy", "cluster": {
                "server": format!("http://{}", address(&lease)),
            }}],
            "users": [{"name": "api-proxy", "user": {"token": token}}],
            "contexts": [{"name": "api-proxy", "context": {
                "cluster": "api-proxy", "user": "api-proxy", "namespace": namespace,
            }}],
            "current-context": "api-proxy",
        });
        // JSON is YAML.
        write_atomically(&kubeconfig, content.to_string().as_bytes(), 0o600)?;
        let shared = Arc::new(Shared::new(upstream, token));
        let proxy = Self { shared, lease, accepting: Default::default(), kubeconfig };
        proxy.restore().await?;
        Ok(proxy)
    }

    /// The kubeconfig of a client that comes through here.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The next `times` requests that match meet `fault`. Of several faults that are waiting the
    /// one that was asked for first goes first.
    pub fn inject(&self, wanted: Match, fault: Fault, times: usize) {
        self.shared.changing().rules.add(wanted, fault, times);
    }

    /// How many requests are still to meet what was injected: those that have not come, and those
    /// that the API server has not carried out yet though it is to do so first
    /// ([`Fault::CutAfter`], [`Fault::SilenceAfter`]).
    #[must_use]
    pub fn pending_faults(&self) -> usize {
        let changing = self.shared.changing();
        changing.rules.left().saturating_add(changing.carrying_out)
    }

    /// Forwards the requests that are held by [`Fault::Hold`]; later ones are held anew.
    pub fn let_go(&self) {
        std::mem::take(&mut self.shared.changing().hold).cancel();
    }

    /// How many watches of a resource are open.
    #[must_use]
    pub fn open_watches(&self, target: &str) -> usize {
        self.shared
            .changing()
            .watches
            .iter()
            .filter(|(call, orders)| !orders.is_closed() && call.target() == target)
            .count()
    }

    /// Disturbs every open watch of a resource; answers how many there were.
    pub fn disturb_watches(&self, target: &str, fault: WatchFault) -> usize {
        let changing = self.shared.changing();
        let meant = changing.watches.iter().filter(|(call, _)| call.target() == target);
        meant.filter(|(_, orders)| orders.send(Some(fault)).is_ok()).count()
    }

    /// Breaks every open connection; new ones are served.
    pub fn cut_connections(&self) {
        let mut changing = self.shared.changing();
        std::mem::take(&mut changing.era).cut.cancel();
        changing.cut_mute();
    }

    /// Makes every open connection half-open: it stays and never carries another byte. New ones
    /// are served.
    pub fn half_open_connections(&self) {
        self.shared.changing().mute_era();
    }

    /// From now on nothing is answered: open connections stay mute for ever, new ones are
    /// accepted and mute too, until [`Self::restore`].
    pub fn silence(&self) {
        let mut changing = self.shared.changing();
        changing.silent = true;
        changing.mute_era();
    }

    /// The API server is down: connections are broken and new ones refused, until
    /// [`Self::restore`].
    pub async fn take_down(&self) {
        if let Some(accepting) = self.accepting.lock().await.take() {
            accepting.abort();
            // An aborted task answers with the abortion itself.
            drop(accepting.await);
        }
        self.cut_connections();
    }

    /// Serves again after [`Self::silence`] or [`Self::take_down`], on the same port. Connections
    /// that are mute stay so.
    ///
    /// # Errors
    /// The port was taken meanwhile by something that is not this harness.
    pub async fn restore(&self) -> Result<()> {
        {
            let mut changing = self.shared.changing();
            if std::mem::take(&mut changing.silent) {
                changing.mute_era();
            }
        }
        let mut accepting = self.accepting.lock().await;
        if accepting.is_none() {
            let address = address(&self.lease);
            let listener = serve::listen(address).await;
            let listener = listener.infrastructure("listen on", address.to_string())?;
            let task = tokio::spawn(serve::accept(listener, self.shared.clone()));
            *accepting = Some(AbortOnDropHandle::new(task));
        }
        Ok(())
    }

    /// Ends every disturbance: faults that still wait are dropped, mute connections are broken,
    /// new ones served. Connections that work are left alone, and so are watches that were told
    /// to stall.
    ///
    /// # Errors
    /// As for [`Self::restore`].
    pub async fn heal(&self) -> Result<()> {
        self.restore().await?;
        let mut changing = self.shared.changing();
        changing.rules.clear();
        changing.cut_mute();
        Ok(())
    }

    /// Every request so far, in the order of arrival: the newest 20 000.
    #[must_use]
    pub fn requests(&self) -> Vec<ProxiedRequest> {
        self.shared.changing().record.all()
    }

    /// How many older requests were forgotten.
    #[must_use]
    pub fn forgotten_requests(&self) -> usize {
        self.shared.changing().record.forgotten()
    }

    /// The requests as evidence: one JSON object a line.
    #[must_use]
    pub(crate) fn evidence(&self) -> String {
        let lines = self.requests().into_iter().map(|request| json!(request).to_string() + "\n");
        let forgotten = self.forgotten_requests();
        let head = (forgotten > 0).then(|| json!({"forgotten": forgotten}).to_string() + "\n");
        head.into_iter().chain(lines).collect()
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        self.shared.closed.cancel();
    }
}

impl std::fmt::Debug for ApiProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiProxy").field("address", &address(&self.lease)).finish_non_exhaustive()
    }
}

fn address(lease: &PortLease) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, lease.port()).into()
}

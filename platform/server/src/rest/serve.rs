//! Serves REST on a listener that is bound already, with TLS where a certificate is given.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::router;
use crate::app::App;

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// Accepts TLS connections. A handshake that fails or is slow concerns nobody but its client.
struct TlsListener {
    ready: tokio::sync::mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    local: SocketAddr,
}

const HANDSHAKE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

impl TlsListener {
    fn new(app: &App, listener: TcpListener, acceptor: TlsAcceptor) -> std::io::Result<Self> {
        let local = listener.local_addr()?;
        let (done, ready) = tokio::sync::mpsc::channel(64);
        let (stop, tasks) = (app.stop.clone(), app.tasks.clone());
        app.tasks.spawn(async move {
            let mut listener = listener;
            loop {
                // axum's own loop for a TcpListener: it outlives errors of single connections.
                let accepted = stop.run_until_cancelled(Listener::accept(&mut listener)).await;
                let Some((stream, peer)) = accepted else { return };
                let (acceptor, done) = (acceptor.clone(), done.clone());
                tasks.spawn(async move {
                    let handshake =
                        tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
                    if let Ok(Ok(stream)) = handshake.await {
                        let _ = done.send((stream, peer)).await;
                    }
                });
            }
        });
        Ok(Self { ready, local })
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.local)
    }
}

/// Serves until the server stops.
pub(crate) fn serve(
    app: &Arc<App>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
) -> std::io::Result<()> {
    let router = router(app.clone()).into_make_service_with_connect_info::<Peer>();
    let stop = app.stop.clone();
    let ended = |result: std::io::Result<()>, stop: tokio_util::sync::CancellationToken| {
        if let Err(error) = result {
            tracing::error!(%error, "the REST listener failed; the server ends");
            stop.cancel();
        }
    };
    match tls {
        None => {
            let shutdown = stop.clone().cancelled_owned();
            let serving = axum::serve(listener, router).with_graceful_shutdown(shutdown);
            app.tasks.spawn(async move { ended(serving.await, stop) });
        }
        Some(acceptor) => {
            let listener = TlsListener::new(app, listener, acceptor)?;
            let shutdown = stop.clone().cancelled_owned();
            let serving = axum::serve(listener, router).with_graceful_shutdown(shutdown);
            app.tasks.spawn(async move { ended(serving.await, stop) });
        }
    }
    Ok(())
}

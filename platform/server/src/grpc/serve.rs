//! Serves all gRPC services on listeners that are bound already.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use hodei_proto::{
    FILE_DESCRIPTOR_SET, MAX_MESSAGE_BYTES,
    v1::{
        job_service_server::JobServiceServer, log_stream_service_server::LogStreamServiceServer,
        worker_agent_service_server::WorkerAgentServiceServer,
    },
};
use tokio::net::TcpListener;
use tonic::{
    Request, Status,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{
        Identity, Server, ServerTlsConfig,
        server::{Router, TcpIncoming},
    },
};
use tonic_health::server::HealthReporter;

use super::{agent::AgentService, jobs::JobsService, logs::LogsService, too_many};
use crate::{app::App, auth::Refused, trace::Traced};

/// A peer that answers no HTTP/2 ping for this long is gone.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// A stream may have this much on its way, so that one round trip does not bound its rate.
const STREAM_WINDOW: u32 = 4 << 20;

async fn router(
    app: &Arc<App>,
    identity: Option<Identity>,
    reporter: &HealthReporter,
    health: tonic_health::pb::health_server::HealthServer<
        impl tonic_health::pb::health_server::Health,
    >,
) -> anyhow::Result<Router> {
    let agents = WorkerAgentServiceServer::new(AgentService { app: app.clone() })
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let guard = Guard { app: app.clone() };
    let jobs = JobServiceServer::new(JobsService { app: app.clone() })
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let logs = LogStreamServiceServer::new(LogsService { app: app.clone() })
        .max_decoding_message_size(64 << 10)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    reporter.set_serving::<WorkerAgentServiceServer<AgentService>>().await;
    reporter.set_serving::<JobServiceServer<JobsService>>().await;
    reporter.set_serving::<LogStreamServiceServer<LogsService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("reflection")?;
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * 2);
    if let Some(identity) = identity {
        server = server
            .tls_config(ServerTlsConfig::new().identity(identity))
            .context("gRPC certificate and key")?;
    }
    Ok(server
        .add_service(health)
        .add_service(reflection)
        .add_service(agents)
        .add_service(InterceptedService::new(traced(app, jobs), guard.clone()))
        .add_service(InterceptedService::new(traced(app, logs), guard)))
}

/// Inside of the guard: who is not admitted writes nothing into anybody's trace.
fn traced<S>(app: &App, service: S) -> Traced<S> {
    Traced::new(app.traces.clone(), service)
}

/// Lets clients in that are admitted and do not ask too often.
#[derive(Debug, Clone)]
struct Guard {
    app: Arc<App>,
}

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let header = request.metadata().get("authorization");
        let header = header.and_then(|value| value.to_str().ok());
        match self.app.access.enter(&self.app.limits, header, request.remote_addr()) {
            Ok(()) => Ok(request),
            Err(Refused::Denied(denied)) => Err(Status::unauthenticated(denied.to_string())),
            Err(Refused::TooMany(wait)) => Err(too_many("requests of this client", wait)),
        }
    }
}

/// Serves until the server stops, on every listener; each stops taking connections at once then.
pub(crate) async fn serve(
    app: &Arc<App>,
    listeners: Vec<TcpListener>,
    identity: Option<Identity>,
) -> anyhow::Result<()> {
    for listener in listeners {
        let (reporter, health) = tonic_health::server::health_reporter();
        let router = router(app, identity.clone(), &reporter, health).await?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let stop = app.stop.clone();
        app.tasks.spawn(async move {
            let shutdown = stop.clone().cancelled_owned();
            if let Err(error) = router.serve_with_incoming_shutdown(incoming, shutdown).await {
                tracing::error!(%error, "a gRPC listener failed; the server ends");
                stop.cancel();
            }
        });
    }
    Ok(())
}

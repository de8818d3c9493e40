//! A whole server on a database of its own, with a provider in memory.

use std::{sync::Arc, time::Duration};

use clap::Parser;
use hodei_core::{id::JobId, provider::WorkerSpec, spec::JobSpec};
use hodei_proto::v1::{
    CancelJobRequest, GetJobRequest, Job, JobState, StreamLogsRequest, SubmitJobRequest,
    WatchJobRequest, job_service_client::JobServiceClient,
    log_stream_service_client::LogStreamServiceClient,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tonic::transport::Channel;

use super::{
    fake::{FakeFactory, World},
    postgres::{TestDatabase, create_database},
};
use crate::{Server, config::Config};

/// Longest time anything may take in these tests.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Running {
    pub(super) server: Server,
    pub(super) world: Arc<World>,
    pub(super) asked_for: mpsc::UnboundedReceiver<WorkerSpec>,
    pub(super) database: TestDatabase,
    /// Name of its one provider.
    pub(super) provider: String,
    config: Config,
}

impl Running {
    /// A server with one provider, `fake`.
    pub(super) async fn start(more: &[&str]) -> Self {
        Self::start_as("fake", more).await
    }

    /// A server with one provider of a name of its own: metrics are the whole process's.
    pub(super) async fn start_as(provider: &str, more: &[&str]) -> Self {
        Self::start_with(provider, more, "", Value::Null).await
    }

    /// A server with one provider, `fake`, whose clients need the token of this file.
    pub(super) async fn with_token(file: &str, token: &str) -> Self {
        Self::start_with("fake", &["--api-token-file", file], token, Value::Null).await
    }

    /// A server with one provider, `fake`, that has a pool.
    pub(super) async fn start_pooled(pool: Value, more: &[&str]) -> Self {
        Self::start_with("fake", more, "", pool).await
    }

    pub(super) async fn start_with(
        provider: &str,
        more: &[&str],
        token: &str,
        pool: Value,
    ) -> Self {
        let database = create_database().await;
        let (world, asked_for) = World::new();
        let base =
            ["hodei-server", "--database-url", &database.url, "--grpc-listen", "127.0.0.1:0"];
        let rest = ["--rest-listen", "127.0.0.1:0", "--cancel-grace-seconds", "0.2"];
        let config = Config::try_parse_from(base.iter().chain(&rest).chain(more)).unwrap();
        let server = Server::start(&config, Arc::new(FakeFactory(world.clone()))).await.unwrap();
        let provider = provider.to_owned();
        let running = Self { server, world, asked_for, database, provider, config };
        let body = json!({"type": "fake", "name": running.provider, "pool": pool});
        let register = http().post(running.url("/api/providers")).bearer_auth(token).json(&body);
        assert_eq!(register.send().await.unwrap().status(), 201);
        running
    }

    /// Ends the server and starts another one on the same database.
    pub(super) async fn restart(self) -> Self {
        let Self { server, world, asked_for, database, provider, config } = self;
        server.shut_down().await;
        let server = Server::start(&config, Arc::new(FakeFactory(world.clone()))).await.unwrap();
        Self { server, world, asked_for, database, provider, config }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.rest)
    }

    pub(super) async fn post(
        &self,
        path: &str,
        body: &serde_json::Value,
    ) -> (u16, serde_json::Value) {
        let response = http().post(self.url(path)).json(body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    pub(super) async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.server.grpc[0])).unwrap();
        endpoint.connect().await.unwrap()
    }

    pub(super) async fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel().await)
    }

    pub(super) async fn submit(&self, spec: &JobSpec) -> JobId {
        let request = SubmitJobRequest { spec: Some(spec.into()), ..Default::default() };
        let job = self.jobs().await.submit(request).await.unwrap().into_inner().job.unwrap();
        job.id.parse().unwrap()
    }

    /// The next worker that is asked for.
    pub(super) async fn next_worker(&mut self) -> WorkerSpec {
        let next = tokio::time::timeout(PATIENCE, self.asked_for.recv()).await;
        next.expect("a worker must be asked for").unwrap()
    }

    /// The job as it is.
    pub(super) async fn job(&self, id: JobId) -> Job {
        let request = GetJobRequest { id: id.to_string() };
        self.jobs().await.get(request).await.unwrap().into_inner().job.unwrap()
    }

    /// Cancels a job; as it is then.
    pub(super) async fn cancel(&self, id: JobId) -> Job {
        let request = CancelJobRequest { id: id.to_string(), reason: "enough".into() };
        self.jobs().await.cancel(request).await.unwrap().into_inner().job.unwrap()
    }

    /// The job once it is as wanted, by watching it.
    pub(super) async fn await_job(&self, id: JobId, wanted: JobState) -> Job {
        let request = WatchJobRequest { id: id.to_string() };
        let mut jobs = self.jobs().await.watch(request).await.unwrap().into_inner();
        let mut last = None;
        let watching = async {
            while let Some(changed) = jobs.message().await.unwrap() {
                let job = changed.job.unwrap();
                if job.state() == wanted {
                    return Some(job);
                }
                last = Some(job);
            }
            None
        };
        let found = tokio::time::timeout(PATIENCE, watching).await.ok().flatten();
        found.unwrap_or_else(|| panic!("the job never was {wanted:?}; last: {last:?}"))
    }

    /// All output of a job from the beginning, as text.
    pub(super) async fn read_output(&self, id: JobId, follow: bool) -> String {
        let mut client = LogStreamServiceClient::new(self.channel().await);
        let request = StreamLogsRequest { job_id: id.to_string(), follow, ..Default::default() };
        let reading = async {
            let mut stream = client.stream(request).await.unwrap().into_inner();
            let mut output = Vec::new();
            while let Some(piece) = stream.message().await.unwrap() {
                piece.frames.iter().for_each(|frame| output.extend_from_slice(&frame.data));
            }
            String::from_utf8(output).unwrap()
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("the log must end")
    }

    /// Waits until the provider has no worker and the database only terminated ones.
    pub(super) async fn await_cleared(&self) {
        super::await_some("every worker to be destroyed", async || {
            let left = self.server.app.store.list_workers(false, None, 100).await.unwrap();
            match (self.world.count(), left.as_slice()) {
                (0, []) => Ok(()),
                seen => Err(format!("{seen:?}")),
            }
        })
        .await;
    }
}

pub(super) fn http() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(PATIENCE).build().unwrap()
}

impl Running {
    /// A second server on the same database, in the same world. Workers that it asks for come to the first.
    pub(super) async fn start_replica(&self) -> Self {
        let factory = Arc::new(FakeFactory(self.world.clone()));
        let server = Server::start(&self.config, factory).await.unwrap();
        let (_, asked_for) = mpsc::unbounded_channel();
        Self {
            server,
            world: self.world.clone(),
            asked_for,
            database: self.database.share(),
            provider: self.provider.clone(),
            config: self.config.clone(),
        }
    }
}

//! Clients of one server: gRPC and REST on loopback, as a user would have them.

use std::time::Duration;

use hodei_proto::v1::job_service_client::JobServiceClient;
use hodei_proto::v1::log_stream_service_client::LogStreamServiceClient;
use hodei_proto::v1::worker_agent_service_client::WorkerAgentServiceClient;
use serde_json::Value;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::server_process::{ServerProcess, http_client, rest_message};

/// The largest message a client takes: the log of a busy job.
const MAX_MESSAGE: usize = 64 << 20;

/// Clients of one server. They connect when they are used, and again after it was restarted.
#[derive(Debug, Clone)]
pub struct Clients {
    channel: Channel,
    http: reqwest::Client,
    rest: String,
}

impl Clients {
    /// Clients of `server`.
    ///
    /// # Errors
    /// The TLS back end cannot be set up.
    pub fn of(server: &ServerProcess) -> Result<Self> {
        Self::at(&format!("http://{}", server.grpc_address()), &server.rest_url())
    }

    /// Clients of the server whose gRPC is at `grpc` and whose REST is at `rest` (`http://host:port`).
    ///
    /// # Errors
    /// `grpc` is no address, or the TLS back end cannot be set up.
    pub fn at(grpc: &str, rest: &str) -> Result<Self> {
        let channel = endpoint(grpc)?.connect_lazy();
        Ok(Self { channel, http: http_client()?, rest: rest.to_owned() })
    }

    /// The same clients for a `server` whose gRPC has TLS, trusting `authority` (PEM).
    ///
    /// # Errors
    /// The authority cannot be used.
    pub fn over_tls(self, server: &ServerProcess, authority: &str) -> Result<Self> {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority));
        let endpoint = endpoint(&format!("https://{}", server.grpc_address()))?.tls_config(tls);
        let endpoint = endpoint.classify(FailureClass::Harness, "use", "the authority")?;
        Ok(Self { channel: endpoint.connect_lazy(), ..self })
    }

    /// Jobs.
    #[must_use]
    pub fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Output of jobs.
    #[must_use]
    pub fn logs(&self) -> LogStreamServiceClient<Channel> {
        LogStreamServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// What agents speak, for a simulated worker.
    #[must_use]
    pub fn agent(&self) -> WorkerAgentServiceClient<Channel> {
        WorkerAgentServiceClient::new(self.channel.clone())
    }

    /// `GET` of a path, as JSON.
    ///
    /// # Errors
    /// No answer, or one that is not a success.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let request = self.http.get(format!("{}{path}", self.rest));
        self.send("GET", path, request).await
    }

    /// `POST` of JSON to a path.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.http.post(format!("{}{path}", self.rest)).json(body);
        self.send("POST", path, request).await
    }

    /// `PUT` of JSON to a path.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn put(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.http.put(format!("{}{path}", self.rest)).json(body);
        self.send("PUT", path, request).await
    }

    /// `DELETE` of a path.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn delete(&self, path: &str) -> Result<Value> {
        let request = self.http.delete(format!("{}{path}", self.rest));
        self.send("DELETE", path, request).await
    }

    /// The text of a path that is not JSON: `/metrics`.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub async fn text(&self, path: &str) -> Result<String> {
        let answer = self.http.get(format!("{}{path}", self.rest)).send().await;
        let answer = answer.classify(FailureClass::Product, "GET", path)?;
        answer.text().await.classify(FailureClass::Product, "GET", path)
    }

    async fn send(
        &self,
        verb: &str,
        path: &str,
        request: reqwest::RequestBuilder,
    ) -> Result<Value> {
        let class = FailureClass::Product;
        let answer = request.send().await.classify(class, verb, path)?;
        let status = answer.status();
        let body = answer.text().await.classify(class, verb, path)?;
        if !status.is_success() {
            let cause = format!("{status}: {}", rest_message(&body));
            return Err(HarnessError::new(class, verb, path, cause));
        }
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&body).classify(
            class,
            "understand the answer of",
            format!("{verb} {path}"),
        )
    }
}

fn endpoint(address: &str) -> Result<Endpoint> {
    let endpoint = Endpoint::from_shared(address.to_owned());
    let endpoint = endpoint.classify(FailureClass::Harness, "use", address)?;
    Ok(endpoint.connect_timeout(Duration::from_secs(5)))
}

//! How a single request goes to the API server: sent, answered within a time, tried again where that
//! can help, and its failure put into words.
//!
//! Requests don't go through `kube::Api`, because that logs the body of an answer it can't read
//! (kube 5.0, `Client::request`), and the answer to the create of a Secret contains the Secret.

mod failure;
mod pace;
mod retry;

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use http::{Request, Response, header};
use http_body_util::BodyExt;
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Client, Resource,
    api::{DeleteParams, PostParams, Preconditions},
    client::Body,
};
use serde::{Serialize, de::DeserializeOwned};

pub(crate) use self::{
    failure::{ApiFailure, describe},
    pace::Pace,
    retry::RetryPolicy,
};

/// Asks for an answer without spec and data: the metadata is enough.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// How often a request is repeated whose failure is itself an answer: less than a second in all.
const BRIEF_TRIES: usize = 2;

/// One request, and what must not be repeated in any word about it.
#[derive(Clone)]
pub(crate) struct Call {
    request: Request<Vec<u8>>,
    hidden: Vec<String>,
}

impl Call {
    /// A request that was built elsewhere.
    pub(crate) fn new(
        request: Result<Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Self, ApiFailure> {
        let request = request.map_err(|error| ApiFailure::malformed(describe(&error)))?;
        Ok(Self { request, hidden: Vec::new() })
    }

    /// Never says this text, whatever the answer is.
    pub(crate) fn hiding(mut self, texts: impl IntoIterator<Item = String>) -> Self {
        self.hidden.extend(texts);
        self
    }

    /// Asks for the metadata of the answer only.
    pub(crate) fn metadata_only(mut self) -> Self {
        let value = header::HeaderValue::from_static(METADATA_ONLY);
        self.request.headers_mut().insert(header::ACCEPT, value);
        self
    }
}

/// The API server, as far as one namespace is concerned.
#[derive(Clone)]
pub(crate) struct ClusterApi {
    client: Client,
    namespace: String,
    retry: RetryPolicy,
    pace: Pace,
}

/// What the API server answered.
pub(crate) struct Answer {
    body: Vec<u8>,
}

impl Answer {
    /// The answer as text; bytes that are not UTF-8 are replaced.
    pub(crate) fn into_text(self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The answer as an object. The error does not quote the answer.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, ApiFailure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            ApiFailure::malformed(format!(
                "the answer of the API server is not understood: {place}"
            ))
        })
    }
}

impl ClusterApi {
    pub(crate) fn new(client: Client, namespace: String, retry: RetryPolicy, pace: Pace) -> Self {
        Self { client, namespace, retry, pace }
    }

    /// The same for somebody who waits for a verdict: a blip is forgiven, an outage is told at once.
    pub(crate) fn briefly(&self) -> Self {
        let tries = self.retry.tries.min(BRIEF_TRIES);
        Self { retry: RetryPolicy { tries, ..self.retry }, ..self.clone() }
    }

    /// How patient requests are.
    pub(crate) fn retry(&self) -> RetryPolicy {
        self.retry
    }

    /// The typed interface of kube, for the watch. Its requests wait for no turn.
    pub(crate) fn typed<K>(&self) -> kube::Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        kube::Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Builds requests for a kind of resource in the namespace.
    pub(crate) fn requests<K>(&self) -> kube::core::Request
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        kube::core::Request::new(K::url_path(&(), Some(&self.namespace)))
    }

    /// A request that makes an object in the namespace.
    pub(crate) fn create<K>(&self, object: &K, params: &PostParams) -> Result<Call, ApiFailure>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Serialize,
    {
        // An error of serde_json could quote the object.
        let body = serde_json::to_vec(object)
            .map_err(|_| ApiFailure::malformed("the object can't be written as JSON".to_owned()))?;
        Call::new(self.requests::<K>().create(params, body))
    }

    /// A request that removes an object; with a UID only that very object.
    pub(crate) fn delete<K>(
        &self,
        name: &str,
        uid: Option<&str>,
        grace_seconds: Option<u32>,
    ) -> Result<Call, ApiFailure>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        let params = DeleteParams {
            grace_period_seconds: grace_seconds,
            preconditions: uid
                .map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::default()
        };
        Ok(Call::new(self.requests::<K>().delete(name, &params))?.metadata_only())
    }

    /// Sends a request until it is answered for good, or the patience of the policy ends.
    pub(crate) async fn send(&self, call: &Call) -> Result<Answer, ApiFailure> {
        let mut delays = self.retry.delays();
        let mut repeated = false;
        loop {
            let failure = match self.send_once(call).await {
                Ok(body) => return Ok(Answer { body }),
                Err(failure) => failure,
            };
            let delay = delays.after(&failure).filter(|_| failure.is_retriable());
            let Some(delay) = delay else { return Err(failure.seen_before(repeated)) };
            repeated |= failure.is_ambiguous();
            tracing::debug!(%failure, ?delay, "asking the API server again");
            // The wait is bounded by the policy, and nothing can tell when a server has recovered.
            tokio::time::sleep(delay).await;
        }
    }

    async fn send_once(&self, call: &Call) -> Result<Vec<u8>, ApiFailure> {
        self.pace.turn().await;
        let exchange = async {
            let response = self.exchange(call).await?;
            let (parts, body) = response.into_parts();
            let body = body.collect_bytes().await;
            let body = body.map_err(|error| ApiFailure::from_transport(&error))?;
            match parts.status.is_success() {
                true => Ok(body.to_vec()),
                false => Err(ApiFailure::from_answer(&parts, &body)),
            }
        };
        let limit = crate::measure::ANSWER_TIMEOUT * 2;
        let outcome = match tokio::time::timeout(limit, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ApiFailure::timed_out(limit)),
        };
        outcome.map_err(|failure| self.heed(failure).hiding(&call.hidden))
    }

    async fn exchange(&self, call: &Call) -> Result<Response<Body>, ApiFailure> {
        let request = call.request.clone().map(Body::from);
        let sent = self.client.send(request).await;
        sent.map_err(|error| ApiFailure::from_transport(&error))
    }

    /// Sends a request once, and gives the answer as it comes. Dropping the stream ends the request.
    pub(crate) async fn open(
        &self,
        call: &Call,
    ) -> Result<BoxStream<'static, Result<Bytes, ApiFailure>>, ApiFailure> {
        self.pace.turn().await;
        let response = self.exchange(call).await.map_err(|failure| failure.hiding(&call.hidden))?;
        let (parts, body) = response.into_parts();
        if parts.status.is_success() {
            let body = body.into_data_stream();
            return Ok(body.map_err(|error| ApiFailure::from_transport(&error)).boxed());
        }
        let limit = crate::measure::ANSWER_TIMEOUT;
        let failure = match tokio::time::timeout(limit, body.collect_bytes()).await {
            Ok(Ok(body)) => ApiFailure::from_answer(&parts, &body),
            Ok(Err(error)) => ApiFailure::from_transport(&error),
            Err(_) => ApiFailure::timed_out(limit),
        };
        Err(self.heed(failure).hiding(&call.hidden))
    }

    /// A server that is overloaded and says for how long is left in peace by all requests. The pause
    /// is bounded, for other requests may be what brings the server relief.
    fn heed(&self, failure: ApiFailure) -> ApiFailure {
        if let (Some(429), Some(asked)) = (failure.code(), failure.retry_after()) {
            let length: Duration = asked.min(self.retry.longest);
            self.pace.pause(length);
        }
        failure
    }
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;

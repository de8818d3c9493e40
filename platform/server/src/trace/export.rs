//! The way to the collector, which never holds anybody up and says once that it does not work.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use opentelemetry_otlp::{
    SpanExporter as OtlpExporter, WithExportConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::{config::TraceConfig, net::read};

/// How long the collector has to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it has to take a batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// An exporter to the collector of the settings, if there is one.
pub(super) fn exporter(config: &TraceConfig) -> anyhow::Result<Option<OtlpExporter>> {
    let Some((flag, address)) = config.endpoint() else { return Ok(None) };
    let mut endpoint = Endpoint::from_shared(address.to_owned()).context(flag)?;
    if let Some(path) = &config.otlp_certificate {
        let authorities = Certificate::from_pem(read(path)?);
        let tls = ClientTlsConfig::new().ca_certificate(authorities);
        endpoint = endpoint.tls_config(tls).context("--otlp-certificate")?;
    }
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(EXPORT_TIMEOUT);
    let exporter = OtlpExporter::builder()
        .with_tonic()
        .with_channel(endpoint.connect_lazy())
        .with_timeout(EXPORT_TIMEOUT)
        .build();
    Ok(Some(exporter.context(flag)?))
}

/// An exporter that tells of the first batch that is lost, and of the first one that is taken again.
#[derive(Debug)]
pub(super) struct Quiet<E> {
    inner: E,
    failing: AtomicBool,
}

impl<E> Quiet<E> {
    pub(super) fn new(inner: E) -> Self {
        Self { inner, failing: AtomicBool::new(false) }
    }
}

impl<E: SpanExporter> SpanExporter for Quiet<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.inner.export(batch).await;
        match (&result, self.failing.swap(result.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => {
                tracing::warn!(%error, "the collector takes no traces; they are dropped until it does");
            }
            (Ok(()), true) => tracing::info!("the collector takes traces again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::error::OTelSdkError;

    use super::*;

    #[derive(Debug)]
    struct Failing(std::sync::Mutex<Vec<bool>>);

    impl SpanExporter for Failing {
        async fn export(&self, _batch: Vec<SpanData>) -> OTelSdkResult {
            match self.0.lock().unwrap().pop() {
                Some(true) => Err(OTelSdkError::InternalFailure("away".to_owned())),
                _ => Ok(()),
            }
        }
    }

    #[tracing_test::traced_test]
    #[tokio::test]
    async fn a_collector_that_is_away_is_told_of_once() {
        let outcomes = [true, true, true, false, false, true, true];
        let failing = Failing(std::sync::Mutex::new(outcomes.into_iter().rev().collect()));
        let exporter = Quiet::new(failing);
        for fails in outcomes {
            assert_eq!(exporter.export(Vec::new()).await.is_err(), fails);
        }
        logs_assert(|lines: &[&str]| {
            let count = |part| lines.iter().filter(|line| line.contains(part)).count();
            match (count("takes no traces"), count("takes traces again")) {
                (2, 1) => Ok(()),
                counts => Err(format!("{counts:?} in {lines:#?}")),
            }
        });
    }
}

//! Whom workers trust: the authorities that they are given where they are told to connect by https.

use std::{fs::File, io::Read, path::Path, sync::Arc};

use anyhow::{Context, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use url::Url;
use x509_parser::parse_x509_certificate;

use crate::{
    config::TlsConfig,
    net::{certificates, read},
};

/// A file of more bytes is refused: what is in it goes into every worker's pod, and each pod into the
/// watch. It holds some ten authorities; a change of authority takes two.
const MOST_BYTES: u64 = 16 << 10;

/// What is wrong where workers are told https and there is nothing to give them.
pub(crate) const NONE_GIVEN: &str = "workers are told https:// and given no authority to trust: give \
     --worker-ca-file (HODEI_WORKER_CA_FILE), or every worker fails whose image does not bring one";

/// The authorities, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authorities(Vec<CertificateDer<'static>>);

impl Authorities {
    /// Those of the settings: the file's, else the gRPC certificate's own. `None` without TLS.
    pub(crate) fn from_config(tls: &TlsConfig) -> anyhow::Result<Option<Self>> {
        let found = match (&tls.worker_ca_file, &tls.grpc_tls_cert) {
            (Some(file), _) => read_bounded(file).and_then(|pem| certificates(file, &pem))?,
            (None, Some(cert)) => {
                let chain = certificates(cert, &read(cert)?)?;
                let last = chain.last().filter(|last| is_self_signed(last)).cloned();
                let last = last.with_context(|| {
                    format!(
                        "--worker-ca-file (HODEI_WORKER_CA_FILE) is missing: workers trust nobody by \
                         themselves, and {} does not hold the authority that signed it",
                        cert.display()
                    )
                })?;
                vec![last]
            }
            (None, None) => return Ok(None),
        };
        let authorities = Self(found);
        authorities.roots().with_context(|| match &tls.worker_ca_file {
            Some(file) => format!("--worker-ca-file {}", file.display()),
            None => "the gRPC certificate".to_owned(),
        })?;
        Ok(Some(authorities))
    }

    /// Their certificates, in DER.
    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0
    }

    /// Their certificates in PEM and nothing else: a key or a text that was in the file stays there.
    pub(crate) fn to_pem(&self) -> String {
        let mut pem = String::new();
        for certificate in &self.0 {
            let text = STANDARD.encode(certificate);
            pem.push_str("-----BEGIN CERTIFICATE-----\n");
            for start in (0..text.len()).step_by(64) {
                pem.push_str(&text[start..text.len().min(start + 64)]);
                pem.push('\n');
            }
            pem.push_str("-----END CERTIFICATE-----\n");
        }
        pem
    }

    /// Why a worker that trusts these would not accept the gRPC certificate under the advertised name;
    /// `None` where it would, or where TLS is served by something in front of the server.
    pub(crate) fn objection(
        &self,
        tls: &TlsConfig,
        advertised: &str,
    ) -> anyhow::Result<Option<String>> {
        let Some(cert) = &tls.grpc_tls_cert else { return Ok(None) };
        let chain = certificates(cert, &read(cert)?)?;
        let url = Url::parse(advertised)
            .with_context(|| format!("--advertised-address {advertised:?}"))?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host)
            .with_context(|| format!("--advertised-address {advertised:?}"))?;
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(self.roots()?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, ring).build()?;
        let (leaf, between) = chain.split_first().context("the chain is empty")?;
        let verified = verifier.verify_server_cert(leaf, between, &name, &[], UnixTime::now());
        Ok(verified.err().map(|error| error.to_string()))
    }

    /// As an agent reads them.
    fn roots(&self) -> anyhow::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for (index, certificate) in self.0.iter().enumerate() {
            let added = roots.add(certificate.clone());
            added.with_context(|| format!("certificate {} cannot be used", index + 1))?;
        }
        Ok(roots)
    }
}

fn is_self_signed(certificate: &[u8]) -> bool {
    parse_x509_certificate(certificate)
        .is_ok_and(|(_, certificate)| certificate.subject() == certificate.issuer())
}

fn read_bounded(path: &Path) -> anyhow::Result<Vec<u8>> {
    let file = File::open(path)
        .with_context(|| format!("--worker-ca-file {} cannot be read", path.display()))?;
    take_bounded(file, path)
}

fn take_bounded(file: impl Read, path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut pem = Vec::new();
    file.take(MOST_BYTES + 1)
        .read_to_end(&mut pem)
        .with_context(|| format!("--worker-ca-file {} cannot be read", path.display()))?;
    let fits = u64::try_from(pem.len()).is_ok_and(|length| length <= MOST_BYTES);
    ensure!(
        fits,
        "--worker-ca-file {} has more than {} KiB: give only the authorities that sign this server's \
         certificates, not all that a system trusts",
        path.display(),
        MOST_BYTES >> 10
    );
    Ok(pem)
}

#[cfg(test)]
#[path = "authorities_tests.rs"]
mod tests;

//! TLS of a case's server: an authority of the case's own, and a certificate for the name by which
//! pods reach this host.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::paths::write_atomically;

/// An authority, and files with what it signed.
#[derive(Debug)]
pub(super) struct CaseTls {
    /// Its certificate, in PEM.
    pub(super) authority: String,
    authorities: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl CaseTls {
    /// Makes an authority and a certificate for `host` and loopback, with files in `directory`.
    ///
    /// # Errors
    /// A key cannot be made, or a file not written.
    pub(super) fn make(host: &str, directory: &Path) -> Result<Self> {
        let subject = "a certificate of the case";
        let class = FailureClass::Harness;
        let (authority, issuer) = authority().classify(class, "make", subject)?;
        let names = [host, "localhost", "127.0.0.1"].map(str::to_owned);
        let signed = KeyPair::generate().and_then(|key| {
            let certificate = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
            Ok((certificate, key))
        });
        let (certificate, key) = signed.classify(class, "make", subject)?;
        let made = Self {
            authority,
            authorities: directory.join("authority.pem"),
            certificate: directory.join("server.pem"),
            key: directory.join("server-key.pem"),
        };
        write_atomically(&made.authorities, made.authority.as_bytes(), 0o600)?;
        write_atomically(&made.certificate, certificate.pem().as_bytes(), 0o600)?;
        write_atomically(&made.key, key.serialize_pem().as_bytes(), 0o600)?;
        Ok(made)
    }

    /// How the server is told.
    pub(super) fn server_arguments(&self) -> [String; 3] {
        [
            format!("--worker-ca-file={}", self.authorities.display()),
            format!("--grpc-tls-cert={}", self.certificate.display()),
            format!("--grpc-tls-key={}", self.key.display()),
        ]
    }
}

fn authority() -> Result<(String, Issuer<'static, KeyPair>), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, "an authority of one case");
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), Issuer::new(params, key)))
}

/// The PEM of an authority that signed nothing, for a worker that trusts the wrong one.
///
/// # Errors
/// A key cannot be made.
pub fn make_authority() -> Result<String> {
    let made = authority().map(|(pem, _)| pem);
    made.map_err(|error| {
        HarnessError::new(FailureClass::Harness, "make", "an authority", error.to_string())
    })
}

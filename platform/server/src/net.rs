//! Listeners and certificates.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context, anyhow};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::transport::Identity;

use crate::config::TlsConfig;

/// Binds a listener; the error says which setting it came from.
pub(crate) async fn bind(address: SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{setting} {address} cannot be listened on"))
}

/// Certificate and key for gRPC, where there are any.
pub(crate) fn grpc_identity(tls: &TlsConfig) -> anyhow::Result<Option<Identity>> {
    let (Some(cert), Some(key)) = (&tls.grpc_tls_cert, &tls.grpc_tls_key) else { return Ok(None) };
    Ok(Some(Identity::from_pem(read(cert)?, read(key)?)))
}

/// Certificate and key for REST, where there are any.
pub(crate) fn rest_acceptor(tls: &TlsConfig) -> anyhow::Result<Option<TlsAcceptor>> {
    let (Some(cert), Some(key)) = (&tls.rest_tls_cert, &tls.rest_tls_key) else { return Ok(None) };
    let (chain, key) = read_pair(cert, key)?;
    let mut config = server_config(chain, key).context("REST certificate and key")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

/// A certificate's chain and its key, as the files hold them.
pub(crate) fn read_pair(
    cert: &Path,
    key: &Path,
) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = certificates(cert, &read(cert)?)?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|error| anyhow!("{}: {error}", key.display()))?;
    Ok((chain, private))
}

/// The certificates of a PEM text, at least one.
pub(crate) fn certificates(
    path: &Path,
    pem: &[u8],
) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{} holds no certificates", path.display()))?;
    anyhow::ensure!(!found.is_empty(), "{} holds no certificates", path.display());
    Ok(found)
}

/// TLS with a certificate; refused where the key is not the certificate's.
pub(crate) fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> anyhow::Result<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS versions")?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("the key and the certificate do not go together")
}

pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
}

/// Writes the ports that were bound: first beside the file, then by renaming, so that whoever waits
/// for the file never sees half of it.
pub(crate) async fn write_port_file(
    path: &Path,
    grpc: &[SocketAddr],
    rest: SocketAddr,
) -> anyhow::Result<()> {
    let ports: Vec<u16> = grpc.iter().map(SocketAddr::port).collect();
    let body = json!({"grpc": ports, "rest": rest.port()}).to_string();
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    let context = || format!("the port file {} cannot be written", path.display());
    tokio::fs::write(&beside, body).await.with_context(context)?;
    tokio::fs::rename(&beside, path).await.with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_port_file_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ports.json");
        let address = "127.0.0.1:5".parse().unwrap();
        write_port_file(&path, &[address], "127.0.0.1:6".parse().unwrap()).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), r#"{"grpc":[5],"rest":6}"#);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let first = bind("127.0.0.1:0".parse().unwrap(), "--grpc-listen").await.unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address, "--grpc-listen").await.unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}

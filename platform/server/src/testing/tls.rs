//! gRPC over TLS: what a worker is given is enough to reach the server, and nothing less is.

use hodei_core::spec::JobSpec;
use hodei_proto::v1::{SubmitJobRequest, job_service_client::JobServiceClient};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tonic::transport::{Certificate, Channel, ClientTlsConfig};

use super::running::Running;

/// A certificate for loopback that signed itself, and its key, as files.
fn make_pair() -> (tempfile::TempDir, [String; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let pem = certificate.self_signed(&key).unwrap().pem();
    let paths = ["cert.pem", "key.pem"].map(|name| dir.path().join(name));
    std::fs::write(&paths[0], pem).unwrap();
    std::fs::write(&paths[1], key.serialize_pem()).unwrap();
    let paths = paths.map(|path| path.to_str().unwrap().to_owned());
    (dir, paths)
}

async fn connect(address: &str, authorities: &str) -> Result<Channel, tonic::transport::Error> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authorities));
    Channel::from_shared(address.to_owned()).unwrap().tls_config(tls)?.connect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_given_whom_to_trust() {
    let ((_dir, [cert, key]), (_other_dir, [other, _])) = (make_pair(), make_pair());
    let tls = ["--grpc-tls-cert", &cert, "--grpc-tls-key", &key];
    let pool = json!({"minimum": 1, "maximum": 1});
    let mut servers = Vec::new();
    for pool in [Value::Null, pool] {
        let mut server = Running::start_pooled(pool, &tls).await;
        let address = format!("https://{}", server.server.grpc[0]);
        let trusted = std::fs::read_to_string(&cert).unwrap();
        let mut jobs = JobServiceClient::new(connect(&address, &trusted).await.unwrap());
        let spec = Some((&JobSpec::command(["true"])).into());
        jobs.submit(SubmitJobRequest { spec, ..Default::default() }).await.unwrap();
        let worker = server.next_worker().await;
        assert_eq!(worker.server_address, address);
        let given = &worker.env["HODEI_CA_PEM"];
        assert!(connect(&worker.server_address, given).await.is_ok());
        let wrong = std::fs::read_to_string(&other).unwrap();
        assert!(connect(&worker.server_address, &wrong).await.is_err());
        servers.push(server);
    }
    // Without TLS there is nothing to trust.
    let mut plain = Running::start(&["--worker-ca-file", &cert]).await;
    plain.submit(&JobSpec::command(["true"])).await;
    let worker = plain.next_worker().await;
    assert!(worker.server_address.starts_with("http://"));
    assert!(!worker.env.contains_key("HODEI_CA_PEM"), "{:?}", worker.env);
}

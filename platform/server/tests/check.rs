//! `hodei-server --check` as a process: what it reads, prints and ends with.

#![expect(clippy::unwrap_used, reason = "clippy does not take what a test calls for a test")]

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::Value;

const PASSWORD: &str = "s3cretPassw0rd";
const TOKEN: &str = "0123456789abcdef0123456789abcdefTOKEN";

fn check(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hodei-server"));
    command.arg("--check").args(arguments).env_clear().envs(environment.iter().copied());
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8(text).unwrap()
}

#[test]
fn every_mistake_of_flags_and_environment_is_in_one_answer() {
    let url = format!("postgres://hodei:{PASSWORD}@127.0.0.1:1/hodei");
    let environment = [
        ("HODEI_DATABASE_URL", url.as_str()),
        ("HODEI_LEASE_SECONDS", "never"),
        ("HODEI_GRPC_TLS_CERT", "/nonexistent/cert.pem"),
        ("HODEI_LOG", "hodei=nonsense"),
    ];
    let checked = check(&["--request-burst", "0", "--port-file"], &environment);
    let text = text(&checked);
    assert_eq!(checked.status.code(), Some(2), "{text}");
    for part in [
        "--lease-seconds (HODEI_LEASE_SECONDS)",
        "--request-burst (HODEI_REQUEST_BURST)",
        "--grpc-tls-key (HODEI_GRPC_TLS_KEY)",
        "--port-file",
        "--log-filter (HODEI_LOG)",
        "/nonexistent/cert.pem cannot be read",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    assert!(!text.contains(PASSWORD), "{text}");
}

#[test]
fn a_database_that_is_away_is_no_mistake_and_no_secret_is_printed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), TOKEN).unwrap();
    let url = format!("postgres://hodei:{PASSWORD}@127.0.0.1:1/hodei");
    let token_file = file.path().to_str().unwrap();
    let environment = [("HODEI_DATABASE_URL", url.as_str()), ("HODEI_API_TOKEN_FILE", token_file)];
    let checked = check(&["--check-format", "json"], &environment);
    assert_eq!(checked.status.code(), Some(1), "{}", text(&checked));
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    let database =
        report["findings"].as_array().unwrap().iter().find(|found| found["check"] == "database");
    assert_eq!(database.unwrap()["status"], "unavailable", "{report}");
    for secret in [PASSWORD, TOKEN] {
        assert!(!text(&checked).contains(secret), "{}", text(&checked));
    }
}

#[test]
fn a_url_that_is_none_is_not_repeated() {
    let url = format!("postgres//hodei:{PASSWORD}@host:nonsense/x");
    let checked = check(&["--database-url", &url], &[]);
    assert_ne!(checked.status.code(), Some(0), "{}", text(&checked));
    assert!(!text(&checked).contains(PASSWORD), "{}", text(&checked));
}

/// What one check finds: its status and its words.
fn found(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> (String, String) {
    // A database that is not there would be waited for.
    let url = ["--check-format", "json", "--database-url", "nonsense"];
    let checked = check(&[&url[..], arguments].concat(), environment);
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let finding = findings.iter().find(|found| found["check"] == name);
    let finding = finding.unwrap_or_else(|| panic!("{name} is not in {report}"));
    let text = |key: &str| finding[key].as_str().unwrap().to_owned();
    (text("status"), text("detail"))
}

fn assert_found(
    name: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
    expect: (&str, &str),
) {
    let (status, detail) = found(name, arguments, environment);
    assert_eq!(status, expect.0, "{arguments:?} {environment:?}: {detail}");
    assert!(detail.contains(expect.1), "{arguments:?} {environment:?}: {detail}");
}

/// Certificates for `hodei` that signed themselves, as files.
struct Files(tempfile::TempDir);

impl Files {
    fn write(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// One that is valid from a year to another, and its key.
    fn make(from: i32, to: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["hodei".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }
}

#[test]
fn the_table_of_authorities_for_workers() {
    let files = Files(tempfile::tempdir().unwrap());
    let ((good, key), (past, _)) = (Files::make(2020, 2120), Files::make(2020, 2021));
    let cert = files.write("cert.pem", &good);
    let key = files.write("key.pem", &key);
    let old = files.write("past.pem", &past);
    let both = files.write("both.pem", &format!("{past}{good}"));
    let large = files.write("large.pem", &good.repeat(1 + (16 << 10) / good.len()));
    let tls = ["--grpc-tls-cert", &cert, "--grpc-tls-key", &key];
    let told = |address| [&tls[..], &["--advertised-address", address]].concat();
    let away = ["--advertised-address", "https://hodei:1"];
    let given = |file| [&away[..], &["--worker-ca-file", file]].concat();
    for (arguments, expect) in [
        (Vec::new(), ("skipped", "workers are told http://127.0.0.1:50051")),
        (away.to_vec(), ("warning", "given no authority to trust")),
        (told("https://hodei:1"), ("ok", "1 of 1 certificates valid today")),
        (told("https://elsewhere:1"), ("warning", "will not accept the gRPC certificate")),
        (given(&cert), ("ok", "workers are told https://hodei:1")),
        (given(&both), ("warning", "1 of 2 certificates valid today")),
        (given(&old), ("wrong", "0 of 1 certificates valid today")),
        (given(&key), ("wrong", "holds no certificates")),
        (given(&large), ("wrong", "has more than 16 KiB")),
        (given("/nonexistent/ca.pem"), ("wrong", "/nonexistent/ca.pem cannot be read")),
    ] {
        assert_found("worker CA", &arguments, &[], expect);
    }
}

#[test]
fn the_table_of_collectors() {
    const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
    let files = Files(tempfile::tempdir().unwrap());
    let cert = files.write("cert.pem", &Files::make(2020, 2120).0);
    let (http, https) = ((ENDPOINT, "http://c:4317"), (ENDPOINT, "https://c:4317"));
    let (trusted, missing) = ((CERTIFICATE, cert.as_str()), (CERTIFICATE, "/nonexistent/ca.pem"));
    for (environment, expect) in [
        (&[][..], ("skipped", "no collector is set")),
        (&[http], ("ok", "are sent by OTLP")),
        (&[https, trusted], ("ok", "are sent by OTLP")),
        (&[https, missing], ("wrong", "/nonexistent/ca.pem cannot be read")),
        (&[https, missing, ("OTEL_SDK_DISABLED", "true")], ("skipped", "no collector is set")),
    ] {
        assert_found("traces", &[], environment, expect);
    }
    let endpoint = "--otlp-endpoint (OTEL_EXPORTER_OTLP_ENDPOINT)";
    let certificate = "--otlp-certificate (OTEL_EXPORTER_OTLP_CERTIFICATE)";
    for (name, environment, part) in [
        (certificate, &[https][..], "is needed to trust the collector"),
        (endpoint, &[http, trusted], "must begin with https://"),
        (endpoint, &[(ENDPOINT, "c:4317")], "must be http://host:port"),
    ] {
        assert_found(name, &[], environment, ("wrong", part));
    }
}

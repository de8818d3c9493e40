use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::*;

fn authority(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), Issuer::new(params, key))
}

/// A certificate for `hodei` and 10.0.0.1, signed by an authority or by itself, and its key.
fn leaf(issuer: Option<&Issuer<'static, KeyPair>>) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["hodei".to_owned(), "10.0.0.1".to_owned()]).unwrap();
    let certificate = match issuer {
        Some(issuer) => params.signed_by(&key, issuer).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    (certificate.pem(), key.serialize_pem())
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> Option<PathBuf> {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    }

    fn tls(&self, cert: Option<&str>, authorities: Option<&str>) -> TlsConfig {
        TlsConfig {
            grpc_tls_cert: cert.and_then(|pem| self.write("cert.pem", pem)),
            worker_ca_file: authorities.and_then(|pem| self.write("ca.pem", pem)),
            ..TlsConfig::default()
        }
    }
}

fn found(tls: &TlsConfig) -> Result<Option<String>, String> {
    let found = Authorities::from_config(tls).map_err(|error| format!("{error:#}"))?;
    Ok(found.map(|found| found.to_pem()))
}

#[test]
fn the_table_of_settings() {
    let files = Files::new();
    let ((own, _), (root, issuer)) = (leaf(None), authority("root"));
    let (signed, key) = leaf(Some(&issuer));
    let with_root = format!("{signed}{root}");
    let with_key = format!("a text\n{root}{key}");
    for (cert, given, expect) in [
        (None, None, None),
        (Some(&own), None, Some(&own)),
        (Some(&with_root), None, Some(&root)),
        (Some(&signed), Some(&root), Some(&root)),
        (Some(&own), Some(&root), Some(&root)),
        (None, Some(&with_key), Some(&root)),
    ] {
        let tls = files.tls(cert.map(String::as_str), given.map(String::as_str));
        // The pem crate ends its lines as RFC 7468 allows, with CR and LF.
        let expect = expect.map(|pem| pem.replace('\r', ""));
        assert_eq!(found(&tls), Ok(expect));
    }
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    let files = Files::new();
    let (root, issuer) = authority("root");
    let (signed, key) = leaf(Some(&issuer));
    let large = root.repeat(1 + (16 << 10) / root.len());
    let forged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (given, part) in [
        (None, "--worker-ca-file (HODEI_WORKER_CA_FILE) is missing"),
        (Some(""), "holds no certificates"),
        (Some("text"), "holds no certificates"),
        (Some(&key), "holds no certificates"),
        (Some(forged), "certificate 1 cannot be used"),
        (Some(&large), "more than 16 KiB"),
    ] {
        let problem = found(&files.tls(Some(&signed), given)).unwrap_err();
        assert!(problem.contains(part), "{part} is not in {problem}");
    }
    let tls =
        TlsConfig { worker_ca_file: Some(files.0.path().join("none")), ..TlsConfig::default() };
    assert!(found(&tls).unwrap_err().contains("none cannot be read"));
}

#[test]
fn what_a_worker_would_say_is_known() {
    let files = Files::new();
    let ((root, issuer), (other, _)) = (authority("root"), authority("other"));
    let (signed, _) = leaf(Some(&issuer));
    let said = |cert: &str, given: Option<&str>, address: &str| {
        let tls = files.tls(Some(cert), given);
        Authorities::from_config(&tls).unwrap().unwrap().objection(&tls, address).unwrap()
    };
    let (own, _) = leaf(None);
    let both = format!("{other}{root}");
    for (cert, given) in [(&signed, Some(&root)), (&signed, Some(&both)), (&own, None)] {
        let given = given.map(String::as_str);
        for address in ["https://hodei:50051", "https://10.0.0.1:1"] {
            assert_eq!(said(cert, given, address), None);
        }
        let problem = said(cert, given, "https://elsewhere:1").unwrap();
        assert!(problem.contains("elsewhere"), "{problem}");
    }
    assert!(said(&signed, Some(&other), "https://hodei:1").unwrap().contains("UnknownIssuer"));
    // `openssl req -x509` makes such a one: an authority, which no client takes for a server.
    let problem = said(&root, None, "https://hodei:1").unwrap();
    assert!(problem.contains("CaUsedAsEndEntity"), "{problem}");
}

/// A file without an end, as /dev/zero.
struct Endless {
    read: u64,
}

impl std::io::Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.read += buffer.len() as u64;
        assert!(self.read <= 4 * MOST_BYTES, "{} bytes were read", self.read);
        buffer.fill(b'-');
        Ok(buffer.len())
    }
}

#[test]
fn of_a_file_without_an_end_no_more_is_read_than_is_taken() {
    let problem = take_bounded(Endless { read: 0 }, std::path::Path::new("/dev/zero")).unwrap_err();
    assert!(problem.to_string().contains("/dev/zero has more than 16 KiB"), "{problem}");
}

mod outside_input {
    use std::sync::LazyLock;

    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    static ROOT: LazyLock<(String, String)> = LazyLock::new(|| {
        let (root, issuer) = authority("root");
        (root, leaf(Some(&issuer)).1)
    });

    proptest! {
        #[test]
        fn any_file_is_authorities_alone_or_is_named(
            damages in vec((any::<Index>(), any::<u8>()), 0..3), text in "[ -~\n]{0,40}",
            with_key in any::<bool>(),
        ) {
            let (root, key) = &*ROOT;
            let mut bytes = format!("{text}{root}{}", if with_key { key } else { "" }).into_bytes();
            for (place, byte) in damages {
                *place.get_mut(&mut bytes) = byte;
            }
            let files = Files::new();
            let path = files.0.path().join("ca.pem");
            std::fs::write(&path, bytes).unwrap();
            let tls = TlsConfig { worker_ca_file: Some(path), ..TlsConfig::default() };
            match found(&tls) {
                Ok(pem) => {
                    let pem = pem.unwrap();
                    prop_assert!(!pem.contains("PRIVATE"), "a key is not handed on");
                    let again = files.tls(None, Some(&pem));
                    prop_assert_eq!(found(&again), Ok(Some(pem)));
                }
                Err(problem) => prop_assert!(problem.contains("ca.pem"), "{problem}"),
            }
        }
    }
}

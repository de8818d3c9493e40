//! A certificate and its key: readable, of one pair, and of today; and whether workers will accept it.

use std::path::Path;

use anyhow::{Context, anyhow};
use rustls::pki_types::CertificateDer;
use x509_parser::{parse_x509_certificate, time::ASN1Time};

use super::{Finding, Status};
use crate::{
    authorities::{Authorities, NONE_GIVEN},
    config::Config,
    net::read_pair,
};

/// A certificate that ends within so many days is worth a warning.
const SOON_DAYS: i64 = 14;
const DAY: i64 = 24 * 3600;

pub(super) fn check(name: &str, cert: &Path, key: &Path) -> Finding {
    match validity(cert, key) {
        Ok((status, detail)) => Finding::new(name, status, detail),
        Err(error) => Finding::new(name, Status::Wrong, format_args!("{error:#}")),
    }
}

/// The certificate is read and used as the server does it; then it is asked for its dates.
fn validity(cert: &Path, key: &Path) -> anyhow::Result<(Status, String)> {
    let (chain, key) = read_pair(cert, key)?;
    let dates = dates(&chain).with_context(|| cert.display().to_string())?;
    crate::net::server_config(chain, key)?;
    let now = ASN1Time::now().timestamp();
    let begins = dates.iter().map(|(begin, _)| *begin).max().unwrap_or(i64::MAX);
    let ends = dates.iter().map(|(_, end)| *end).min().unwrap_or(i64::MIN);
    let of_whom = if dates.len() > 1 { "its chain" } else { "it" };
    Ok(if begins > now {
        (Status::Wrong, format!("{of_whom} is not valid before {}", moment(begins)))
    } else if ends < now {
        (Status::Wrong, format!("{of_whom} has expired at {}", moment(ends)))
    } else if ends - now < SOON_DAYS * DAY {
        let days = (ends - now) / DAY;
        (Status::Warning, format!("{of_whom} ends in {days} days, at {}", moment(ends)))
    } else {
        (Status::Ok, format!("the key is its own; valid until {}", moment(ends)))
    })
}

/// From when until when each is valid, in seconds since 1970.
fn dates(certificates: &[CertificateDer<'_>]) -> anyhow::Result<Vec<(i64, i64)>> {
    let dates = certificates.iter().map(|certificate| {
        let parsed = parse_x509_certificate(certificate).map_err(|error| anyhow!("{error}"))?;
        let validity = parsed.1.validity();
        Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
    });
    dates.collect()
}

/// The authorities that workers are given, and what a worker would say to the gRPC certificate.
pub(super) fn check_authorities(name: &str, config: &Config) -> Finding {
    match authorities(config) {
        Ok((status, detail)) => Finding::new(name, status, detail),
        Err(error) => Finding::new(name, Status::Wrong, format_args!("{error:#}")),
    }
}

fn authorities(config: &Config) -> anyhow::Result<(Status, String)> {
    let first = config.grpc_listen.first().context("--grpc-listen is empty")?;
    let advertised = config.advertised(*first);
    let authorities = Authorities::from_config(&config.tls)?;
    if !advertised.starts_with("https://") {
        let detail = format!("not needed: workers are told {advertised}");
        return Ok((Status::Skipped, detail));
    }
    let Some(authorities) = authorities else {
        return Ok((Status::Warning, NONE_GIVEN.to_owned()));
    };
    let now = ASN1Time::now().timestamp();
    let dates = dates(authorities.certificates())?;
    let valid = dates.iter().filter(|(begins, ends)| (*begins..=*ends).contains(&now)).count();
    if let Some(problem) = authorities.objection(&config.tls, &advertised)? {
        let detail = format!("workers will not accept the gRPC certificate: {problem}");
        return Ok((Status::Warning, detail));
    }
    let of_all = format!("{valid} of {} certificates valid today", dates.len());
    Ok(if valid == 0 {
        (Status::Wrong, of_all)
    } else if valid < dates.len() {
        (Status::Warning, of_all)
    } else {
        (Status::Ok, format!("{of_all}; workers are told {advertised}"))
    })
}

fn moment(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    struct Files {
        dir: tempfile::TempDir,
        cert: PathBuf,
        key: PathBuf,
    }

    /// A pair of files, valid from one year to another.
    fn make(from: i32, to: i32) -> Files {
        let dir = tempfile::tempdir().unwrap();
        let key_pair = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["hodei".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        std::fs::write(&cert, params.self_signed(&key_pair).unwrap().pem()).unwrap();
        std::fs::write(&key, key_pair.serialize_pem()).unwrap();
        Files { dir, cert, key }
    }

    fn assert_found(cert: &Path, key: &Path, status: Status, part: &str) {
        let found = check("certificate", cert, key);
        assert!(found.status == status && found.detail.contains(part), "{found:?}");
    }

    #[test]
    fn the_table_of_certificates() {
        let (good, other) = (make(2020, 2120), make(2020, 2120));
        assert_found(&good.cert, &good.key, Status::Ok, "2120-01-01");
        assert_found(&good.cert, &other.key, Status::Wrong, "key");
        let (past, future) = (make(2020, 2021), make(2119, 2120));
        assert_found(&past.cert, &past.key, Status::Wrong, "expired at 2021-01-01");
        assert_found(&future.cert, &future.key, Status::Wrong, "not valid before 2119-01-01");
        let missing = good.dir.path().join("none");
        assert_found(&missing, &good.key, Status::Wrong, "cannot be read");
        assert_found(&good.cert, &missing, Status::Wrong, "cannot be read");
        assert_found(&good.key, &good.key, Status::Wrong, "no certificates");
        assert_found(&good.cert, &good.cert, Status::Wrong, "cert.pem");
    }
}

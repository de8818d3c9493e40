//! Where the output of ended attempts is kept, and for how long.

use std::time::Duration;

use clap::Args;
use url::Url;

/// Logs and finished jobs: where they are kept, and for how long.
#[derive(Debug, Clone, Args)]
pub struct LogConfig {
    /// Where the output of attempts that have ended is kept: `postgres`, or the URL of a place in an
    /// object store, as file:///DIRECTORY, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or
    /// az://CONTAINER/PREFIX. Credentials come from AWS_*, GOOGLE_* and AZURE_* variables. All servers
    /// of a database need the same.
    #[arg(long, env = "HODEI_LOG_STORE", default_value = "postgres", hide_env_values = true)]
    pub log_store: LogStoreText,

    /// Remove the output of jobs that ended longer ago, as 12h, 30d or 8w; `off`: never.
    #[arg(long, env = "HODEI_LOG_RETENTION", default_value = "off", value_parser = parse_retention)]
    pub log_retention: Retention,

    /// Remove jobs that ended longer ago, with their attempts, events, idempotency keys and output, and
    /// records of what was refused; `off`: never.
    #[arg(long, env = "HODEI_JOB_RETENTION", default_value = "off", value_parser = parse_retention)]
    pub job_retention: Retention,
}

/// What was given as log store. It may hold a secret by mistake, so it is never printed.
#[derive(Clone)]
pub struct LogStoreText(String);

impl LogStoreText {
    /// The log store it names.
    ///
    /// # Errors
    /// As [`LogStore::parse`].
    pub fn read(&self) -> Result<LogStore, String> {
        LogStore::parse(&self.0)
    }
}

impl From<String> for LogStoreText {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for LogStoreText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogStoreText(…)")
    }
}

/// How long something is kept; `None`: for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention(pub Option<Duration>);

/// Where the output of attempts that have ended is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogStore {
    /// In the database.
    Postgres,
    /// In an object store.
    Objects(Url),
}

impl LogStore {
    /// Reads `postgres` or a URL.
    ///
    /// # Errors
    /// One sentence saying what is wrong with it. It never repeats the text, which may hold a secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "postgres" {
            return Ok(Self::Postgres);
        }
        let mut url = Url::parse(text.trim_end_matches('/'))
            .map_err(|error| format!("neither `postgres` nor a URL: {error}"))?;
        // One place has one name: `.` and `..` are resolved by now, and may have left a `/`.
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        if !url.username().is_empty() || url.password().is_some() {
            return Err("credentials do not belong in the URL but in AWS_*, GOOGLE_* or AZURE_* \
                        variables"
                .to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("a URL without ? and # is needed".to_owned());
        }
        let known = match (url.scheme(), url.host_str()) {
            ("file", None) => url.path().len() > 1,
            ("s3" | "gs" | "az", Some(host)) => !host.is_empty(),
            _ => false,
        };
        if !known {
            return Err("must be file:///DIRECTORY, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or \
                        az://CONTAINER/PREFIX"
                .to_owned());
        }
        Ok(Self::Objects(url))
    }
}

/// Reads `off`, or a number and a unit: s, m, h, d, w.
fn parse_retention(text: &str) -> Result<Retention, String> {
    if text == "off" {
        return Ok(Retention(None));
    }
    let problem =
        || "must be `off` or a number with s, m, h, d or w, as 30d; 1m to 5200w".to_owned();
    let unit = text.chars().next_back().ok_or_else(problem)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(problem()),
    };
    let number = text.strip_suffix(unit).unwrap_or_default();
    let number: u64 = number.parse().map_err(|_| problem())?;
    match number.checked_mul(seconds) {
        Some(total @ 60..=3_144_960_000) => Ok(Retention(Some(Duration::from_secs(total)))),
        _ => Err(problem()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retention_is_a_number_with_a_unit() {
        for (text, days) in [("48h", 2), ("30d", 30), ("2w", 14), ("2880m", 2), ("86400s", 1)] {
            let period = Duration::from_secs(days * 86_400);
            assert_eq!(parse_retention(text), Ok(Retention(Some(period))), "{text}");
        }
        assert_eq!(parse_retention("off"), Ok(Retention(None)));
        for text in
            ["", "0d", "30", "d", "-1d", "1y", "59s", "99999999999999999999w", "5201w", "1dd"]
        {
            assert!(parse_retention(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_log_store_is_postgres_or_a_url_without_secrets() {
        assert_eq!(LogStore::parse("postgres"), Ok(LogStore::Postgres));
        for text in
            ["file:///var/log/hodei/", "s3://b", "s3://b/some/prefix", "gs://b/p", "az://c/p"]
        {
            let url = Url::parse(text.trim_end_matches('/')).unwrap();
            assert_eq!(LogStore::parse(text), Ok(LogStore::Objects(url)), "{text}");
        }
        for text in [
            "",
            "disk",
            "/var/log",
            "file:///",
            "file://host/x",
            "http://h/x",
            "memory:///",
            "s3://key:s3cret@b/p",
            "s3://b/p?token=s3cret",
            "s3:///p",
        ] {
            let problem = LogStore::parse(text).unwrap_err();
            assert!(!problem.contains("s3cret"), "{text}: {problem}");
        }
    }
}

#[cfg(test)]
mod outside_input {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_retention_is_its_number_of_units_or_refused(
            text in prop_oneof![any::<String>(), "[+-]?[0-9]{1,20}[smhdwy]?"],
        ) {
            match parse_retention(&text) {
                Ok(Retention(None)) => prop_assert_eq!(text, "off"),
                Ok(Retention(Some(period))) => {
                    prop_assert!((60..=3_144_960_000).contains(&period.as_secs()));
                    prop_assert_eq!(parse_retention(&format!("{}s", period.as_secs())), Ok(Retention(Some(period))));
                }
                Err(problem) => prop_assert!(problem.contains("must be `off` or a number")),
            }
        }

        #[test]
        fn a_log_store_is_known_or_refused_without_being_repeated(
            text in prop_oneof![
                any::<String>(),
                "(file|s3|gs|az|http)://(user:s3cret@)?[a-z.]{0,6}(/[a-z.%]{0,6}){0,2}([?#][a-z=]{0,5})?",
            ],
        ) {
            match LogStore::parse(&text) {
                Ok(LogStore::Postgres) => prop_assert_eq!(text, "postgres"),
                Ok(LogStore::Objects(url)) => {
                    prop_assert!(url.username().is_empty() && url.password().is_none());
                    prop_assert_eq!(LogStore::parse(url.as_str()), Ok(LogStore::Objects(url)));
                }
                Err(problem) => prop_assert!(!problem.is_empty() && !problem.contains("s3cret")),
            }
        }
    }
}

//! Which server is talked to: flags, environment, context file, defaults, in this order.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use clap::{ArgMatches, parser::ValueSource};
use etcetera::BaseStrategy as _;
use serde::{Deserialize, Serialize};

use crate::{args::Connection, failure::Failure, view};

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    Flag,
    Environment,
    File(PathBuf),
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment => f.write_str("environment"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One setting and its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    pub(crate) source: Source,
}

/// Where the token of the server is. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Token {
    None,
    Given(String),
    File(PathBuf),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("-"),
            Self::Given(_) => f.write_str("(given)"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({self})")
    }
}

impl Serialize for Token {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_none(),
            given => serializer.collect_str(given),
        }
    }
}

/// The server's addresses, whom to trust, and who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Context {
    pub(crate) grpc: Setting<String>,
    pub(crate) rest: Setting<String>,
    pub(crate) ca_file: Setting<Option<PathBuf>>,
    pub(crate) token: Setting<Token>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ContextFile {
    grpc: Option<String>,
    rest: Option<String>,
    ca_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
}

impl Context {
    /// Finds every setting. `matches` tell flags from environment.
    pub(crate) fn find(given: &Connection, matches: &ArgMatches) -> Result<Self, Failure> {
        let (path, named) = match &given.context {
            Some(path) => (Some(path.clone()), true),
            None => (default_path(), false),
        };
        let file = match &path {
            Some(path) if named || path.exists() => read(path)?,
            _ => ContextFile::default(),
        };
        let from_file = Source::File(path.unwrap_or_default());
        let source = |id: &str| match matches.value_source(id) {
            Some(ValueSource::EnvVariable) => Source::Environment,
            _ => Source::Flag,
        };
        let address = |id, given: &Option<String>, file: Option<String>, default: &str| {
            let (value, source) = match (given, file) {
                (Some(given), _) => (given.clone(), source(id)),
                (None, Some(file)) => (file, from_file.clone()),
                (None, None) => (default.to_owned(), Source::Default),
            };
            Setting { value: with_scheme(value), source }
        };
        let ca_file = match (&given.ca_file, file.ca_file) {
            (Some(given), _) => Setting { value: Some(given.clone()), source: source("ca_file") },
            (None, Some(file)) => Setting { value: Some(file), source: from_file.clone() },
            (None, None) => Setting { value: None, source: Source::Default },
        };
        let token = match (&given.token, &given.token_file, file.token_file) {
            (Some(token), _, _) => {
                Setting { value: Token::Given(token.clone()), source: source("token") }
            }
            (None, Some(path), _) => {
                Setting { value: Token::File(path.clone()), source: source("token_file") }
            }
            (None, None, Some(path)) => {
                Setting { value: Token::File(path), source: from_file.clone() }
            }
            (None, None, None) => Setting { value: Token::None, source: Source::Default },
        };
        Ok(Self {
            grpc: address("server", &given.server, file.grpc, "http://127.0.0.1:50051"),
            rest: address("rest", &given.rest, file.rest, "http://127.0.0.1:8080"),
            ca_file,
            token,
        })
    }

    /// Each setting and its source, for a person.
    pub(crate) fn describe(&self) -> String {
        let ca_file = self.ca_file.value.as_ref().map(|path| path.display().to_string());
        let rows = [
            ("grpc", &self.grpc.value, &self.grpc.source),
            ("rest", &self.rest.value, &self.rest.source),
            ("ca_file", &ca_file.unwrap_or_else(|| "-".to_owned()), &self.ca_file.source),
            ("token", &self.token.value.to_string(), &self.token.source),
        ];
        let rows =
            rows.map(|(name, value, source)| [name.to_owned(), value.clone(), source.to_string()]);
        view::table(Some(["SETTING", "VALUE", "FROM"].map(str::to_owned)), rows.to_vec())
    }

    /// The token to present, if there is one.
    pub(crate) fn token(&self) -> Result<Option<String>, Failure> {
        let (text, path) = match &self.token.value {
            Token::None => return Ok(None),
            Token::Given(token) => (token.clone(), None),
            Token::File(path) => {
                let text = fs::read_to_string(path).map_err(|error| Failure::File {
                    path: path.clone(),
                    problem: error.to_string(),
                    help: "This file holds the server's token; `hodei context show` says who names it.",
                })?;
                (text.trim_end().to_owned(), Some(path))
            }
        };
        // Whatever else is in it would be another header, or none.
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let place =
                path.map_or_else(|| "--token".to_owned(), |path| path.display().to_string());
            return Err(Failure::Local {
                what: format!("{place} holds no token"),
                help: "A token is one line of printable ASCII characters without a space."
                    .to_owned(),
            });
        }
        Ok(Some(text))
    }

    /// The PEM of the authorities to trust, if any were named.
    pub(crate) fn ca_pem(&self) -> Result<Option<Vec<u8>>, Failure> {
        let Some(path) = &self.ca_file.value else { return Ok(None) };
        let pem = fs::read(path).map_err(|error| Failure::File {
            path: path.clone(),
            problem: error.to_string(),
            help: "This file holds the authorities to trust; `hodei context show` says who names it.",
        })?;
        Ok(Some(pem))
    }
}

fn default_path() -> Option<PathBuf> {
    let base = etcetera::base_strategy::Xdg::new().ok()?;
    Some(base.config_dir().join("hodei").join("context.toml"))
}

fn read(path: &Path) -> Result<ContextFile, Failure> {
    let failed = |problem| Failure::File {
        path: path.to_owned(),
        problem,
        help: "A context file has the lines grpc = \"http://…\", rest = \"http://…\" and, where \
               needed, ca_file = \"…\" and token_file = \"…\". `make up` writes one.",
    };
    let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    toml::from_str(&text).map_err(|error| failed(error.to_string().trim().to_owned()))
}

fn with_scheme(address: String) -> String {
    if address.contains("://") { address } else { format!("http://{address}") }
}

#[cfg(test)]
mod outside_input {
    use proptest::{option, prelude::*};

    use super::*;

    fn write(text: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        file
    }

    fn assert_named(failure: &Failure, path: &Path) -> Result<(), TestCaseError> {
        let text = format!("{failure} {failure:?}");
        prop_assert!(text.contains(&path.display().to_string()), "{text}");
        Ok(())
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_context_or_a_failure_that_names_the_file(bytes in any::<Vec<u8>>()) {
            let file = write(&bytes);
            if let Err(failure) = read(file.path()) {
                assert_named(&failure, file.path())?;
            }
        }

        #[test]
        fn every_setting_is_read_as_it_was_written(
            grpc in option::of(any::<String>()), rest in option::of(any::<String>()),
            ca in option::of("\\PC{0,20}"), token in option::of("\\PC{0,20}"),
        ) {
            let mut table = toml::Table::new();
            for (key, value) in
                [("grpc", &grpc), ("rest", &rest), ("ca_file", &ca), ("token_file", &token)]
            {
                table.extend(value.clone().map(|value| (key.to_owned(), value.into())));
            }
            let file = write(table.to_string().as_bytes());
            let found = read(file.path()).map_err(|failure| {
                TestCaseError::fail(format!("{failure:?} in {table}"))
            })?;
            prop_assert_eq!((found.grpc, found.rest), (grpc, rest));
            prop_assert_eq!(found.ca_file, ca.map(PathBuf::from));
            prop_assert_eq!(found.token_file, token.map(PathBuf::from));
        }

        #[test]
        fn a_setting_that_is_none_is_named(key in "[a-z]{3,12}", value in any::<i64>()) {
            prop_assume!(!["grpc", "rest"].contains(&key.as_str()));
            let file = write(format!("{key} = {value}").as_bytes());
            let failure = read(file.path()).unwrap_err();
            assert_named(&failure, file.path())?;
            prop_assert!(format!("{failure:?}").contains(&key), "{failure:?}");
        }

        #[test]
        fn a_token_is_one_header_or_its_file_is_named_and_it_is_not(
            bytes in prop_oneof![any::<Vec<u8>>(), "[!-~]{8,40}\n?".prop_map(String::into_bytes)],
        ) {
            let file = write(&bytes);
            let address = || Setting { value: String::new(), source: Source::Default };
            let context = Context {
                grpc: address(),
                rest: address(),
                ca_file: Setting { value: None, source: Source::Default },
                token: Setting { value: Token::File(file.path().into()), source: Source::Default },
            };
            match context.token() {
                Ok(token) => {
                    let token = token.unwrap();
                    prop_assert!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
                    prop_assert_eq!(token.as_bytes(), bytes.trim_ascii_end());
                }
                Err(failure) => assert_named(&failure, file.path())?,
            }
        }
    }
}

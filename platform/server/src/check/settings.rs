//! Every mistake in the settings at once. clap stops at the first; so the setting it names is taken away,
//! and the rest is read again.

use std::ffi::OsString;

use clap::{
    Arg, Command, CommandFactory, FromArgMatches, Id,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{Finding, Status};
use crate::config::Config;

/// More mistakes than this are not looked for.
const MOST_MISTAKES: usize = 100;

/// What could be read.
pub(super) struct Read {
    /// The settings without the mistaken ones; `None` where not even that could be had.
    pub(super) config: Option<Config>,
    pub(super) findings: Vec<Finding>,
}

pub(super) fn read(mut arguments: Vec<OsString>) -> Read {
    let (mut forgotten, mut findings) = (Vec::new(), Vec::new());
    for _ in 0..MOST_MISTAKES {
        // Made anew each time: clap's own arguments are not to be changed once a command was used.
        let command = forgotten.iter().fold(Config::command(), |command, id: &Id| {
            command.mut_arg(id, |argument| argument.env(None::<&'static str>))
        });
        let error = match command.clone().try_get_matches_from(&arguments) {
            Ok(matches) => {
                let config = Config::from_arg_matches(&matches).ok();
                let broken = config.iter().flat_map(Config::problems);
                findings
                    .extend(broken.map(|(flag, problem)| {
                        Finding::new(name_of(flag), Status::Wrong, problem)
                    }));
                return Read { config, findings };
            }
            Err(error) => error,
        };
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            error.exit();
        }
        let named = named(&error);
        let known = named.iter().any(|flag| argument(&command, flag).is_some());
        for flag in &named {
            findings.push(Finding::new(name_of(flag), Status::Wrong, why(&error)));
            if error.kind() == ErrorKind::MissingRequiredArgument {
                // A stand-in, so that the others are looked at. What it stands for is named already.
                arguments.extend([flag.into(), STAND_IN.into()]);
            } else {
                arguments = without(&command, flag, &arguments);
                forgotten
                    .extend(argument(&command, flag).map(|argument| argument.get_id().clone()));
            }
        }
        if !known {
            if named.is_empty() {
                findings.push(Finding::new("settings", Status::Wrong, why(&error)));
            }
            if error.kind() != ErrorKind::UnknownArgument || named.is_empty() {
                break;
            }
        }
    }
    Read { config: None, findings }
}

/// What stands for a setting that is missing.
pub(super) const STAND_IN: &str = "missing";

/// The flags an error is about, as `--flag`.
fn named(error: &clap::Error) -> Vec<String> {
    let texts = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => Vec::new(),
    };
    let flag = |text: &String| text.split([' ', '=']).next().unwrap_or_default().to_owned();
    texts.iter().map(flag).collect()
}

fn argument<'a>(command: &'a Command, flag: &str) -> Option<&'a Arg> {
    let long = flag.strip_prefix("--")?;
    command.get_arguments().find(|argument| argument.get_long() == Some(long))
}

/// A setting by its flag and its variable.
fn name_of(flag: &str) -> String {
    match argument(&Config::command(), flag).and_then(Arg::get_env) {
        Some(variable) => format!("{flag} ({})", variable.display()),
        None => flag.to_owned(),
    }
}

fn why(error: &clap::Error) -> String {
    match error.kind() {
        ErrorKind::MissingRequiredArgument => "is missing".to_owned(),
        _ => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        }
    }
}

/// The arguments without a flag and its value.
fn without(command: &Command, flag: &str, arguments: &[OsString]) -> Vec<OsString> {
    let takes_value =
        argument(command, flag).is_some_and(|argument| argument.get_action().takes_values());
    let with_value = format!("{flag}=");
    let (mut left, mut skip) = (Vec::new(), false);
    for argument in arguments {
        let text = argument.to_string_lossy();
        let is_value = std::mem::take(&mut skip) && !text.starts_with("--");
        if is_value || text.starts_with(&with_value) {
            continue;
        }
        if text == flag {
            skip = takes_value;
            continue;
        }
        left.push(argument.clone());
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arguments: &[&str], expect: &[&str]) -> Option<Config> {
        let program = std::iter::once(&"hodei-server").chain(arguments);
        let read = read(program.map(OsString::from).collect());
        let found: Vec<_> =
            read.findings.iter().map(|f| format!("{}: {}", f.check, f.detail)).collect();
        assert_eq!(found.len(), expect.len(), "{found:#?}");
        for part in expect {
            assert!(found.iter().any(|text| text.contains(part)), "{part} is not in {found:#?}");
        }
        read.config
    }

    const URL: [&str; 2] = ["--database-url", "postgres://u:s3cret@h/d"];

    #[test]
    fn settings_that_are_valid_are_read() {
        let config = check(&[&URL[..], &["--lease-seconds", "60"]].concat(), &[]).unwrap();
        assert_eq!(config.timing.lease.as_secs(), 60);
    }

    #[test]
    fn every_mistake_is_named_with_flag_and_variable() {
        let config = check(
            &[
                "--lease-seconds=never",
                "--rest-listen",
                "nowhere",
                "--nonsense",
                "--grpc-tls-cert",
                "/cert",
                "--advertised-address",
                "host:1",
                "--api-token-file",
                "/token",
                "--insecure-no-auth",
            ],
            &[
                "--database-url (HODEI_DATABASE_URL): is missing",
                "--lease-seconds (HODEI_LEASE_SECONDS): invalid value 'never'",
                "--rest-listen (HODEI_REST_LISTEN): invalid value 'nowhere'",
                "--nonsense: unexpected argument",
                "--grpc-tls-key (HODEI_GRPC_TLS_KEY): is missing",
                "--advertised-address (HODEI_ADVERTISED_ADDRESS): \"host:1\" must begin",
                "cannot be used with",
            ],
        );
        assert!(config.is_some());
    }

    #[test]
    fn rules_between_settings_are_all_looked_at() {
        let broken = ["--lease-seconds", "6", "--rest-listen", "0.0.0.0:1"];
        let expect = [
            "--lease-seconds (HODEI_LEASE_SECONDS): must be at least twice",
            "--rest-listen (HODEI_REST_LISTEN): 0.0.0.0:1 can be reached",
        ];
        check(&[&URL[..], &broken].concat(), &expect);
    }
}

#[cfg(test)]
mod outside_input_slow {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    /// Flags with and without a value, and what may stand alone.
    fn word() -> impl Strategy<Value = String> {
        const WORDS: [&str; 11] = [
            "--lease-seconds",
            "--rest-listen=x",
            "--rest-listen",
            "--log-store=s3://key:s3cret@bucket",
            "--database-url=postgres://u:s3cret@h/d",
            "--request-burst=0",
            "--grpc-tls-cert=/cert",
            "--grpc-tls-key",
            "--insecure-no-auth",
            "--api-token-file=/token",
            "--nonsense",
        ];
        prop_oneof![
            4 => select(&WORDS[..]).prop_map(str::to_owned),
            1 => "[a-z0-9.:/=]{0,9}",
            1 => "--[a-z]{0,9}=[ -~]{0,9}",
        ]
    }

    proptest! {
        #[test]
        fn any_arguments_are_read_to_their_end_and_no_secret_is_shown(words in vec(word(), 0..7)) {
            let program = std::iter::once("hodei-server".to_owned()).chain(words);
            let Read { config, findings } = read(program.map(OsString::from).collect());
            prop_assert!(config.is_some() || !findings.is_empty());
            prop_assert!(findings.len() <= 2 * MOST_MISTAKES);
            for finding in findings {
                prop_assert!(finding.status == Status::Wrong && !finding.detail.is_empty());
                prop_assert!(!finding.detail.contains("s3cret"), "{finding:?}");
            }
        }
    }
}

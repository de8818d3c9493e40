//! Settings of the agent that nobody thought of. PROPTEST_CASES says how many each property gets.

use std::{ffi::OsString, os::unix::ffi::OsStringExt};

use clap::Parser;
use hodei_worker::{Args, Config, config::read_otp, link::endpoint};
use proptest::{collection::vec, option, prelude::*};

/// In the form of an authority, and none.
const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

/// Names of the settings that are numbers.
const NUMBERS: [&str; 5] = [
    "--stall-seconds",
    "--register-timeout-seconds",
    "--give-up-seconds",
    "--idle-timeout-seconds",
    "--drain-grace-seconds",
];

proptest! {
    #[test]
    fn numbers_are_taken_as_they_are_or_named(
        flag in prop::sample::select(&NUMBERS[..]),
        text in prop_oneof![(0_u64..40_000_000).prop_map(|n| n.to_string()), any::<u64>().prop_map(|n| n.to_string()), any::<i64>().prop_map(|n| n.to_string()), "\\PC{0,20}"],
    ) {
        let parsed = Args::try_parse_from(["hodei-worker".to_owned(), format!("{flag}={text}")]);
        // A year is the most.
        match (parsed, text.parse::<u64>().ok().filter(|number| *number <= 365 * 24 * 3600)) {
            (Ok(args), Some(number)) => {
                let taken = [
                    args.stall_seconds, args.register_timeout_seconds, args.give_up_seconds,
                    args.idle_timeout_seconds, args.drain_grace_seconds,
                ];
                let index = NUMBERS.iter().position(|name| *name == flag).unwrap();
                prop_assert_eq!(taken[index], number);
            }
            (Err(error), None) => prop_assert!(error.to_string().contains(flag), "{error}"),
            (parsed, number) => prop_assert!(false, "{text:?}: {:?} and {number:?}", parsed.is_ok()),
        }
    }

    #[test]
    fn sizes_are_taken_with_their_units_or_named(
        flag in prop::sample::select(&["--window", "--spool"][..]),
        text in prop_oneof!["[0-9]{1,7}(|k|Ki|M|Mi|G|Gi)", "\\PC{0,20}"],
    ) {
        let parsed = Args::try_parse_from(["hodei-worker".to_owned(), format!("{flag}={text}")]);
        match (parsed, hodei_core::quantity::parse_bytes(&text)) {
            (Ok(args), Ok(bytes)) => {
                let taken = if flag == "--window" { args.window } else { args.spool };
                prop_assert_eq!(taken as u64, bytes);
            }
            (Err(error), Err(_)) => prop_assert!(error.to_string().contains(flag), "{error}"),
            (parsed, bytes) => prop_assert!(false, "{text:?}: {:?} and {bytes:?}", parsed.is_ok()),
        }
    }

    #[test]
    fn an_address_is_taken_or_named_and_no_authority_makes_it_fall_over(
        address in prop_oneof![
            "\\PC{0,20}", "(http|https|ftp)://[a-z0-9.:@%\\[\\]-]{0,20}(/[ -~]{0,6})?",
        ],
        authorities in option::of(prop_oneof![any::<String>(), Just(PEM.to_owned())]),
    ) {
        let workspace = std::env::temp_dir();
        let mut arguments = vec![
            "hodei-worker".to_owned(), format!("--worker-id={}", uuid::Uuid::nil()),
            format!("--server-address={address}"), format!("--workspace={}", workspace.display()),
        ];
        arguments.extend(authorities.map(|pem| format!("--ca-pem={pem}")));
        let config = Config::from_args(Args::try_parse_from(arguments).unwrap()).unwrap();
        match endpoint(&config) {
            Ok(endpoint) => {
                let scheme = endpoint.uri().scheme_str().unwrap_or_default().to_owned();
                prop_assert!(["http", "https"].contains(&scheme.as_str()), "{address}");
                prop_assert!(scheme == "http" || config.ca_pem.is_some());
            }
            Err(error) => {
                prop_assert!(error.to_string().contains("HODEI_SERVER_ADDRESS"), "{error}");
                prop_assert_eq!(error.exit_code(), 2);
            }
        }
    }

    #[test]
    fn an_id_is_taken_or_named(text in prop_oneof![any::<String>(), any::<u128>().prop_map(|bits| uuid::Uuid::from_u128(bits).to_string())]) {
        let workspace = std::env::temp_dir();
        let arguments = [
            "hodei-worker".to_owned(), format!("--worker-id={text}"), "--server-address=http://s:1".to_owned(),
            format!("--workspace={}", workspace.display()),
        ];
        let config = Args::try_parse_from(arguments).map(Config::from_args);
        match config {
            Ok(Ok(config)) => prop_assert_eq!(config.worker.as_uuid(), uuid::Uuid::try_parse(&text).unwrap()),
            Ok(Err(error)) => {
                prop_assert!(error.to_string().starts_with("HODEI_WORKER_ID"), "{error}");
                prop_assert_eq!(error.exit_code(), 2);
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn a_password_is_taken_or_refused_without_being_repeated(
        bytes in prop_oneof![vec(any::<u8>(), 12..80), "[0-9a-f]{64}".prop_map(String::into_bytes)],
    ) {
        let given = OsString::from_vec(bytes.clone());
        match read_otp(|name| (name == "HODEI_OTP_TOKEN").then(|| given.clone())) {
            Ok(otp) => prop_assert_eq!(otp.expose().as_bytes(), bytes.trim_ascii()),
            Err(error) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                prop_assert!(error.to_string().starts_with("HODEI_OTP_TOKEN"), "{error}");
                prop_assert!(!error.to_string().contains(text.trim()), "{error}");
            }
        }
    }
}

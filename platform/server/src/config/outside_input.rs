//! Any texts in the place of settings.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

const FLAGS: [&str; 12] = [
    "--database-connections",
    "--grpc-listen",
    "--rest-listen",
    "--advertised-address",
    "--heartbeat-seconds",
    "--lease-seconds",
    "--requests-per-second",
    "--request-burst",
    "--log-store",
    "--log-retention",
    "--otlp-endpoint",
    "--k8s-enabled",
];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "-?[0-9.]{1,12}(e[0-9]{1,3})?",
        "(http|https|s3)?(://)?[a-z0-9.\\[\\]:,-]{0,16}",
        "(127.0.0.1|\\[::1\\]|0.0.0.0):[0-9]{1,6}",
        any::<String>(),
        select(vec!["inf", "NaN", "postgres", "off", "1", "30d"]).prop_map(str::to_owned),
    ]
}

proptest! {
    #[test]
    fn any_settings_can_be_used_or_the_mistaken_ones_are_named(
        flags in vec((select(&FLAGS[..]), text()), 0..5),
    ) {
        let url = "--database-url=postgres://u:s3cret@h/d";
        let given = flags.iter().map(|(flag, text)| format!("{flag}={text}"));
        let words = ["hodei-server", url].map(str::to_owned).into_iter().chain(given);
        let problem = match Config::try_parse_from(words) {
            Ok(config) => {
                let printed = format!("{config:?}");
                prop_assert!(!printed.contains("s3cret"), "{printed}");
                let first = "127.0.0.1:4711".parse().unwrap();
                match config.validate() {
                    Ok(()) => {
                        let timing = config.timing;
                        prop_assert!(timing.lease >= timing.heartbeat * 2);
                        prop_assert!(config.advertised(first).starts_with("http"));
                        return Ok(());
                    }
                    Err(problem) => problem,
                }
            }
            Err(error) => error.to_string(),
        };
        prop_assert!(FLAGS.iter().any(|flag| problem.contains(flag)), "{problem}");
        prop_assert!(!problem.contains("s3cret"), "{problem}");
    }
}

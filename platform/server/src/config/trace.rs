//! Where traces go, by the variables that OpenTelemetry has for it.

use std::path::PathBuf;

use clap::Args;

use super::parse_switch;

/// Where traces go: by OTLP over gRPC, or nowhere. The further `OTEL_*` variables count too: service name and
/// resource attributes, sampler, limits, sizes of queue and batches, headers, time-out.
#[derive(Debug, Clone, Default, Args)]
pub struct TraceConfig {
    /// Collector that traces are sent to by OTLP over gRPC, as http(s)://host:port. Without it there are none.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", hide_env_values = true, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// The same for traces alone; goes before --otlp-endpoint.
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub otlp_traces_endpoint: Option<String>,
    /// PEM file of the authorities to trust a collector by; needed with https.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_CERTIFICATE", value_name = "FILE")]
    pub otlp_certificate: Option<PathBuf>,
    /// How to talk to the collector; only grpc is known.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_PROTOCOL", default_value = "grpc", value_name = "NAME")]
    pub otlp_protocol: String,
    /// Make no traces, whatever else is set. true or false.
    #[arg(long, env = "OTEL_SDK_DISABLED", default_value = "false", value_parser = parse_switch, action = clap::ArgAction::Set)]
    pub otel_sdk_disabled: bool,
}

impl TraceConfig {
    /// Where traces go, if anywhere: the flag that says so, and the address.
    #[must_use]
    pub fn endpoint(&self) -> Option<(&'static str, &str)> {
        let given = [
            ("--otlp-traces-endpoint", &self.otlp_traces_endpoint),
            ("--otlp-endpoint", &self.otlp_endpoint),
        ];
        // By OpenTelemetry's rules an empty variable is one that is not set.
        let mut given = given.into_iter().filter_map(|(flag, url)| Some((flag, url.as_deref()?)));
        let found = given.find(|(_, url)| !url.is_empty());
        found.filter(|_| !self.otel_sdk_disabled)
    }

    /// What is wrong: the flag, and what about it. The address is not repeated: it may hold a password.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        let (flag, address) = self.endpoint()?;
        let host = url::Url::parse(address).ok().filter(url::Url::has_host);
        match host.as_ref().map(url::Url::scheme) {
            Some("http") if self.otlp_certificate.is_none() => {}
            Some("http") => {
                let problem = "must begin with https://: --otlp-certificate says whom to trust";
                return Some((flag, problem.to_owned()));
            }
            Some("https") if self.otlp_certificate.is_some() => {}
            Some("https") => {
                let problem =
                    "is needed to trust the collector, whose address begins with https://";
                return Some(("--otlp-certificate", problem.to_owned()));
            }
            _ => return Some((flag, "must be http://host:port or https://host:port".to_owned())),
        }
        if self.otlp_protocol == "grpc" || self.otlp_protocol.is_empty() {
            return None;
        }
        let problem = format!("{:?}: traces are sent by grpc only", self.otlp_protocol);
        Some(("--otlp-protocol", problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(endpoint: &str, traces: Option<&str>) -> TraceConfig {
        TraceConfig {
            otlp_endpoint: Some(endpoint.to_owned()),
            otlp_traces_endpoint: traces.map(str::to_owned),
            otlp_protocol: "grpc".to_owned(),
            ..TraceConfig::default()
        }
    }

    #[test]
    fn the_endpoint_of_traces_goes_first() {
        for (endpoint, traces, expect) in [
            ("", None, None),
            ("http://a:1", None, Some("http://a:1")),
            ("http://a:1", Some(""), Some("http://a:1")),
            ("http://a:1", Some("http://b:1"), Some("http://b:1")),
        ] {
            let config = config(endpoint, traces);
            assert_eq!(config.endpoint().map(|(_, url)| url), expect);
            let off = TraceConfig { otel_sdk_disabled: true, ..config };
            assert_eq!(off.endpoint(), None);
        }
    }

    #[test]
    fn the_table_of_problems() {
        let https = config("https://a:1", None);
        let trusting = TraceConfig { otlp_certificate: Some("/ca.pem".into()), ..https.clone() };
        let http = config("http://a:1", None);
        let plain = TraceConfig { otlp_certificate: Some("/ca.pem".into()), ..http.clone() };
        let other = TraceConfig { otlp_protocol: "http/protobuf".to_owned(), ..http.clone() };
        let off = TraceConfig { otel_sdk_disabled: true, ..other.clone() };
        for (config, flag) in [
            (http, None),
            (trusting, None),
            (off, None),
            (https, Some("--otlp-certificate")),
            (plain, Some("--otlp-endpoint")),
            (other, Some("--otlp-protocol")),
            (config("a:1", None), Some("--otlp-endpoint")),
            (config("http://a:1", Some("user:s3cret@a:1")), Some("--otlp-traces-endpoint")),
        ] {
            let problem = config.problem();
            assert_eq!(problem.as_ref().map(|(flag, _)| *flag), flag, "{config:?}");
            assert!(!format!("{problem:?}").contains("s3cret"));
        }
    }
}

#[cfg(test)]
mod outside_input {
    use proptest::{option, prelude::*};

    use super::*;

    fn address() -> impl Strategy<Value = Option<String>> {
        let near = "(http|https|grpc)?(://)?(user:s3cret@)?[a-z0-9.\\[\\]:-]{0,12}(/[a-z]{0,3})?";
        option::of(prop_oneof![3 => near, 1 => any::<String>()])
    }

    proptest! {
        #[test]
        fn an_endpoint_can_be_used_or_its_flag_is_named(
            otlp_endpoint in address(), otlp_traces_endpoint in address(),
            trusts in any::<bool>(), otlp_protocol in prop_oneof!["(grpc)?", any::<String>()],
            otel_sdk_disabled in prop::bool::weighted(0.2),
        ) {
            let config = TraceConfig {
                otlp_endpoint, otlp_traces_endpoint, otlp_protocol, otel_sdk_disabled,
                otlp_certificate: trusts.then(|| "/ca.pem".into()),
            };
            match (config.problem(), config.endpoint()) {
                (None, None) => {}
                (None, Some((_, address))) => {
                    let url = url::Url::parse(address).unwrap();
                    prop_assert!(url.scheme() == if trusts { "https" } else { "http" }, "{url}");
                }
                (Some((flag, problem)), endpoint) => {
                    prop_assert!(endpoint.is_some() && flag.starts_with("--otlp-"), "{flag}");
                    prop_assert!(!problem.contains("s3cret"), "{problem}");
                }
            }
        }
    }
}

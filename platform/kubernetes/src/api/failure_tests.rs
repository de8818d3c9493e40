//! The words of Kubernetes and what they mean; every status code for every verb we use.

use http::Response;
use serde_json::json;

use super::*;

fn make_failure(code: u16, reason: &str, message: &str) -> ApiFailure {
    let body = json!({"kind": "Status", "code": code, "reason": reason, "message": message});
    let (parts, ()) = Response::builder().status(code).body(()).unwrap().into_parts();
    ApiFailure::from_answer(&parts, body.to_string().as_bytes())
}

#[test]
fn the_words_of_kubernetes_tell_the_cause() {
    use FailureCause as C;
    for (code, reason, message, cause) in [
        (
            403,
            "Forbidden",
            "pods \"w\" is forbidden: exceeded quota: q, requested: pods=1",
            C::Quota,
        ),
        (
            403,
            "Forbidden",
            "pods is forbidden: User \"u\" cannot create resource \"pods\" in API group \"\"",
            C::Forbidden,
        ),
        (
            403,
            "Forbidden",
            "pods \"w\" is forbidden: violates PodSecurity \"restricted:latest\": runAsNonRoot",
            C::Admission,
        ),
        (403, "Forbidden", "admission webhook \"x\" denied the request: no", C::Admission),
        (400, "BadRequest", "admission webhook \"x\" denied the request: no", C::Admission),
        (403, "Forbidden", "maximum cpu usage per Container is 1, but limit is 2", C::Admission),
        (403, "Forbidden", "failed quota: q: must specify limits.cpu", C::Admission),
        (403, "Forbidden", "error looking up service account a/b: not found", C::Admission),
        (404, "NotFound", "namespaces \"x\" not found", C::Admission),
        (
            422,
            "Invalid",
            "Pod \"w\" is invalid: spec.containers[0].image: Required",
            C::InvalidImage,
        ),
        (422, "Invalid", "Pod \"w\" is invalid: spec.tolerations[0]: bad", C::Admission),
        (401, "Unauthorized", "Unauthorized", C::Forbidden),
        (409, "AlreadyExists", "pods \"w\" already exists", C::Conflict),
        (409, "Conflict", "resourcequotas \"q\": the object has been modified", C::ApiUnavailable),
        (429, "TooManyRequests", "too many requests", C::ApiUnavailable),
        (500, "InternalError", "failed calling webhook \"x\"", C::ApiUnavailable),
        (503, "ServiceUnavailable", "", C::ApiUnavailable),
        (418, "", "teapot", C::Unknown),
    ] {
        assert_eq!(make_failure(code, reason, message).cause(), cause, "{code} {message}");
    }
}

#[test]
fn only_what_may_change_by_itself_is_asked_again() {
    for code in [429, 500, 502, 503, 504] {
        assert!(make_failure(code, "", "").is_retriable(), "{code}");
    }
    for code in [400, 401, 403, 404, 405, 409, 410, 413, 422] {
        assert!(!make_failure(code, "", "").is_retriable(), "{code}");
    }
    let quota_race = "Operation cannot be fulfilled on resourcequotas \"q\": modified";
    assert!(make_failure(409, "Conflict", quota_race).is_retriable());
    assert!(make_failure(403, "Forbidden", "status unknown for quota: q").is_retriable());
}

#[test]
fn a_server_says_how_long_to_wait() {
    let answer = |header: Option<&str>, body: &str| {
        let mut response = Response::builder().status(429);
        if let Some(header) = header {
            response = response.header("Retry-After", header);
        }
        let (parts, ()) = response.body(()).unwrap().into_parts();
        ApiFailure::from_answer(&parts, body.as_bytes()).retry_after()
    };
    let in_body = r#"{"kind": "Status", "details": {"retryAfterSeconds": 3}}"#;
    assert_eq!(answer(Some("2"), "Too many requests"), Some(Duration::from_secs(2)));
    assert_eq!(answer(None, in_body), Some(Duration::from_secs(3)));
    assert_eq!(answer(None, "plain text"), None);
    let quota = make_failure(403, "Forbidden", "exceeded quota: q").into_error("create", "w");
    assert_eq!(quota.retry_after, Some(QUOTA_RETRY));
}

#[test]
fn what_is_hidden_is_nowhere_in_the_words() {
    let failure = make_failure(422, "s3cret", "Invalid value: \"s3cret\": no");
    let hidden = failure.hiding(&["s3cret".to_owned()]);
    assert!(!format!("{hidden:?} {hidden}").contains("s3cret"));
}

#[test]
fn what_a_credential_plug_in_printed_is_left_out() {
    use std::os::unix::process::ExitStatusExt;
    let out = std::process::Output {
        status: std::process::ExitStatus::from_raw(256),
        stdout: b"s3cret".to_vec(),
        stderr: Vec::new(),
    };
    let error = kube::Error::Auth(kube::client::AuthError::AuthExecRun {
        cmd: "aws".into(),
        out: Box::new(out),
    });
    let failure = ApiFailure::from_transport(&error);
    assert!(failure.is_unauthenticated());
    assert_eq!(failure.to_string(), "the credential plug-in \"aws\" ended with exit status: 1");
}

mod outside_input {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn body() -> impl Strategy<Value = Vec<u8>> {
        let fields = (any::<u16>(), "[A-Za-z]{0,12}", "\\PC{0,3000}", option::of(any::<i64>()));
        let status = fields.prop_map(|(code, reason, message, seconds)| {
            let details = seconds.map(|seconds| json!({"retryAfterSeconds": seconds}));
            json!({"kind": "Status", "code": code, "reason": reason, "message": message,
                "details": details})
            .to_string()
            .into_bytes()
        });
        prop_oneof![2 => status, 1 => vec(any::<u8>(), 0..200)]
    }

    proptest! {
        #[test]
        fn any_answer_is_a_failure_of_bounded_words_and_patience(
            code in 100_u16..1000, body in body(),
            header in option::of(prop_oneof![vec(32_u8..127, 0..30), "[0-9]{1,21}".prop_map(String::into_bytes)]),
        ) {
            let mut response = Response::builder().status(code);
            if let Some(header) = header {
                response = response.header(RETRY_AFTER, header);
            }
            let (parts, ()) = response.body(()).unwrap().into_parts();
            let failure = ApiFailure::from_answer(&parts, &body);
            prop_assert!(failure.message().chars().count() <= LONGEST_MESSAGE);
            prop_assert!(failure.retry_after().is_none_or(|asked| asked <= LONGEST_RETRY_AFTER));
            prop_assert_eq!(failure.code(), Some(code));
            let error = failure.into_error("create worker", "w");
            prop_assert!(error.to_string().contains("create worker"), "{error}");
        }
    }
}

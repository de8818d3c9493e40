//! Everything that `hodei-core` reads from outside, with inputs that nobody thought of. PROPTEST_CASES
//! says how many of them each property gets; 256 if nothing is said.

#![expect(clippy::unwrap_used, reason = "clippy does not take what a test calls for a test")]

use hodei_core::{
    attempt::AttemptState,
    id::{JobId, ProviderId, WorkerId},
    job::JobState,
    quantity::{parse_bytes, parse_cpu_millis},
    secret::{BearerToken, Secret},
    spec::JobSpec,
    worker::WorkerState,
};
use proptest::{collection::vec, option, prelude::*};
use serde_json::{Value, json};

/// Any JSON, not too deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((any::<String>(), inner), 0..4).prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

/// A specification in JSON of which each field is right, nearly right, or anything.
fn nearly_spec() -> impl Strategy<Value = Value> {
    let or_any = |good: Value| prop_oneof![4 => Just(good), 1 => any_json()];
    let text = || option::of("\\PC{0,8}").prop_map(|text| json!(text));
    let period = json!({"secs": 60, "nanos": 0});
    let run = prop_oneof![
        vec("\\PC{0,8}", 0..3).prop_map(|argv| json!({"command": argv})),
        any::<String>().prop_map(|text| json!({"script": text})),
        any_json(),
    ];
    let resources = (option::of("[0-9.]{0,4}[mMGKi]{0,2}"), text());
    let timeouts = json!({"queue": period, "startup": period, "run": period});
    let fields = (
        text(),
        run,
        or_any(json!({"A": "b"})),
        text(),
        resources,
        or_any(timeouts),
        or_any(json!({"infrastructure": 1, "command": 0})),
        any::<i32>(),
    );
    fields.prop_map(|(name, run, env, image, (cpu, memory), timeouts, retry, priority)| {
        json!({
            "name": name, "run": run, "env": env, "working_directory": null,
            "resources": {"cpu_request": cpu, "memory_limit": memory},
            "timeouts": timeouts, "retry": retry, "image": image, "priority": priority,
        })
    })
}

/// What holds of any JSON that is taken for a specification.
fn assert_spec(value: Value) -> Result<(), TestCaseError> {
    let Ok(spec) = serde_json::from_value::<JobSpec>(value) else { return Ok(()) };
    let again: JobSpec = serde_json::from_value(serde_json::to_value(&spec).unwrap()).unwrap();
    prop_assert_eq!(&again, &spec);
    if let Err(invalid) = spec.validate() {
        prop_assert!(!invalid.0.is_empty());
        for violation in &invalid.0 {
            prop_assert!(violation.field.starts_with("spec"), "{violation:?}");
            prop_assert!(!violation.problem.is_empty());
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_json_is_taken_or_refused_as_a_specification(value in any_json()) {
        assert_spec(value)?;
    }

    #[test]
    fn a_specification_survives_json_and_its_mistakes_are_named(value in nearly_spec()) {
        assert_spec(value)?;
    }

    #[test]
    fn a_quantity_is_taken_or_named(text in prop_oneof![any::<String>(), "[0-9.]{0,21}[a-zA-Z]{0,2}"]) {
        for error in [parse_cpu_millis(&text).err(), parse_bytes(&text).err()].into_iter().flatten() {
            prop_assert!(error.to_string().contains("quantity"), "{error}");
        }
    }

    #[test]
    fn a_whole_quantity_is_its_number(number in 0_u64..1 << 40) {
        prop_assert_eq!(parse_bytes(&number.to_string()).unwrap(), number);
        prop_assert_eq!(parse_cpu_millis(&format!("{number}m")).unwrap(), number);
    }

    #[test]
    fn identifiers_survive_and_others_are_refused(text in any::<String>(), bits in any::<u128>()) {
        let id = uuid::Uuid::from_u128(bits);
        prop_assert_eq!(id.to_string().parse::<JobId>().unwrap(), JobId::from(id));
        prop_assert_eq!(id.to_string().parse::<WorkerId>().unwrap(), WorkerId::from(id));
        if let Err(error) = text.parse::<JobId>() {
            prop_assert!(error.to_string().starts_with("job id"));
        }
        if let Ok(id) = text.parse::<ProviderId>() {
            prop_assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn a_refused_secret_is_never_repeated(text in "[ -~]{12,80}") {
        let errors = [
            text.parse::<Secret>().err().map(|error| format!("{error} {error:?}")),
            text.parse::<BearerToken>().err().map(|error| format!("{error} {error:?}")),
        ];
        for error in errors.into_iter().flatten() {
            prop_assert!(!error.contains(&text), "{error}");
        }
    }

    #[test]
    fn a_state_is_one_of_its_names_or_refused(text in prop_oneof![any::<String>(), "[a-z_]{0,12}"]) {
        if let Ok(state) = text.parse::<JobState>() {
            prop_assert_eq!(state.as_str(), text.as_str());
        }
        if let Ok(state) = text.parse::<WorkerState>() {
            prop_assert_eq!(state.as_str(), text.as_str());
        }
        let quoted = serde_json::to_string(&text).unwrap();
        if let Ok(state) = serde_json::from_str::<AttemptState>(&quoted) {
            prop_assert_eq!(serde_json::to_string(&state).unwrap(), quoted);
        }
    }
}

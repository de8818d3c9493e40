//! `hodei provider pool`: the bounds within which a provider keeps workers for the next job.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    args::{BoundsArgs, Format, PoolArgs, PoolCommand},
    failure::Failure,
    provider::text,
    rest::Rest,
    screen::print,
    view,
};

const OF_ENVIRONMENT: &str = "Set HODEI_K8S_POOL_MINIMUM, HODEI_K8S_POOL_MAXIMUM and so on where the server runs, \
                              and start it again.";

pub(crate) async fn execute(rest: &Rest, command: PoolCommand) -> Result<(), Failure> {
    let (name, pool, format) = match command {
        PoolCommand::Set { name, bounds, output } => {
            let set = rest.put(&["providers", &name, "pool"], &of_bounds(&bounds)).await;
            (name, set.map_err(teach)?, output.format)
        }
        PoolCommand::Clear { name, output } => {
            rest.delete(&["providers", &name, "pool"]).await.map_err(teach)?;
            (name, Value::Null, output.format)
        }
    };
    print(&match (format, pool) {
        (Format::Json, pool) => view::json(&json!({ "name": name, "pool": pool })),
        (Format::Table, Value::Null) => format!("provider {name} has no pool\n"),
        (Format::Table, pool) => format!("provider {name} has a pool: {}\n", describe(&pool)),
    })
}

/// What is to be done about a refusal, where that is another thing than with a provider.
fn teach(failure: Failure) -> Failure {
    match failure {
        Failure::Problem { title, detail, status, help } => {
            let help = match status {
                409 => OF_ENVIRONMENT.to_owned(),
                400 | 422 => {
                    "Correct what is named above; `hodei provider pool set --help` has examples."
                        .to_owned()
                }
                _ => help,
            };
            Failure::Problem { title, detail, status, help }
        }
        other => other,
    }
}

/// The pool of a provider that is added; `None` without a maximum.
pub(crate) fn of_new_provider(args: &PoolArgs) -> Option<Value> {
    Some(make(args.minimum, args.maximum?, args.idle, args.maximum_age))
}

fn of_bounds(args: &BoundsArgs) -> Value {
    make(args.minimum, args.maximum, args.idle, args.maximum_age)
}

/// What is given of a pool; the server has the defaults and checks the bounds.
fn make(
    minimum: Option<u32>,
    maximum: u32,
    idle: Option<Duration>,
    maximum_age: Option<Duration>,
) -> Value {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs());
    let fields = [
        ("minimum", minimum.map(u64::from)),
        ("maximum", Some(u64::from(maximum))),
        ("idle_seconds", seconds(idle)),
        ("maximum_age_seconds", seconds(maximum_age)),
    ];
    let given =
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?))));
    Value::Object(given.collect())
}

/// A pool in one line.
pub(crate) fn describe(pool: &Value) -> String {
    let (minimum, maximum) = (text(pool, "minimum"), text(pool, "maximum"));
    let (idle, age) = (time(pool, "idle_seconds"), time(pool, "maximum_age_seconds"));
    format!("{minimum} to {maximum} workers, idle for {idle}, replaced at the age of {age}")
}

/// How many workers a pool has, in a table; a dash without a pool.
pub(crate) fn range(pool: Option<&Value>) -> String {
    match pool.filter(|pool| pool.is_object()) {
        Some(pool) => format!("{}-{}", text(pool, "minimum"), text(pool, "maximum")),
        None => "-".to_owned(),
    }
}

/// A number of seconds as it would be typed.
fn time(pool: &Value, field: &str) -> String {
    match pool.get(field).and_then(Value::as_u64) {
        None => "-".to_owned(),
        Some(seconds) if seconds > 0 && seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        Some(seconds) if seconds > 0 && seconds % 60 == 0 => format!("{}m", seconds / 60),
        Some(seconds) => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_shown_as_it_is_typed_and_what_is_unknown_as_a_dash() {
        let table = [
            (
                json!({"minimum": 2, "maximum": 8, "idle_seconds": 300, "maximum_age_seconds": 86_400}),
                "2-8",
                "2 to 8 workers, idle for 5m, replaced at the age of 24h",
            ),
            (
                json!({"minimum": 0, "maximum": 1, "idle_seconds": 90, "maximum_age_seconds": 0}),
                "0-1",
                "0 to 1 workers, idle for 90s, replaced at the age of 0s",
            ),
        ];
        for (pool, short, long) in table {
            assert_eq!((range(Some(&pool)).as_str(), describe(&pool).as_str()), (short, long));
        }
        assert_eq!((range(None), range(Some(&Value::Null))), ("-".into(), "-".into()));
        let unknown = "- to 1 workers, idle for -, replaced at the age of -";
        assert_eq!(describe(&json!({"maximum": 1})), unknown);
    }
}

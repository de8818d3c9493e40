//! A provider's pool: how many idle workers it keeps for jobs that want nothing of their own, and for
//! how long.

use std::{ops::RangeInclusive, time::Duration};

use hodei_core::spec::{JobSpec, Resources};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Most workers of one pool.
const MOST: u64 = 1000;
/// How long a worker may stay idle, in seconds.
const IDLE: RangeInclusive<u64> = 1..=604_800;
const IDLE_DEFAULT: u64 = 300;
/// How old a worker may get that takes jobs, in seconds.
const AGE: RangeInclusive<u64> = 60..=604_800;
const AGE_DEFAULT: u64 = 86_400;

/// The variables of the environment provider's pool, and the fields they stand for.
const VARIABLES: [(&str, &str); 4] = [
    ("HODEI_K8S_POOL_MINIMUM", "minimum"),
    ("HODEI_K8S_POOL_MAXIMUM", "maximum"),
    ("HODEI_K8S_POOL_IDLE_SECONDS", "idle_seconds"),
    ("HODEI_K8S_POOL_MAXIMUM_AGE_SECONDS", "maximum_age_seconds"),
];

/// Bounds of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Pool {
    /// Workers that are kept even if there is nothing to do.
    pub(crate) minimum: u32,
    /// Workers at most, idle or busy.
    pub(crate) maximum: u32,
    /// How long a worker above the minimum stays idle.
    pub(crate) idle_seconds: u32,
    /// A worker older than this takes no further job and is replaced.
    pub(crate) maximum_age_seconds: u32,
}

/// Every mistake of a pool's settings; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub(crate) struct InvalidPool(pub(crate) Vec<String>);

impl Pool {
    /// The pool that a client describes.
    pub(crate) fn from_json(value: &Value) -> Result<Self, InvalidPool> {
        let Some(fields) = value.as_object() else {
            return Err(InvalidPool(vec!["pool: must be an object".to_owned()]));
        };
        read(fields, |field| format!("pool.{field}"))
    }

    /// The pool that the environment describes; `None` where no variable of it is set.
    pub(crate) fn from_env(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, InvalidPool> {
        let set = VARIABLES.iter().filter_map(|(name, field)| {
            let text = variable(name).filter(|text| !text.is_empty())?;
            // What is no number stays a text, which is refused with its name.
            let value = text.trim().parse::<u64>().map_or(Value::String(text), Value::from);
            Some(((*field).to_owned(), value))
        });
        let fields: Map<_, _> = set.collect();
        if fields.is_empty() {
            return Ok(None);
        }
        let name_of = |field: &str| {
            let known = VARIABLES.iter().find(|(_, of)| *of == field);
            known.map_or(field, |(name, _)| name).to_owned()
        };
        read(&fields, name_of).map(Some)
    }

    /// How long a worker above the minimum stays idle.
    pub(crate) fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_seconds.into())
    }

    /// The age at which a worker takes no further job.
    pub(crate) fn maximum_age(&self) -> Duration {
        Duration::from_secs(self.maximum_age_seconds.into())
    }

    /// Whether a job may run on a worker of the pool: it wants nothing of its own, and ends before the
    /// cluster would end a worker that was as old as can be when it took the job.
    pub(crate) fn takes(&self, spec: &JobSpec) -> bool {
        spec.image.is_none()
            && spec.resources == Resources::default()
            && spec.timeouts.startup + spec.timeouts.run <= self.maximum_age()
    }

    /// The hard end of a worker's life: it may take a job at the maximum age, and that may take as long
    /// again.
    pub(crate) fn life(&self) -> Duration {
        self.maximum_age() * 2
    }
}

fn read(
    fields: &Map<String, Value>,
    name_of: impl Fn(&str) -> String,
) -> Result<Pool, InvalidPool> {
    let mut mistakes: Vec<String> = Vec::new();
    let mut number = |field: &str, range: RangeInclusive<u64>, default: Option<u64>| {
        let found = match fields.get(field) {
            None | Some(Value::Null) => default,
            Some(value) => value.as_u64().filter(|number| range.contains(number)),
        };
        let number = found.and_then(|number| u32::try_from(number).ok());
        if number.is_none() {
            let (least, most) = range.into_inner();
            mistakes.push(format!("{}: must be a number from {least} to {most}", name_of(field)));
        }
        number.unwrap_or_default()
    };
    let pool = Pool {
        minimum: number("minimum", 0..=MOST, Some(0)),
        maximum: number("maximum", 1..=MOST, None),
        idle_seconds: number("idle_seconds", IDLE, Some(IDLE_DEFAULT)),
        maximum_age_seconds: number("maximum_age_seconds", AGE, Some(AGE_DEFAULT)),
    };
    if pool.maximum > 0 && pool.minimum > pool.maximum {
        let (minimum, maximum) = (name_of("minimum"), name_of("maximum"));
        mistakes.push(format!("{minimum}: must not be above {maximum}, which is {}", pool.maximum));
    }
    let known = |name: &String| VARIABLES.iter().any(|(_, field)| field == name);
    for name in fields.keys().filter(|name| !known(name)) {
        let name: String = name.chars().take(64).collect();
        mistakes.push(format!("{}: there is no such setting", name_of(&name)));
    }
    if mistakes.is_empty() { Ok(pool) } else { Err(InvalidPool(mistakes)) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_smallest_pool_has_defaults() {
        let pool = Pool::from_json(&json!({"maximum": 3})).unwrap();
        let expect = json!({
            "minimum": 0, "maximum": 3, "idle_seconds": 300, "maximum_age_seconds": 86_400,
        });
        assert_eq!(json!(pool), expect);
        assert_eq!(Pool::from_json(&expect).unwrap(), pool);
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let mistakes = |value| Pool::from_json(&value).unwrap_err().to_string();
        assert_eq!(mistakes(json!(3)), "pool: must be an object");
        assert_eq!(
            mistakes(json!({"minimum": -1, "idle_seconds": "soon", "size": 2})),
            "pool.minimum: must be a number from 0 to 1000; pool.maximum: must be a number from 1 to \
             1000; pool.idle_seconds: must be a number from 1 to 604800; pool.size: there is no such setting"
        );
        assert_eq!(
            mistakes(json!({"minimum": 5, "maximum": 4, "maximum_age_seconds": 59})),
            "pool.maximum_age_seconds: must be a number from 60 to 604800; pool.minimum: must not be \
             above pool.maximum, which is 4"
        );
    }

    #[test]
    fn the_environment_describes_a_pool_or_none() {
        let of = |pairs: &'static [(&'static str, &'static str)]| {
            Pool::from_env(|name| {
                let found = pairs.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[("HODEI_K8S_POOL_MAXIMUM", "")]), Ok(None));
        let pool = of(&[("HODEI_K8S_POOL_MINIMUM", "2"), ("HODEI_K8S_POOL_MAXIMUM", "4")]);
        assert_eq!(pool.unwrap().map(|pool| (pool.minimum, pool.maximum)), Some((2, 4)));
        let problem = of(&[("HODEI_K8S_POOL_MINIMUM", "two")]).unwrap_err().to_string();
        assert_eq!(
            problem,
            "HODEI_K8S_POOL_MINIMUM: must be a number from 0 to 1000; HODEI_K8S_POOL_MAXIMUM: must be \
             a number from 1 to 1000"
        );
    }

    #[test]
    fn a_job_that_wants_something_of_its_own_is_not_taken() {
        let pool = Pool::from_json(&json!({"maximum": 1, "maximum_age_seconds": 4000})).unwrap();
        type Change = fn(&mut JobSpec);
        let table: [(Change, bool); 4] = [
            (|_| (), true),
            (|spec| spec.image = Some("own:1".into()), false),
            (|spec| spec.resources.memory_limit = Some("1Gi".into()), false),
            (|spec| spec.timeouts.run = Duration::from_secs(3701), false),
        ];
        for (change, expect) in table {
            let mut spec = JobSpec::command(["true"]);
            change(&mut spec);
            assert_eq!(pool.takes(&spec), expect, "{spec:?}");
        }
    }
}

#[cfg(test)]
mod outside_input {
    use proptest::{
        collection::{btree_map, vec},
        option,
        prelude::*,
        sample::select,
    };

    use super::*;

    const FIELDS: [&str; 5] = ["minimum", "maximum", "idle_seconds", "maximum_age_seconds", "size"];

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            3 => (0_u64..4).prop_map(Value::from),
            3 => (0_u64..2_000).prop_map(Value::from),
            1 => any::<i64>().prop_map(Value::from),
            1 => any::<f64>().prop_map(Value::from),
            1 => any::<String>().prop_map(Value::from),
            1 => Just(Value::Null),
            1 => vec(any::<u8>(), 0..3).prop_map(Value::from),
        ]
    }

    proptest! {
        #[test]
        fn any_pool_is_within_bounds_or_each_mistake_is_named(
            fields in btree_map(select(&FIELDS[..]), value(), 0..5),
        ) {
            let fields: Map<_, _> = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            match Pool::from_json(&Value::Object(fields)) {
                Ok(pool) => {
                    prop_assert!(pool.minimum <= pool.maximum && u64::from(pool.maximum) <= MOST);
                    prop_assert!(IDLE.contains(&pool.idle_seconds.into()));
                    prop_assert!(AGE.contains(&pool.maximum_age_seconds.into()));
                    prop_assert_eq!(Pool::from_json(&serde_json::json!(pool)).unwrap(), pool);
                }
                Err(InvalidPool(mistakes)) => {
                    prop_assert!(!mistakes.is_empty());
                    let named = |text: &String| FIELDS.iter().any(|f| text.contains(&format!("pool.{f}: ")));
                    prop_assert!(mistakes.iter().all(named), "{mistakes:?}");
                }
            }
        }

        #[test]
        fn any_environment_is_a_pool_or_none_or_its_variables_are_named(
            texts in vec(option::of(prop_oneof!["[0-9]{0,6}", any::<String>()]), 4),
        ) {
            let of = |name: &str| {
                let index = VARIABLES.iter().position(|(variable, _)| *variable == name)?;
                texts[index].clone()
            };
            match Pool::from_env(of) {
                Ok(pool) => {
                    let set = texts.iter().flatten().any(|text| !text.is_empty());
                    prop_assert_eq!(pool.is_some(), set);
                }
                Err(InvalidPool(mistakes)) => {
                    let named = |text: &String| VARIABLES.iter().any(|(name, _)| text.starts_with(name));
                    prop_assert!(mistakes.iter().all(named), "{mistakes:?}");
                }
            }
        }
    }
}

//! `hodei provider` and `hodei worker`, over REST.

use std::path::Path;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    args::{Format, ProviderCommand, WorkerCommand},
    failure::Failure,
    pool,
    rest::Rest,
    screen::print,
    view,
};

/// Carries a command out; the exit code to end with.
pub(crate) async fn execute(rest: &Rest, command: ProviderCommand) -> Result<u8, Failure> {
    match command {
        ProviderCommand::Add { name, kind, config, set, pool } => {
            let config = make_config(config.as_deref(), &set)?;
            let mut body = json!({ "type": kind, "name": name, "config": config });
            if let Some(pool) = pool::of_new_provider(&pool) {
                body["pool"] = pool;
            }
            rest.post(&["providers"], &body).await?;
            print(&format!("provider {name} was added\n"))?;
        }
        ProviderCommand::List { output } => {
            let answer = rest.list("providers").await?;
            print(&match output.format {
                Format::Json => view::json(&answer),
                Format::Table => provider_table(&answer),
            })?;
        }
        ProviderCommand::Get { name, output } => {
            show(rest, &name, output.format).await?;
        }
        ProviderCommand::Health { name, output } => {
            let answer = show(rest, &name, output.format).await?;
            return Ok(u8::from(answer.get("healthy") != Some(&Value::Bool(true))));
        }
        ProviderCommand::Pool(command) => pool::execute(rest, command).await?,
        ProviderCommand::Remove { name } => {
            rest.delete(&["providers", &name]).await?;
            print(&format!("provider {name} was removed\n"))?;
        }
    }
    Ok(0)
}

async fn show(rest: &Rest, name: &str, format: Format) -> Result<Value, Failure> {
    let answer = rest.get(&["providers", name]).await?;
    print(&match format {
        Format::Json => view::json(&answer),
        Format::Table => provider_health(&answer),
    })?;
    Ok(answer)
}

pub(crate) async fn execute_worker(rest: &Rest, command: WorkerCommand) -> Result<(), Failure> {
    match command {
        WorkerCommand::List { output } => {
            let answer = rest.list("workers").await?;
            print(&match output.format {
                Format::Json => view::json(&answer),
                Format::Table => worker_table(&answer, Timestamp::now()),
            })
        }
        WorkerCommand::Drain { id } => {
            let answer = rest.post(&["workers", &id, "drain"], &json!({})).await?;
            print(&format!("worker {id} is {}\n", text(&answer, "state")))
        }
    }
}

fn make_config(file: Option<&Path>, set: &[(String, String)]) -> Result<Value, Failure> {
    let mut config = match file {
        Some(path) => read_config(path)?,
        None => Value::Object(Map::new()),
    };
    for (key, text) in set {
        let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()));
        let mut place = &mut config;
        for part in key.split('.') {
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            place = &mut place[part];
        }
        *place = value;
    }
    Ok(config)
}

fn read_config(path: &Path) -> Result<Value, Failure> {
    let failed = |problem: String| Failure::File {
        path: path.to_owned(),
        problem,
        help: "A provider's configuration is a JSON object, or TOML if the name ends in .toml.",
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let is_toml = path.extension().is_some_and(|extension| extension == "toml");
    let value: Value = if is_toml {
        toml::from_str(&text).map_err(|error| failed(error.to_string().trim().to_owned()))?
    } else {
        serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?
    };
    if value.is_object() { Ok(value) } else { Err(failed("it is not an object".to_owned())) }
}

/// One provider in full: each of its capabilities that is known has a row.
fn provider_health(answer: &Value) -> String {
    let healthy = answer.get("healthy").and_then(Value::as_bool).unwrap_or_default();
    let mut rows = vec![
        ["Provider".to_owned(), text(answer, "name")],
        ["Type".to_owned(), text(answer, "type")],
        ["Health".to_owned(), if healthy { "healthy" } else { "unhealthy" }.to_owned()],
        ["Checked".to_owned(), seconds_ago(answer, "health_age_seconds")],
    ];
    if answer.get("problem").is_some_and(Value::is_string) {
        rows.push(["Problem".to_owned(), text(answer, "problem")]);
    }
    if let Some(bounds) = answer.get("pool").filter(|pool| pool.is_object()) {
        rows.push(["Pool".to_owned(), pool::describe(bounds)]);
    }
    rows.push(["Capabilities".to_owned(), seconds_ago(answer, "capabilities_age_seconds")]);
    if answer.get("capabilities_problem").is_some_and(Value::is_string) {
        rows.push(["Not measured".to_owned(), text(answer, "capabilities_problem")]);
    }
    let known = answer.get("capabilities").and_then(Value::as_object);
    for (name, value) in known.into_iter().flatten() {
        let shown = match value {
            Value::Null => continue,
            Value::Array(all) if all.is_empty() => continue,
            Value::Object(all) if all.is_empty() => continue,
            Value::Array(all) => {
                let texts =
                    all.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
                texts.collect::<Vec<_>>().join(", ")
            }
            other => other.to_string(),
        };
        rows.push([name.clone(), shown]);
    }
    view::table(None, rows)
}

fn seconds_ago(answer: &Value, field: &str) -> String {
    let seconds = answer.get(field).and_then(Value::as_i64);
    seconds.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds}s ago"))
}

fn provider_table(answer: &Value) -> String {
    let row = |provider: &Value| {
        let health = match provider.get("healthy").and_then(Value::as_bool) {
            Some(true) => "healthy",
            Some(false) => "unhealthy",
            None => "-",
        };
        [
            text(provider, "name"),
            text(provider, "type"),
            health.to_owned(),
            pool::range(provider.get("pool")),
            text(provider, "problem"),
        ]
    };
    let head = ["NAME", "TYPE", "HEALTH", "POOL", "PROBLEM"].map(str::to_owned);
    view::table(Some(head), entries(answer, "providers").iter().map(row).collect())
}

fn worker_table(answer: &Value, now: Timestamp) -> String {
    let row = |worker: &Value| {
        let created = worker.get("created_at").and_then(Value::as_str);
        let idle = worker.get("idle_since").is_some_and(Value::is_string);
        [
            text(worker, "id"),
            if idle { "idle".to_owned() } else { text(worker, "state") },
            text(worker, "provider"),
            text(worker, "job_id"),
            text(worker, "resource"),
            text(worker, "node"),
            view::age(created.and_then(|time| time.parse().ok()), now),
        ]
    };
    let head = ["ID", "STATE", "PROVIDER", "JOB", "POD", "NODE", "AGE"].map(str::to_owned);
    view::table(Some(head), entries(answer, "workers").iter().map(row).collect())
}

fn entries<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A field as text; a dash if it is not there.
pub(crate) fn text(value: &Value, field: &str) -> String {
    match value.get(field) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => view::dash(&view::one_line(text)),
        Some(other) => view::one_line(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_go_over_the_file_and_deeper() {
        let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        std::fs::write(&file, "namespace = \"a\"\n[limits]\ncpu = \"1\"\n").unwrap();
        let set = [("namespace", "b"), ("limits.memory", "1Gi"), ("ttl", "60"), ("tags", "[1,2]")];
        let set = set.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let expected = json!({
            "namespace": "b", "limits": {"cpu": "1", "memory": "1Gi"}, "ttl": 60, "tags": [1, 2],
        });
        assert_eq!(make_config(Some(file.path()), &set).unwrap(), expected);
    }

    #[test]
    fn a_provider_is_shown_with_what_is_known_of_it() {
        let mut answer = json!({
            "name": "k8s", "type": "kubernetes", "healthy": false, "problem": "API failed: 503",
            "pool": {"minimum": 1, "maximum": 4, "idle_seconds": 300, "maximum_age_seconds": 86400},
            "health_age_seconds": 12, "capabilities_age_seconds": 70, "capabilities_problem": "no answer",
            "capabilities": {"max_cpu_millis": 2000, "free_workers": null, "gpus": {}, "architectures": ["amd64", "arm64"]},
        });
        insta::assert_snapshot!("provider_health", provider_health(&answer));
        answer["capabilities"] = Value::Null;
        answer["capabilities_age_seconds"] = Value::Null;
        assert!(provider_health(&answer).contains("never"));
    }

    #[test]
    fn tables_take_more_and_less_than_expected() {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let workers = json!({"workers": [
            {"id": "w1", "state": "busy", "provider": "k8s", "job_id": "j1", "resource": "hodei-worker-w1", "node": "node-1",
             "created_at": "2026-01-01T00:00:00Z", "new": {"x": 1}},
            {"id": "w2", "job_id": null},
            {"id": "w3", "state": "ready", "provider": "k8s", "idle_since": "2026-01-01T00:00:30Z", "pooled": true},
        ]});
        insta::assert_snapshot!("worker_table", worker_table(&workers, now));
        let providers = json!({"providers": [
            {"name": "k8s-local", "type": "kubernetes", "healthy": true, "problem": null, "pool": null},
            {"name": "k8s-warm", "type": "kubernetes", "healthy": true, "pool": {"minimum": 2, "maximum": 8}},
        ]});
        insta::assert_snapshot!("provider_table", provider_table(&providers));
        assert_eq!(worker_table(&json!([]), now), "ID  STATE  PROVIDER  JOB  POD  NODE  AGE\n");
    }
}

#[cfg(test)]
mod outside_input {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[a\\x1b\\x07\u{9b}\n]{0,5}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::from),
                vec((any::<String>(), inner), 0..4).prop_map(|fields| fields.into_iter().collect()),
            ]
        })
    }

    /// An answer of which any field may be anything.
    fn answer() -> impl Strategy<Value = Value> {
        const FIELDS: [&str; 14] = [
            "name",
            "type",
            "healthy",
            "problem",
            "pool",
            "health_age_seconds",
            "capabilities",
            "capabilities_problem",
            "id",
            "state",
            "job_id",
            "created_at",
            "idle_since",
            "node",
        ];
        let field = (select(&FIELDS[..]), any_json());
        vec(field, 0..8).prop_map(|fields| {
            fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
        })
    }

    fn assert_plain(text: &str) -> Result<(), TestCaseError> {
        prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        Ok(())
    }

    proptest! {
        #[test]
        fn any_answer_is_shown_and_none_reaches_the_terminal_as_a_command(
            one in answer(), more in vec(answer(), 0..3), any in any_json(),
        ) {
            let now = Timestamp::UNIX_EPOCH;
            for answer in [&any, &one] {
                let list = json!({"providers": more, "workers": more});
                assert_plain(&provider_health(answer))?;
                assert_plain(&provider_table(answer))?;
                assert_plain(&worker_table(answer, now))?;
                assert_plain(&pool::describe(answer))?;
                assert_plain(&text(answer, "state"))?;
                let rows = 1 + more.len();
                prop_assert_eq!(provider_table(&list).lines().count(), rows);
                prop_assert_eq!(worker_table(&list, now).lines().count(), rows);
            }
        }

        #[test]
        fn any_bytes_are_a_configuration_or_a_failure_that_names_the_file(
            bytes in prop_oneof![
                vec(any::<u8>(), 0..100),
                answer().prop_map(|value| value.to_string().into_bytes()),
                "([a-z]{1,5} ?= ?(1|true|\"x\"|\\[1\\])\n){0,4}".prop_map(String::into_bytes),
            ],
            suffix in select(vec![".toml", ".json", ""]),
        ) {
            let file = tempfile::Builder::new().suffix(suffix).tempfile().unwrap();
            std::fs::write(&file, bytes).unwrap();
            match read_config(file.path()) {
                Ok(config) => prop_assert!(config.is_object()),
                Err(failure) => {
                    prop_assert!(failure.to_string().contains(file.path().to_str().unwrap()));
                }
            }
        }

        #[test]
        fn what_is_set_is_there_whatever_was_there_before(
            set in vec(("[a-b.]{1,5}", any::<String>()), 1..5),
        ) {
            let config = make_config(None, &set).unwrap();
            prop_assert!(config.is_object());
            let (key, text) = set.last().unwrap();
            let found = key.split('.').fold(&config, |place, part| &place[part]);
            let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()));
            prop_assert_eq!(found, &value);
        }
    }
}

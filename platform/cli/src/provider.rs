//! `hodei provider` and `hodei worker`, over REST.

use std::path::Path;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    args::{Format, ProviderCommand, WorkerCommand},
    failure::Failure,
    rest::Rest,
    screen::print,
    view,
};

/// Carries a command out; the exit code to end with.
pub(crate) async fn execute(rest: &Rest, command: ProviderCommand) -> Result<u8, Failure> {
    match command {
        ProviderCommand::Add { name, kind, config, set } => {
            let config = make_config(config.as_deref(), &set)?;
            let body = json!({ "type": kind, "name": name, "config": config });
            rest.post(&["providers"], &body).await?;
            print(&format!("provider {name} was added\n"))?;
        }
        ProviderCommand::List { output } => {
            let answer = rest.get(&["providers"]).await?;
            print(&match output.format {
                Format::Json => view::json(&answer),
                Format::Table => provider_table(&answer),
            })?;
        }
        ProviderCommand::Health { name, output } => {
            let answer = rest.get(&["providers", &name]).await?;
            print(&match output.format {
                Format::Json => view::json(&answer),
                Format::Table => provider_health(&answer),
            })?;
            return Ok(u8::from(answer.get("healthy") != Some(&Value::Bool(true))));
        }
        ProviderCommand::Remove { name } => {
            rest.delete(&["providers", &name]).await?;
            print(&format!("provider {name} was removed\n"))?;
        }
    }
    Ok(0)
}

pub(crate) async fn execute_worker(rest: &Rest, command: WorkerCommand) -> Result<(), Failure> {
    match command {
        WorkerCommand::List { output } => {
            let answer = rest.get(&["workers"]).await?;
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
            text(provider, "problem"),
        ]
    };
    let head = ["NAME", "TYPE", "HEALTH", "PROBLEM"].map(str::to_owned);
    view::table(Some(head), entries(answer, "providers").iter().map(row).collect())
}

fn worker_table(answer: &Value, now: Timestamp) -> String {
    let row = |worker: &Value| {
        let created = worker.get("created_at").and_then(Value::as_str);
        [
            text(worker, "id"),
            text(worker, "state"),
            text(worker, "provider"),
            text(worker, "job_id"),
            text(worker, "resource"),
            view::age(created.and_then(|time| time.parse().ok()), now),
        ]
    };
    let head = ["ID", "STATE", "PROVIDER", "JOB", "POD", "AGE"].map(str::to_owned);
    view::table(Some(head), entries(answer, "workers").iter().map(row).collect())
}

fn entries<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A field as text; a dash if it is not there.
fn text(value: &Value, field: &str) -> String {
    match value.get(field) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => view::dash(text),
        Some(other) => other.to_string(),
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
            {"id": "w1", "state": "busy", "provider": "k8s", "job_id": "j1", "resource": "hodei-worker-w1",
             "created_at": "2026-01-01T00:00:00Z", "new": {"x": 1}},
            {"id": "w2", "job_id": null},
        ]});
        insta::assert_snapshot!("worker_table", worker_table(&workers, now));
        let providers = json!({"providers": [{"name": "k8s-local", "type": "kubernetes", "healthy": true, "problem": null}]});
        insta::assert_snapshot!("provider_table", provider_table(&providers));
        assert_eq!(worker_table(&json!([]), now), "ID  STATE  PROVIDER  JOB  POD  AGE\n");
    }
}

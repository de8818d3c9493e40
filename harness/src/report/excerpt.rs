//! What the page of a report shows of a case's evidence: the ends of its files, shortened to
//! what a person reads first. Bounded in files, lines and characters, whatever a case left.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::bounded::{Tail, tail, visible};

/// Lines shown of one file.
const LINES: usize = 60;
/// Characters shown of one line.
const LINE: usize = 400;
/// Files shown of one case.
const FILES: usize = 12;
/// Files looked at; a case of 500 pods has a log of each.
const LISTED: usize = 10_000;
/// Bytes read of one file: a line of the timeline is a whole pod.
const READ: u64 = 1024 * 1024;

/// The end of one file of evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Excerpt {
    /// The file's name.
    pub(super) file: String,
    /// How much of it is shown.
    pub(super) note: String,
    /// Its lines.
    pub(super) text: String,
}

/// The directory `relative` below `root`, if it names nothing outside.
pub(super) fn inside(root: &Path, relative: &str) -> Option<PathBuf> {
    let relative = Path::new(relative);
    let mut parts = relative.components().peekable();
    parts.peek()?;
    parts.all(|part| matches!(part, Component::Normal(_))).then(|| root.join(relative))
}

/// What a case left, most telling first: pods and events, the server's log, rows, the pods' own
/// logs, requests. What cannot be read is passed over.
pub(super) fn excerpts(case: &Path) -> Vec<Excerpt> {
    let Ok(entries) = std::fs::read_dir(case) else { return Vec::new() };
    let names = entries.flatten().take(LISTED);
    let mut names: Vec<_> =
        names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_by(|a, b| (rank(a), a).cmp(&(rank(b), b)));
    let telling = names.into_iter().filter(|name| rank(name) < UNTOLD);
    telling.filter_map(|name| excerpt(&case.join(&name), name)).take(FILES).collect()
}

const UNTOLD: u8 = 9;

fn rank(name: &str) -> u8 {
    match name {
        "timeline.jsonl" => 0,
        "server.log" => 1,
        "rows-jobs.jsonl" => 2,
        "rows-attempts.jsonl" => 3,
        "rows-workers.jsonl" => 4,
        _ if name.starts_with("rows-") => 5,
        _ if name.ends_with(".log") => 6,
        _ if name.ends_with(".jsonl") => 7,
        _ => UNTOLD,
    }
}

fn excerpt(path: &Path, file: String) -> Option<Excerpt> {
    let Tail { mut lines, is_part } = tail(path, READ).ok()?;
    match file.as_str() {
        "timeline.jsonl" => lines = changes(&lines),
        "server.log" => lines = lines.iter().map(|line| log_line(line)).collect(),
        _ => {}
    }
    if lines.is_empty() {
        return None;
    }
    let skipped = lines.len().saturating_sub(LINES);
    let note = match (skipped, is_part) {
        (0, false) => "all of it".to_owned(),
        (0, true) => format!("its last {} lines", lines.len()),
        (_, false) => format!("the last {LINES} of {} lines", lines.len()),
        (_, true) => format!("its last {LINES} lines"),
    };
    let shown: Vec<_> = lines[skipped..].iter().map(|line| short(line)).collect();
    Some(Excerpt { file, note, text: shown.join("\n") })
}

fn short(line: &str) -> String {
    let line = visible(line);
    match line.char_indices().nth(LINE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.into_owned(),
    }
}

/// The lines of a timeline as sentences, without those that say of a pod what the one before did.
fn changes(lines: &[String]) -> Vec<String> {
    let mut last = std::collections::HashMap::new();
    let mut told = Vec::new();
    for line in lines {
        let Ok(entry) = serde_json::from_str::<Value>(line) else {
            told.push(line.clone());
            continue;
        };
        let (subject, said) = match entry["what"].as_str() {
            Some("pod") => pod_change(&entry),
            Some("event") => event(&entry["object"]),
            _ => (String::new(), line.clone()),
        };
        if last.insert(subject.clone(), said.clone()).as_ref() != Some(&said) {
            told.push(format!("{}  {subject}  {said}", clock(&entry["at"])));
        }
    }
    told
}

fn pod_change(entry: &Value) -> (String, String) {
    let (object, status) = (&entry["object"], &entry["object"]["status"]);
    let mut said = vec![text(&entry["change"]).to_owned()];
    said.extend(status["phase"].as_str().map(str::to_owned));
    said.extend(object["spec"]["nodeName"].as_str().map(|node| format!("on {node}")));
    if !object["metadata"]["deletionTimestamp"].is_null() {
        said.push("being deleted".to_owned());
    }
    said.extend(["reason", "message"].iter().filter_map(|key| Some(status[*key].as_str()?.into())));
    for container in status["containerStatuses"].as_array().into_iter().flatten() {
        for (state, of) in container["state"].as_object().into_iter().flatten() {
            let reason = of["reason"].as_str().unwrap_or_default();
            let code = of["exitCode"].as_i64().map(|code| format!(" {code}")).unwrap_or_default();
            said.push(format!("{} {state} {reason}{code}", text(&container["name"])));
        }
    }
    let said: Vec<_> = said.iter().map(|part| part.trim_end()).collect();
    (format!("pod {}", text(&object["metadata"]["name"])), said.join(", "))
}

fn event(object: &Value) -> (String, String) {
    let on = &object["involvedObject"];
    let subject = format!("event on {} {}", text(&on["kind"]), text(&on["name"]));
    let (kind, reason) = (text(&object["type"]), text(&object["reason"]));
    (subject, format!("{kind} {reason}: {}", text(&object["message"])))
}

/// A line of the server's JSON log as "time LEVEL message key=value"; any other as it is.
fn log_line(line: &str) -> String {
    let Ok(Value::Object(mut entry)) = serde_json::from_str::<Value>(line) else {
        return line.to_owned();
    };
    let mut take = |key: &str| entry.remove(key).unwrap_or_default();
    let (at, level, message) = (take("timestamp"), take("level"), take("message"));
    let mut shown = format!("{}  {:5}  {}", clock(&at), text(&level), text(&message));
    for (key, value) in &entry {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        shown.push_str(&format!("  {key}={value}"));
    }
    shown
}

/// The time of day of an RFC 3339 time, to the millisecond.
fn clock(at: &Value) -> String {
    let time = text(at).split_once('T').map_or(text(at), |(_, time)| time);
    time.chars().take(12).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_below_the_run_is_shown() {
        let root = Path::new("/runs/r");
        assert_eq!(inside(root, "evidence/a.b"), Some("/runs/r/evidence/a.b".into()));
        for outside in ["", "..", "evidence/../../other", "/etc", "./x/.."] {
            assert_eq!(inside(root, outside), None, "{outside}");
        }
    }

    #[test]
    fn a_timeline_is_told_in_sentences_without_repetitions() {
        let pod = |change: &str, state: Value| {
            json!({"at": "2026-01-01T12:00:01.234567Z", "what": "pod", "change": change, "object": {
                "metadata": {"name": "w1"}, "spec": {"nodeName": "n1"},
                "status": {"phase": "Running", "containerStatuses": [{"name": "worker", "state": state}]}}})
            .to_string()
        };
        let event = json!({"at": "2026-01-01T12:00:02Z", "what": "event", "change": "seen", "object": {
            "type": "Warning", "reason": "Failed", "message": "no image",
            "involvedObject": {"kind": "Pod", "name": "w1"}}});
        let ended = json!({"terminated": {"reason": "OOMKilled", "exitCode": 137}});
        let lines = [
            pod("changed", json!({"running": {}})),
            pod("changed", json!({"running": {}})),
            event.to_string(),
            pod("deleted", ended),
            "torn {".to_owned(),
        ];
        let told = [
            "12:00:01.234  pod w1  changed, Running, on n1, worker running",
            "12:00:02Z  event on Pod w1  Warning Failed: no image",
            "12:00:01.234  pod w1  deleted, Running, on n1, worker terminated OOMKilled 137",
            "torn {",
        ];
        assert_eq!(changes(&lines), told);
    }

    #[test]
    fn excerpts_are_bounded_and_the_most_telling_come_first() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("server.log", &"{\"level\":\"INFO\",\"message\":\"x\",\"took\":3}\n".repeat(100_000));
        write("rows-jobs.jsonl", &"é".repeat(5000));
        write("rows-audit_events.jsonl", "");
        write("ports-1.json", "{}");
        for pod in 0..50 {
            write(&format!("hodei-worker-{pod}.log"), "line\n");
        }
        let found = excerpts(dir.path());
        let files: Vec<_> = found.iter().map(|one| one.file.as_str()).collect();
        assert_eq!(files[..2], ["server.log", "rows-jobs.jsonl"]);
        assert_eq!(files.len(), FILES);
        assert_eq!(found[0].text.lines().count(), LINES);
        assert_eq!(found[0].note, "its last 60 lines");
        assert_eq!(found[0].text.lines().next(), Some("?  INFO   x  took=3"));
        assert_eq!(found[1].text.chars().count(), LINE + 1);
        assert_eq!(excerpts(&dir.path().join("none")), []);
    }
}

//! From a case's rows and its recorder's sightings to the summary. A pure function: it asks nothing
//! of a cluster or a database.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ATTEMPTS_OF_JOB, AttemptTimes, JobTimeline, JobTimes, MOST_ATTEMPTS, NAME, Sightings};

/// What a case's evidence has of its database, a JSON object a row.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rows<'a> {
    /// `id`, `name`, `state`, `submitted_at`, `finished_at`.
    pub jobs: &'a [Value],
    /// `job_id`, `epoch`, `worker_id`, `warm`, `created_at`, `started_at`, `finished_at`.
    pub attempts: &'a [Value],
    /// `id`, `pooled`, `node`, `pod_uid`, `resource_uid`, `scheduled_at`, `running_at`,
    /// `registered_at`, `terminating_at`.
    pub workers: &'a [Value],
    /// `job_id`, `epoch`, `first_stored_at`.
    pub output: &'a [Value],
}

#[derive(Deserialize)]
struct JobRow {
    id: String,
    name: String,
    state: String,
    submitted_at: Timestamp,
    finished_at: Option<Timestamp>,
}

#[derive(Deserialize)]
struct AttemptRow {
    job_id: String,
    epoch: u32,
    worker_id: String,
    #[serde(default)]
    warm: bool,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
}

#[derive(Deserialize)]
struct WorkerRow {
    id: String,
    #[serde(default)]
    pooled: bool,
    node: Option<String>,
    pod_uid: Option<String>,
    resource_uid: Option<String>,
    scheduled_at: Option<Timestamp>,
    running_at: Option<Timestamp>,
    registered_at: Option<Timestamp>,
    terminating_at: Option<Timestamp>,
}

#[derive(Deserialize)]
struct OutputRow {
    job_id: String,
    epoch: u32,
    first_stored_at: Timestamp,
}

/// The jobs of a case in time. A row that is not as expected is passed over.
#[must_use]
pub fn derive(rows: &Rows<'_>, pods: &Sightings) -> JobTimes {
    let workers = understood::<WorkerRow>(rows.workers).map(|row| (row.id.clone(), row)).collect();
    let output = understood::<OutputRow>(rows.output);
    let output = output.map(|row| ((row.job_id, row.epoch), row.first_stored_at)).collect();
    let known = Known { workers, output, pods };
    let mut attempts: HashMap<String, Vec<AttemptRow>> = HashMap::new();
    for attempt in understood::<AttemptRow>(rows.attempts) {
        attempts.entry(attempt.job_id.clone()).or_default().push(attempt);
    }
    let mut jobs: Vec<_> = understood::<JobRow>(rows.jobs).collect();
    jobs.sort_by(|one, other| (one.submitted_at, &one.id).cmp(&(other.submitted_at, &other.id)));
    let mut all = JobTimes::default();
    let mut room = MOST_ATTEMPTS;
    for job in jobs {
        let mut of_job = attempts.remove(&job.id).unwrap_or_default();
        of_job.sort_by_key(|attempt| attempt.epoch);
        let needs = of_job.len().clamp(1, ATTEMPTS_OF_JOB);
        if needs > room || all.left_out > 0 {
            all.left_out += 1;
            continue;
        }
        room -= needs;
        let since = |at: Option<Timestamp>| at.map(|at| seconds(job.submitted_at, at));
        all.jobs.push(JobTimeline {
            finished: since(job.finished_at),
            attempts_left_out: of_job.len().saturating_sub(ATTEMPTS_OF_JOB),
            attempts: of_job
                .iter()
                .take(ATTEMPTS_OF_JOB)
                .map(|row| known.attempt(job.submitted_at, row))
                .collect(),
            name: job.name.chars().take(NAME).collect(),
            id: job.id,
            state: job.state,
            round: None,
            submitted_at: job.submitted_at,
        });
    }
    all
}

struct Known<'a> {
    workers: HashMap<String, WorkerRow>,
    output: HashMap<(String, u32), Timestamp>,
    pods: &'a Sightings,
}

impl Known<'_> {
    fn attempt(&self, submitted: Timestamp, row: &AttemptRow) -> AttemptTimes {
        let since = |at: Option<Timestamp>| at.map(|at| seconds(submitted, at));
        let output = self.output.get(&(row.job_id.clone(), row.epoch)).copied();
        let worker = self.workers.get(&row.worker_id);
        let uid = worker.and_then(|row| row.resource_uid.as_deref().or(row.pod_uid.as_deref()));
        let pod = self.pods.of(uid, &row.worker_id);
        let node = worker.and_then(|row| row.node.clone()).filter(|node| !node.is_empty());
        let times = AttemptTimes {
            epoch: row.epoch,
            node: node.or_else(|| Some(pod?.node.clone())).unwrap_or_default(),
            warm: row.warm,
            claimed: since(Some(row.created_at)),
            started: since(row.started_at),
            output: since(output),
            finished: since(row.finished_at),
            ..AttemptTimes::default()
        };
        if row.warm {
            return times;
        }
        let times = AttemptTimes {
            pod_created: since(pod.and_then(|pod| pod.created)),
            scheduled: since(pod.and_then(|pod| pod.scheduled).or_else(|| worker?.scheduled_at)),
            image: since(pod.and_then(|pod| pod.image)),
            running: since(pod.and_then(|pod| pod.running).or_else(|| worker?.running_at)),
            registered: since(worker.and_then(|worker| worker.registered_at)),
            ..times
        };
        if worker.is_some_and(|worker| worker.pooled) {
            // It stays, and goes after another's job.
            return times;
        }
        AttemptTimes {
            terminating: since(worker.and_then(|worker| worker.terminating_at)),
            gone: since(pod.and_then(|pod| pod.gone)),
            ..times
        }
    }
}

fn understood<'a, T: DeserializeOwned + 'a>(rows: &'a [Value]) -> impl Iterator<Item = T> + 'a {
    rows.iter().filter_map(|row| match T::deserialize(row) {
        Ok(row) => Some(row),
        Err(error) => {
            tracing::warn!(%error, "a row is not in the timeline of jobs");
            None
        }
    })
}

/// To a tenth of a millisecond.
fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    (to.duration_since(from).as_secs_f64() * 10_000.0).round() / 10_000.0
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2026-01-01T12:00:{text}Z").parse().unwrap()
    }

    fn pod(worker: &str, status: Value) -> Pod {
        let label = "hodei.io/worker-id";
        serde_json::from_value(json!({
            "metadata": {"uid": format!("uid-{worker}"), "labels": {label: worker}},
            "spec": {"containers": [], "nodeName": "n1"}, "status": status}))
        .unwrap()
    }

    fn job(id: &str, second: u32) -> Value {
        json!({"id": id, "name": id, "state": "succeeded", "reason": "", "version": 4,
               "submitted_at": format!("2026-01-01T12:00:{second:02}.000000+00:00"),
               "finished_at": format!("2026-01-01T12:00:{:02}.25+00:00", second + 3)})
    }

    fn attempt(job: &str, epoch: u32, worker: &str) -> Value {
        json!({"job_id": job, "epoch": epoch, "worker_id": worker, "state": "finished",
               "created_at": "2026-01-01T12:00:01.01+00:00", "started_at": null,
               "finished_at": "2026-01-01T12:00:04.2+00:00"})
    }

    #[test]
    fn rows_and_sightings_together_make_a_timeline() {
        let mut worker = json!({"id": "w1", "pooled": false, "node": null, "pod_uid": null,
            "resource_uid": "uid-w1", "scheduled_at": null, "running_at": null,
            "registered_at": "2026-01-01T12:00:02.5+00:00", "terminating_at": null});
        let output =
            json!({"job_id": "j1", "epoch": 1, "first_stored_at": "2026-01-01T12:00:03+00:00"});
        let mut pods = Sightings::default();
        pods.saw(at("01.2"), &pod("w1", json!({})), false);
        pods.saw_gone(at("06"), &pod("w1", json!({})));
        let mut attempt = attempt("j1", 1, "w1");
        let derived = |attempt: &Value, worker: &Value| {
            let rows = Rows {
                jobs: &[job("j1", 1), json!({"id": 7})],
                attempts: std::slice::from_ref(attempt),
                workers: std::slice::from_ref(worker),
                output: std::slice::from_ref(&output),
            };
            derive(&rows, &pods)
        };
        let all = derived(&attempt, &worker);
        assert_eq!((all.jobs.len(), all.left_out, all.jobs[0].finished), (1, 0, Some(3.25)));
        let whole = AttemptTimes {
            epoch: 1,
            node: "n1".into(),
            claimed: Some(0.01),
            pod_created: Some(0.2),
            scheduled: Some(0.2),
            registered: Some(1.5),
            output: Some(2.0),
            finished: Some(3.2),
            gone: Some(5.0),
            ..AttemptTimes::default()
        };
        assert_eq!(all.jobs[0].attempts[0], whole);

        // Its pod outlives the job, and was there before.
        worker["pooled"] = true.into();
        let stays = AttemptTimes { gone: None, ..whole };
        assert_eq!(derived(&attempt, &worker).jobs[0].attempts[0], stays);
        attempt["warm"] = true.into();
        let warm = AttemptTimes {
            warm: true,
            pod_created: None,
            scheduled: None,
            registered: None,
            ..stays
        };
        assert_eq!(derived(&attempt, &worker).jobs[0].attempts, [warm]);
    }

    #[test]
    fn a_summary_is_bounded_and_says_what_it_left_out() {
        let id = |index: u32| format!("{index:04}");
        let jobs: Vec<_> = (0..600).map(|index| job(&id(index), index % 50)).collect();
        let mut attempts: Vec<_> = (0..600).map(|n| attempt(&id(n), 1, "w")).collect();
        attempts.extend((2..50).map(|epoch| attempt(&id(0), epoch, "w")));
        let rows = Rows { jobs: &jobs, attempts: &attempts, ..Rows::default() };
        let all = derive(&rows, &Sightings::default());
        assert_eq!(all.lanes(), MOST_ATTEMPTS);
        assert_eq!(all.jobs.len() + all.left_out, 600);
        let first = all.jobs.iter().find(|job| job.id == "0000").unwrap();
        assert_eq!((first.attempts.len(), first.attempts_left_out), (ATTEMPTS_OF_JOB, 29));
        let submitted: Vec<_> = all.jobs.iter().map(|job| job.submitted_at).collect();
        assert!(submitted.is_sorted());
    }
}

//! What is kept of a case: rows, logs of the agents that are still there, the job's own words, and
//! when what happened to its jobs. Timeline and server log are written while the case runs.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, LogParams};

use super::CaseEnv;
use crate::job_times::{JobTimes, Rows, derive};

/// Tables, without what a user may have put into a job's environment.
const TABLES: [(&str, &str); 7] = [
    ("providers", "SELECT name, kind, source, created_at FROM providers"),
    (
        "jobs",
        "SELECT id, name, state, version, reason, outcome, exit_code, epoch, correlation_id, \
              submitted_at, started_at, finished_at FROM jobs ORDER BY submitted_at",
    ),
    ("job_events", "SELECT * FROM job_events ORDER BY job_id, version"),
    ("attempts", "SELECT * FROM attempts ORDER BY job_id, epoch"),
    (
        "workers",
        "SELECT id, provider, job_id, epoch, state, resource, resource_uid, pod_uid, reason, \
                 node, pooled, created_at, scheduled_at, running_at, registered_at, terminating_at, \
                 terminated_at FROM workers ORDER BY created_at",
    ),
    (
        "output",
        "SELECT job_id, epoch, min(created_at) AS first_stored_at, max(last_sequence) AS last_sequence \
         FROM log_chunks GROUP BY job_id, epoch ORDER BY job_id, epoch",
    ),
    ("audit_events", "SELECT * FROM audit_events ORDER BY id"),
];

impl CaseEnv {
    /// Writes down what can be had; what cannot is said in its place. Never fails: it must not
    /// hide the failure that it is evidence of. Returns the jobs in time; `None` for a case that has
    /// no server, and so no jobs.
    pub(super) async fn dump_evidence(&self) -> Option<JobTimes> {
        let mut tables = BTreeMap::new();
        if self.stack.is_some() {
            for (table, sql) in TABLES {
                let text = match self.rows(sql).await {
                    Ok(rows) => {
                        let text = rows.iter().map(|row| format!("{row}\n")).collect();
                        tables.insert(table, rows);
                        text
                    }
                    Err(error) => format!("{error}: {}\n", error.source),
                };
                self.write(&format!("rows-{table}.jsonl"), &text);
            }
        }
        if let Ok(proxy) = self.api_proxy() {
            self.write("api-requests.jsonl", &proxy.evidence());
        }
        let pods = Api::<Pod>::namespaced(self.client.clone(), self.namespace());
        for pod in self.recorder.live_pods() {
            for previous in [false, true] {
                let params = LogParams { previous, timestamps: true, ..Default::default() };
                let name = pod.name_any();
                let mark = if previous { "-previous" } else { "" };
                if let Ok(text) = pods.logs(&name, &params).await {
                    self.write(&format!("{name}{mark}.log"), &text);
                }
            }
        }
        let rows = |table: &str| tables.get(table).map_or(&[][..], Vec::as_slice);
        let rows = Rows {
            jobs: rows("jobs"),
            attempts: rows("attempts"),
            workers: rows("workers"),
            output: rows("output"),
        };
        (!tables.is_empty()).then(|| derive(&rows, &self.recorder.sightings()))
    }

    fn write(&self, name: &str, text: &str) {
        if let Err(error) = std::fs::write(self.evidence.join(name), text) {
            tracing::warn!(%error, name, "evidence could not be written");
        }
    }
}

//! What is kept of a case: rows, logs of the agents that are still there, the job's own words.
//! Timeline and server log are written while the case runs.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, LogParams};

use super::CaseEnv;

/// Tables, without what a user may have put into a job's environment.
const TABLES: [(&str, &str); 6] = [
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
                 created_at, scheduled_at, registered_at, terminated_at FROM workers ORDER BY created_at",
    ),
    ("audit_events", "SELECT * FROM audit_events ORDER BY id"),
];

impl CaseEnv {
    /// Writes down what can be had; what cannot is said in its place. Never fails: it must not
    /// hide the failure that it is evidence of.
    pub(super) async fn dump_evidence(&self) {
        if self.stack.is_some() {
            for (table, sql) in TABLES {
                let text = match self.rows(sql).await {
                    Ok(rows) => rows.iter().map(|row| format!("{row}\n")).collect(),
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
    }

    fn write(&self, name: &str, text: &str) {
        if let Err(error) = std::fs::write(self.evidence.join(name), text) {
            tracing::warn!(%error, name, "evidence could not be written");
        }
    }
}

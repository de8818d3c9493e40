//! A worker that has not registered, for a simulated agent: its real pod is kept pending by a node
//! selector that no node has, and its Secret is read as an administrator.

use std::time::Duration;

use anyhow::Result;
use hodei_harness::case::{CaseEnv, CaseOptions, SimulatedWorker, command};
use hodei_harness::run_dir::RUN_LABEL;
use hodei_proto::v1::{CancelJobRequest, Job, JobSpec, RegisterRequest, RegisterResponse};
use kube::ResourceExt;
use serde_json::json;

use crate::pods::{read_otp, worker_of};

/// The version that `hodei-worker` speaks.
pub(crate) const PROTOCOL_VERSION: u32 = 1;

/// From submit to a pod, on a busy two-core machine.
const ASKED_DEADLINE: Duration = Duration::from_secs(60);

/// A worker that has not registered.
pub(crate) struct Candidate {
    pub(crate) job: String,
    pub(crate) worker: String,
    pub(crate) otp: String,
    pub(crate) pod_uid: String,
}

/// Pods that never get to a node.
pub(crate) fn pending() -> CaseOptions {
    CaseOptions::new().provider("node_selector", json!({RUN_LABEL: "nowhere"}))
}

impl Candidate {
    pub(crate) async fn create(env: &CaseEnv) -> Result<Self> {
        Self::create_for(env, command(&["true"])).await
    }

    pub(crate) async fn create_for(env: &CaseEnv, spec: JobSpec) -> Result<Self> {
        let job = env.submit(spec).await?;
        Self::await_attempt(env, &job.id, 1).await
    }

    /// The worker of a job's attempt, once there is one.
    pub(crate) async fn await_attempt(env: &CaseEnv, job: &str, epoch: u32) -> Result<Self> {
        let asked = |job: &Job| job.attempts.iter().any(|attempt| attempt.epoch == epoch);
        let job = env.await_job(job, "given a worker", ASKED_DEADLINE, asked).await?;
        let worker = worker_of(&job)?;
        let name = format!("hodei-worker-{worker}");
        let pod = env.await_pod("the worker's pod", |record| record.pod.name_any() == name).await?;
        let otp = read_otp(env, &worker).await?;
        Ok(Self { job: job.id, worker, otp, pod_uid: pod.uid().unwrap_or_default() })
    }

    pub(crate) fn request(&self) -> RegisterRequest {
        RegisterRequest {
            worker_id: self.worker.clone(),
            otp: self.otp.clone(),
            protocol_version: PROTOCOL_VERSION,
            pod_uid: self.pod_uid.clone(),
            agent_version: "e2e".into(),
        }
    }

    /// Registers as the agent would.
    pub(crate) async fn simulate(&self, env: &CaseEnv) -> Result<SimulatedWorker> {
        Ok(SimulatedWorker::register(env.clients()?.agent(), self.request()).await?)
    }
}

pub(crate) async fn register(
    env: &CaseEnv,
    request: RegisterRequest,
) -> Result<Result<RegisterResponse, tonic::Status>> {
    Ok(env.clients()?.agent().register(request).await.map(tonic::Response::into_inner))
}

pub(crate) async fn cancel(env: &CaseEnv, job: &str) -> Result<()> {
    let request = CancelJobRequest { id: job.to_owned(), reason: "the case is over".into() };
    env.clients()?.jobs().cancel(request).await?;
    env.await_job_end(job).await?;
    Ok(())
}

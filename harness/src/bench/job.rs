//! The Hodei side: submit a job and watch it, as a client does.

use std::time::Instant;

use hodei_proto::v1::job_service_client::JobServiceClient;
use hodei_proto::v1::{JobState, SubmitJobRequest, WatchJobRequest};
use tonic::transport::{Channel, Endpoint};

use super::{COMMAND, DEADLINE, Lap};
use crate::case::command;
use crate::failure::{Classify, FailureClass, HarnessError, Result};

/// A server to submit jobs to.
#[derive(Debug, Clone)]
pub struct JobSide {
    jobs: JobServiceClient<Channel>,
}

impl JobSide {
    /// Jobs on the server at `address` (`http://host:port`).
    ///
    /// # Errors
    /// The address is none.
    pub fn new(address: &str) -> Result<Self> {
        let endpoint = Endpoint::from_shared(address.to_owned()).classify(
            FailureClass::Harness,
            "use",
            address,
        )?;
        Ok(Self { jobs: JobServiceClient::new(endpoint.connect_lazy()) })
    }

    pub(super) async fn lap(&self) -> Result<Lap> {
        let lap = tokio::time::timeout(DEADLINE, self.watch_one());
        lap.await.classify(FailureClass::Product, "await", "a job's result")?
    }

    async fn watch_one(&self) -> Result<Lap> {
        let product = |operation| {
            move |error: tonic::Status| {
                HarnessError::new(FailureClass::Product, operation, "a job", error)
            }
        };
        let mut jobs = self.jobs.clone();
        let begin = Instant::now();
        let spec = Some(command(&COMMAND));
        let request = SubmitJobRequest { spec, ..Default::default() };
        let answer = jobs.submit(request).await.map_err(product("submit"))?;
        let id = answer.into_inner().job.unwrap_or_default().id;
        let watch = jobs.watch(WatchJobRequest { id: id.clone() }).await;
        let mut changes = watch.map_err(product("watch"))?.into_inner();
        let mut started = None;
        while let Some(change) = changes.message().await.map_err(product("watch"))? {
            let job = change.job.unwrap_or_default();
            let elapsed = begin.elapsed().as_secs_f64();
            match job.state() {
                JobState::Running => started = started.or(Some(elapsed)),
                JobState::Succeeded => {
                    return Ok(Lap { started: started.unwrap_or(elapsed), finished: elapsed });
                }
                JobState::Failed | JobState::Cancelled | JobState::TimedOut => {
                    let cause = format!("it ended {:?}: {}", job.state(), job.reason);
                    return Err(HarnessError::new(FailureClass::Product, "run", id, cause));
                }
                _ => {}
            }
        }
        Err(HarnessError::new(FailureClass::Product, "watch", id, "the watch ended before the job"))
    }
}

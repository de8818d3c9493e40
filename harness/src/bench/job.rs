//! The Hodei side: submit a job and watch it, as a client does.

use std::time::Instant;

use hodei_proto::v1::{JobSpec, JobState, SubmitJobRequest, WatchJobRequest};

use super::{DEADLINE, Lap};
use crate::case::{Clients, command};
use crate::failure::{Classify, FailureClass, HarnessError, Result};

/// A server to submit jobs to.
#[derive(Debug, Clone)]
pub struct JobSide {
    pub(super) clients: Clients,
}

impl JobSide {
    /// Jobs on the server of these clients.
    #[must_use]
    pub fn new(clients: Clients) -> Self {
        Self { clients }
    }

    /// Submits a job; answers its id.
    pub(super) async fn submit(&self, spec: JobSpec) -> Result<String> {
        let request = SubmitJobRequest { spec: Some(spec), ..Default::default() };
        let answer = self.clients.jobs().submit(request).await;
        let answer = answer.classify(FailureClass::Product, "submit", "a job")?;
        Ok(answer.into_inner().job.unwrap_or_default().id)
    }

    /// Runs one job of a program and its arguments.
    pub(super) async fn lap(&self, argv: &[&str]) -> Result<Lap> {
        let lap = tokio::time::timeout(DEADLINE, self.watch_one(argv));
        lap.await.classify(FailureClass::Product, "await", "a job's result")?
    }

    async fn watch_one(&self, argv: &[&str]) -> Result<Lap> {
        let class = FailureClass::Product;
        let begin = Instant::now();
        let id = self.submit(command(argv)).await?;
        let watch = self.clients.jobs().watch(WatchJobRequest { id: id.clone() }).await;
        let mut changes = watch.classify(class, "watch", "a job")?.into_inner();
        let mut started = None;
        while let Some(change) = changes.message().await.classify(class, "watch", "a job")? {
            let job = change.job.unwrap_or_default();
            let elapsed = begin.elapsed().as_secs_f64();
            match job.state() {
                JobState::Running => started = started.or(Some(elapsed)),
                JobState::Succeeded => {
                    return Ok(Lap { started: started.unwrap_or(elapsed), finished: elapsed });
                }
                JobState::Failed | JobState::Cancelled | JobState::TimedOut => {
                    let cause = format!("it ended {:?}: {}", job.state(), job.reason);
                    return Err(HarnessError::new(class, "run", id, cause));
                }
                _ => {}
            }
        }
        Err(HarnessError::new(class, "watch", id, "the watch ended before the job"))
    }
}

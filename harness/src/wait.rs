//! The one way this crate waits: observe the state again and again until it is as wanted, and
//! at the deadline say what was seen last. Level-triggered, so a missed event costs nothing.

use std::time::{Duration, Instant};

use crate::failure::{FailureClass, HarnessError, Result};
use crate::progress::{Progress, Stage};

/// Between two looks of a case. One look costs the API server about a millisecond.
const CASE_INTERVAL: Duration = Duration::from_millis(50);

/// What one look at the state showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed<T> {
    /// It is as wanted.
    Ready(T),
    /// It is not, and this is how it is instead.
    NotYet(String),
}

/// What is awaited, and for how long.
#[derive(Debug, Clone)]
pub struct Wait {
    /// Whose failure it is if it never comes.
    pub class: FailureClass,
    /// "nodes to be Ready".
    pub what: String,
    /// At most this long.
    pub deadline: Duration,
    /// Between two looks.
    pub interval: Duration,
}

impl Wait {
    /// A wait for infrastructure, with a look every 200 ms.
    pub fn infrastructure(what: impl Into<String>, deadline: Duration) -> Self {
        let interval = Duration::from_millis(200);
        Self { class: FailureClass::Infrastructure, what: what.into(), deadline, interval }
    }

    /// Looks until the state is as wanted.
    ///
    /// # Errors
    /// The deadline passed (the error holds the last state seen), a signal came, or `observe`
    /// itself failed, which ends the wait at once.
    pub async fn until<T, F>(&self, stage: &Stage, mut observe: F) -> Result<T>
    where
        F: AsyncFnMut() -> Result<Observed<T>>,
    {
        let end = Instant::now() + self.deadline;
        loop {
            let last = match observe().await? {
                Observed::Ready(value) => return Ok(value),
                Observed::NotYet(state) => state,
            };
            stage.line(&format!("{}: {last}", self.what));
            if Instant::now() >= end {
                let seconds = self.deadline.as_secs();
                let cause = format!("not so after {seconds} s; last seen: {last}");
                return Err(HarnessError::new(self.class, "wait for", &self.what, cause));
            }
            tokio::select! {
                () = tokio::time::sleep(self.interval) => {}
                () = stage.cancelled() => {
                    return Err(HarnessError::interrupted("wait for", &self.what));
                }
            }
        }
    }
}

/// Looks until `look` is satisfied, in a case: a time-out is the product's failure.
///
/// # Errors
/// The deadline passed (class product; the error holds the last state), or a look failed.
pub async fn await_until<T, F>(what: impl Into<String>, deadline: Duration, look: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<Observed<T>>,
{
    await_class(FailureClass::Product, what, deadline, look).await
}

/// As [`await_until`], for what is not the product's to do.
///
/// # Errors
/// As for [`await_until`], with the given class.
pub async fn await_class<T, F>(
    class: FailureClass,
    what: impl Into<String>,
    deadline: Duration,
    look: F,
) -> Result<T>
where
    F: AsyncFnMut() -> Result<Observed<T>>,
{
    let wait = Wait { class, what: what.into(), deadline, interval: CASE_INTERVAL };
    wait.until(&Progress::silent().unlisted(), look).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deadline_reports_the_last_state() {
        let stage = Progress::silent().unlisted();
        let mut looks = 0;
        let wait = Wait::infrastructure("the moon", Duration::ZERO);
        let error = wait
            .until::<(), _>(&stage, async || {
                looks += 1;
                Ok(Observed::NotYet(format!("look {looks}")))
            })
            .await
            .unwrap_err();
        assert!(error.source.to_string().contains("last seen: look 1"), "{error:?}");
    }

    #[tokio::test]
    async fn it_returns_as_soon_as_the_state_is_right() {
        let stage = Progress::silent().unlisted();
        let mut looks = 0;
        let mut wait = Wait::infrastructure("three", Duration::from_secs(5));
        wait.interval = Duration::from_millis(1);
        let got = wait
            .until(&stage, async || {
                looks += 1;
                Ok(if looks == 3 { Observed::Ready(looks) } else { Observed::NotYet("no".into()) })
            })
            .await;
        assert_eq!(got.unwrap(), 3);
    }
}

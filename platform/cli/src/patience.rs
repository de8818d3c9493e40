//! What becomes of a call that the server refused because this client asks too often: it is made again
//! when the server says, within bounds, and a person is told.

use std::time::Duration;

use tokio::time::Instant;

use crate::screen::note;

/// How long all waits of one call may take together.
const MOST: Duration = Duration::from_secs(30);
/// How long to wait where the server does not say.
const DEFAULT: Duration = Duration::from_secs(1);
/// The shortest wait: a server that says 0 is not asked without a pause.
const LEAST: Duration = Duration::from_millis(100);

/// The waits of one call.
#[derive(Debug)]
pub(crate) struct Throttled {
    until: Instant,
    told: bool,
}

impl Throttled {
    pub(crate) fn new() -> Self {
        Self { until: Instant::now() + MOST, told: false }
    }

    /// Waits as long as the server asks; `false`, at once, where that is too long.
    pub(crate) async fn wait(&mut self, asked: Option<Duration>) -> bool {
        let wait = asked.unwrap_or(DEFAULT).max(LEAST);
        let again = Instant::now().checked_add(wait).filter(|again| *again <= self.until);
        let Some(again) = again else { return false };
        if !self.told {
            self.told = true;
            let seconds = wait.as_secs_f64().ceil();
            note(&format!("the server asks for fewer requests; trying again in {seconds} s"));
        }
        tokio::time::sleep_until(again).await;
        true
    }
}

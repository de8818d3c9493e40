//! Tests that need a PostgreSQL, and what they stand on: a database for each test, a provider in memory,
//! an agent that does what a test says.

mod agent;
mod auth;
mod claims;
mod end_to_end;
mod fake;
mod faults;
mod follow;
mod postgres;
mod registration;
mod rest;
mod retry;
mod running;
mod waiting;

use std::time::Duration;

/// Waits until `look` gives something; fails with what was seen last.
async fn await_some<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    look: impl Fn() -> F,
) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        match look().await {
            Ok(found) => return found,
            Err(last) if tokio::time::Instant::now() > deadline => {
                panic!("{what}: last seen: {last}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

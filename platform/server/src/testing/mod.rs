//! Tests that need a PostgreSQL, and what they stand on: a database for each test, a provider in memory,
//! an agent that does what a test says.

mod agent;
mod archive;
mod archive_faults;
mod auth;
mod check;
mod claims;
mod end_to_end;
mod fake;
mod faults;
mod follow;
mod gaps;
mod limits;
mod objects;
mod openapi;
pub(crate) mod outside_input_slow;
mod pages;
mod pool;
mod pool_bounds;
mod pool_faults;
mod postgres;
mod registration;
mod rest;
mod retention;
mod retry;
mod running;
mod tls;
mod traces;
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

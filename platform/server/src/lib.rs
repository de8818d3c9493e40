//! The Hodei control plane: what takes jobs, gets workers for them, and keeps their logs and results.
//!
//! | module | what it answers |
//! |---|---|
//! | [`config`] | what a person may set |
//! | `policy` | what becomes of a job: pure decisions |
//! | `pool` | how many idle workers a provider keeps |
//! | `store` | the state, in PostgreSQL; one transaction an operation |
//! | `logs` | output, live and durable |
//! | `session` | agents: who is admitted, what is read, what is told |
//! | `scheduler` | the loops that make things happen |
//! | `registry`, `providers` | which providers there are, and the one place that names an adapter |
//! | `auth`, `limits` | which clients are admitted, and how often they may ask |
//! | `authorities` | whom workers trust |
//! | `trace` | spans of requests and attempts, for a collector |
//! | `check` | whether a server with these settings could start and work |
//! | `grpc`, `rest` | the two faces; they translate and decide nothing |
//!
//! A server keeps nothing that the database does not have, save output that was not acknowledged yet. So
//! it may be killed at any point, and any number of servers share one database without a leader.

mod app;
mod auth;
mod authorities;
mod check;
pub mod config;
mod grpc;
mod limits;
mod logs;
mod net;
mod policy;
mod pool;
mod providers;
mod registry;
mod rest;
mod scheduler;
mod server;
mod session;
mod store;
mod telemetry;
#[cfg(test)]
mod testing;
mod trace;

pub use self::{
    check::{Report, check},
    providers::{BuiltIn, kubernetes_enabled},
    registry::{ConnectError, ProviderFactory},
    server::{ENVIRONMENT_PROVIDER, Server, migrate},
    telemetry::init_logs,
};

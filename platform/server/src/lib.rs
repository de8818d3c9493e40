//! The Hodei control plane: what takes jobs, gets workers for them, and keeps their logs and results.
//!
//! | module | what it answers |
//! |---|---|
//! | [`config`] | what a person may set |
//! | `policy` | what becomes of a job: pure decisions |
//! | `store` | the state, in PostgreSQL; one transaction an operation |
//! | `logs` | output, live and durable |
//! | `session` | agents: who is admitted, what is read, what is told |
//! | `scheduler` | the loops that make things happen |
//! | `registry`, `providers` | which providers there are, and the one place that names an adapter |
//! | `auth` | which clients are admitted |
//! | `grpc`, `rest` | the two faces; they translate and decide nothing |
//!
//! A server keeps nothing that the database does not have, save output that was not acknowledged yet. So
//! it may be killed at any point, and any number of servers share one database without a leader.

mod app;
mod auth;
pub mod config;
mod grpc;
mod logs;
mod net;
mod policy;
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

pub use self::{
    providers::{BuiltIn, kubernetes_enabled},
    registry::{ConnectError, ProviderFactory},
    server::{ENVIRONMENT_PROVIDER, Server, migrate},
    telemetry::init_logs,
};

//! What Hodei is about, without saying how: identifiers, job specifications, the closed state
//! machines of jobs, attempts and workers, the session protocol as sans-IO machines, and the port
//! through which a worker provider is driven.
//!
//! This crate names no Kubernetes, gRPC, runtime or database. Each of those is one adapter outside.

pub mod attempt;
pub mod failure;
pub mod id;
pub mod job;
pub mod provider;
pub mod quantity;
pub mod secret;
pub mod session;
pub mod spec;
pub mod worker;

/// The version of the worker protocol this build speaks.
///
/// It grows when an older peer could no longer be understood; new optional fields do not count.
pub const PROTOCOL_VERSION: u32 = 1;

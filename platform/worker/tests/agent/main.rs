//! The agent from outside: its executor, its session against a scripted server, its binary.

#![expect(clippy::unwrap_used, reason = "clippy does not take what a test calls for a test")]

mod binary;
mod executor;
mod outside_input;
mod peer;
mod pooled;
mod session;
mod spool;

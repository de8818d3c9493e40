//! The Hodei worker agent: registers with its one-time password, holds one session with the control
//! plane through lost links, runs what it is given and reports how that ended.
//!
//! - [`config`] reads flags and environment; [`register`] trades the password for a session.
//! - [`link`] opens the session's stream; [`agent`] lives on it and decides.
//! - [`held`] is the command of the one attempt in hand.
//! - [`spool`] keeps output on disk while there is no link.
//! - [`executor`] runs the command; [`process`] sees to the processes it leaves behind.
//!
//! What is said of an attempt, and that nothing of it is lost, doubled or reordered, is decided by
//! [`hodei_core::session`], not here.

pub mod agent;
pub mod config;
pub mod error;
pub mod executor;
pub mod held;
pub mod link;
pub mod process;
pub mod register;
pub mod spool;
mod wire;

pub use agent::run;
pub use config::{Args, Config};
pub use error::AgentError;

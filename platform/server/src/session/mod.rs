//! Agents' sessions: who is admitted, what the one stream of a session carries, and who holds it.

pub(crate) mod admission;
pub(crate) mod live;
pub(crate) mod reader;
pub(crate) mod recorder;

//! Agents' sessions: what the one stream of a session carries, and who holds it.

pub(crate) mod heard;
pub(crate) mod live;
pub(crate) mod reader;
pub(crate) mod recorder;

//! The output of jobs on its way: from an agent to whoever follows it, at once; and to the database,
//! which alone decides what is acknowledged.

pub(crate) mod follow;
pub(crate) mod live;
mod writer;

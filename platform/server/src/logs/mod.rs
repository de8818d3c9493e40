//! The output of jobs on its way: from an agent to whoever follows it, at once; and to the database,
//! which alone decides what is acknowledged. Once an attempt has ended, its output is packed into
//! segments, which are kept in the database or in an object store, for as long as is wanted.

pub(crate) mod archive;
pub(crate) mod codec;
pub(crate) mod follow;
pub(crate) mod live;
pub(crate) mod objects;
pub(crate) mod retention;
mod writer;

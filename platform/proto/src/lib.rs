//! The `hodei.v1` wire protocol: generated gRPC code, and the conversions between what is on the wire
//! and the types of `hodei-core`.
//!
//! Whatever comes from outside is converted here, and refused here with the path of the bad field.

mod convert;
mod redact;

pub use convert::{
    InvalidMessage, MAX_MESSAGE_BYTES, frame_from_wire, frame_to_wire, moment, timestamp,
};

/// The generated messages, clients and servers of `hodei.v1`.
#[expect(
    missing_docs,
    clippy::large_enum_variant,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated; the .proto files carry the documentation"
)]
pub mod v1 {
    tonic::include_proto!("hodei.v1");
}

/// The compiled descriptors, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hodei.v1.bin"));

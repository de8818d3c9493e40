//! A run in one file, to be sent and looked at elsewhere: `evidence.tar.zst` has the report, which
//! says of a pass when what happened to its jobs, and all evidence of what did not pass.
//!
//! It is a tar of plain files in one zstd frame. `report.json` is its first member, `contents.json` the
//! second; all others are below `evidence/`. What writes it stays within the limits below, and what
//! reads it takes it for a stranger's: nothing in it is trusted to be as long as it says, or to be where
//! it says.

mod pack;
mod read;

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

pub use pack::pack;
pub(super) use read::{extract, is_archive, report};

/// The name under which a run leaves its archive beside its report.
pub const NAME: &str = "evidence.tar.zst";
/// The value of [`Contents::schema`].
pub const SCHEMA: &str = "hodei-e2e-evidence/1";

/// The first member.
const REPORT: &str = "report.json";
/// The second member.
const CONTENTS: &str = "contents.json";
/// The largest file of evidence that is kept whole, in bytes; of a larger one its end is kept.
const LARGEST_FILE: u64 = 16 * 1024 * 1024;
/// All bytes of an archive once decompressed, at most.
const LARGEST: u64 = 512 * 1024 * 1024;
/// Members, at most: a case of five hundred pods has a log of each.
const MOST_MEMBERS: usize = 20_000;
/// The window that a decompressor has to keep, as a power of two in bytes (8 MiB).
const WINDOW_LOG: u32 = 23;

/// What is in an archive, and what is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// `hodei-e2e-evidence/1`.
    pub schema: String,
    /// The run.
    pub run: String,
    /// Files of evidence, in the order in which they follow.
    pub files: Vec<Packed>,
    /// Files for which there was no room, or whose names are too long.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub left_out: Vec<String>,
}

/// A file of evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// Where it is, relative to the run's directory.
    pub path: String,
    /// Its bytes in the archive.
    pub bytes: u64,
    /// Bytes that it had before these; 0 for a whole file.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub cut_bytes: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Whether a member may have this name: a path below `evidence/` without a way out of it.
fn is_evidence(path: &str) -> bool {
    let path = Path::new(path);
    let mut parts = path.components();
    let below = parts.next() == Some(Component::Normal("evidence".as_ref()));
    let rest: Vec<_> = parts.collect();
    let plain = rest.iter().all(|part| matches!(part, Component::Normal(_)));
    // What it is made of is all that it is: no doubled or closing slash, no "." in it.
    let again: std::path::PathBuf = path.components().collect();
    below && plain && !rest.is_empty() && again.as_os_str() == path.as_os_str()
}

#[cfg(test)]
mod tests;

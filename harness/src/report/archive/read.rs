//! Reading an archive that may be anyone's. Nothing of it is taken into memory or written down before
//! it is known to be within its limits.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use tar::{Archive, EntryType};

use super::{CONTENTS, LARGEST, LARGEST_FILE, MOST_MEMBERS, REPORT, WINDOW_LOG, is_evidence};
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::report::LARGEST as LARGEST_REPORT;

/// How a zstd frame begins.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Whether a file is to be read as an archive.
pub(in crate::report) fn is_archive(begins: &[u8]) -> bool {
    begins.starts_with(&MAGIC)
}

/// The report in the archive at `path`, as JSON.
///
/// # Errors
/// It cannot be read, is no archive of this tool, or is larger than any; the error says which.
pub(in crate::report) fn report(path: &Path) -> Result<Vec<u8>> {
    let mut report = Vec::new();
    visit(path, |member, content| {
        if member != REPORT {
            return Ok(Next::Stop);
        }
        content.read_to_end(&mut report)?;
        Ok(Next::Go)
    })?;
    Ok(report)
}

/// Writes the files right below `directory` of the archive at `path` to the same places below `into`.
/// Returns how many they were.
///
/// # Errors
/// As for [`report`]; or a file cannot be written.
pub(in crate::report) fn extract(path: &Path, directory: &str, into: &Path) -> Result<usize> {
    let mut written = 0;
    visit(path, |member, content| {
        let wanted = member.rsplit_once('/').is_some_and(|(parent, _)| parent == directory);
        if wanted && is_evidence(member) {
            let target = into.join(member);
            std::fs::create_dir_all(target.parent().unwrap_or(into))?;
            let mut options = File::options();
            io::copy(content, &mut options.write(true).create_new(true).open(target)?)?;
            written += 1;
        }
        Ok(Next::Go)
    })?;
    Ok(written)
}

/// Whether the members that follow are wanted.
enum Next {
    Go,
    Stop,
}

fn visit(path: &Path, see: impl FnMut(&str, &mut dyn Read) -> io::Result<Next>) -> Result<()> {
    let subject = || format!("the archive {}", path.display());
    let harness = FailureClass::Harness;
    let file = File::open(path).classify(harness, "read", subject())?;
    read(io::BufReader::new(file), see)
        .map_err(|cause| HarnessError::new(harness, "understand", subject(), cause))
}

/// Shows each member to `see`, in order.
fn read(
    from: impl io::BufRead,
    mut see: impl FnMut(&str, &mut dyn Read) -> io::Result<Next>,
) -> std::result::Result<(), String> {
    let mut zstd =
        zstd::stream::read::Decoder::with_buffer(from).map_err(|error| error.to_string())?;
    zstd.window_log_max(WINDOW_LOG).map_err(|error| error.to_string())?;
    let mut tar = Archive::new(Limited { inner: zstd, left: LARGEST });
    let not_tar = |error: io::Error| format!("it is damaged, or no tar in a zstd file: {error}");
    let mut seen = BTreeSet::new();
    // Raw: a header that stands for the next one's name would be read whole, whatever its length.
    for entry in tar.entries().map_err(not_tar)?.raw(true) {
        let mut entry = entry.map_err(not_tar)?;
        let name = entry.path_bytes().into_owned();
        let said = String::from_utf8_lossy(&name).into_owned();
        let Ok(name) = String::from_utf8(name) else {
            return Err(format!("the name of its member {said:?} is not UTF-8"));
        };
        let limit = limit(&name, seen.len())?;
        if entry.header().entry_type() != EntryType::Regular {
            return Err(format!("its member {name:?} is no plain file"));
        }
        let bytes = entry.size();
        if bytes > limit {
            return Err(format!("its member {name:?} has {bytes} bytes, and may have {limit}"));
        }
        if !seen.insert(name.clone()) {
            return Err(format!("its member {name:?} is there twice"));
        }
        if seen.len() > MOST_MEMBERS {
            return Err(format!("it has more than {MOST_MEMBERS} members"));
        }
        let mut content = Counted { inner: &mut entry, read: 0 };
        let next = see(&name, &mut content);
        let mut all = next.and_then(|next| io::copy(&mut content, &mut io::sink()).map(|_| next));
        if all.is_ok() && content.read != bytes {
            all = Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        match all.map_err(|error| format!("its member {name:?}: {error}"))? {
            Next::Go => {}
            Next::Stop => return Ok(()),
        }
    }
    // The end of a tar is before that of its frame, and of the checksum there.
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(not_tar)?;
    if seen.is_empty() { Err("it is empty".to_owned()) } else { Ok(()) }
}

/// The bytes that a member of this name may have.
fn limit(name: &str, place: usize) -> std::result::Result<u64, String> {
    match (name, place) {
        (REPORT, 0) => Ok(LARGEST_REPORT),
        (CONTENTS, 1) => Ok(LARGEST_REPORT),
        (_, 2..) if is_evidence(name) => Ok(LARGEST_FILE),
        (_, 0) => Err(format!("its first member is {name:?}, and not {REPORT}")),
        _ => Err(format!("its member {name:?} is neither {CONTENTS} nor below evidence/")),
    }
}

/// Fails where more comes out than an archive may hold.
struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let Some(left) = self.left.checked_sub(read as u64) else {
            let cause = format!("it holds more than {LARGEST} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, cause));
        };
        self.left = left;
        Ok(read)
    }
}

/// Says how much was read.
struct Counted<'a> {
    inner: &'a mut dyn Read,
    read: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod outside_input;

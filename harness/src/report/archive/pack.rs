//! Writing an archive: which files of a run go into it, and how much of each.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::{
    CONTENTS, Contents, LARGEST, LARGEST_FILE, MOST_MEMBERS, Packed, REPORT, SCHEMA, WINDOW_LOG,
    is_evidence,
};
use crate::failure::{Classify, FailureClass, Result};
use crate::report::Report;
use crate::verdict::Result as Counted;

/// Packs `report` and the evidence of what did not pass, which is below `run`, into `file`. What was
/// there before is replaced in one step.
///
/// # Errors
/// The report is too large for an archive, or a file cannot be written. Evidence that cannot be read is
/// named in the archive and left out.
pub fn pack(report: &Report, run: &Path, file: &Path) -> Result<Contents> {
    let harness = FailureClass::Harness;
    let subject = || format!("the archive {}", file.display());
    let text = serde_json::to_vec(report).classify(harness, "encode", "the report")?;
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory).classify(
        harness,
        "make",
        directory.display().to_string(),
    )?;
    let part = tempfile::Builder::new().prefix(".evidence-").tempfile_in(directory);
    let mut part = part.classify(harness, "write", subject())?;
    let contents = write(report, &text, run, part.as_file_mut());
    let contents = contents.classify(harness, "write", subject())?;
    part.persist(file).classify(harness, "write", subject())?;
    Ok(contents)
}

fn write(report: &Report, text: &[u8], run: &Path, out: impl Write) -> std::io::Result<Contents> {
    let (files, left_out) =
        chosen(report, run, LARGEST.saturating_sub(overhead(text.len() as u64)));
    let contents = Contents {
        schema: SCHEMA.into(),
        run: report.run.clone(),
        files: files.iter().map(|file| file.packed.clone()).collect(),
        left_out,
    };
    let mut zstd = zstd::stream::write::Encoder::new(out, 0)?;
    zstd.window_log(WINDOW_LOG)?;
    zstd.include_checksum(true)?;
    let mut tar = Builder::new(zstd);
    add(&mut tar, REPORT, text.len() as u64, text)?;
    let listed = serde_json::to_vec(&contents)?;
    add(&mut tar, CONTENTS, listed.len() as u64, &*listed)?;
    for file in files {
        let Packed { path, bytes, .. } = &file.packed;
        // It may have grown or shrunk since it was looked at: it is as long as was said.
        let read = File::open(&file.from).and_then(|mut from| {
            from.seek(SeekFrom::Start(file.packed.cut_bytes))?;
            Ok(from)
        });
        let empty = std::io::repeat(b' ');
        match read {
            Ok(from) => add(&mut tar, path, *bytes, from.chain(empty).take(*bytes))?,
            Err(_) => add(&mut tar, path, *bytes, empty.take(*bytes))?,
        }
    }
    tar.into_inner()?.finish()?.flush()?;
    Ok(contents)
}

fn add(
    tar: &mut Builder<impl Write>,
    path: &str,
    bytes: u64,
    content: impl Read,
) -> std::io::Result<()> {
    let mut header = plain(path)?;
    header.set_size(bytes);
    header.set_cksum();
    tar.append(&header, content)
}

/// A header that says nothing of the machine it was made on.
fn plain(path: &str) -> std::io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(path)?;
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_mtime(0);
    Ok(header)
}

/// What a member takes beside its content, and the content in whole blocks.
fn overhead(bytes: u64) -> u64 {
    bytes.next_multiple_of(512) + 512
}

struct Chosen {
    from: PathBuf,
    packed: Packed,
}

/// Files of evidence of what did not pass, first failure first, as far as there is room for them.
fn chosen(report: &Report, run: &Path, room: u64) -> (Vec<Chosen>, Vec<String>) {
    // The list of the files and the end of the archive are in it, too.
    let mut room = room.saturating_sub(LARGEST / 16);
    let (mut files, mut left_out) = (Vec::new(), Vec::new());
    for directory in directories(report) {
        for name in names(&run.join(&directory)) {
            let (path, from) = (format!("{directory}/{name}"), run.join(&directory).join(&name));
            let Ok(metadata) = std::fs::symlink_metadata(&from) else { continue };
            let bytes = metadata.len().min(LARGEST_FILE);
            let fits = overhead(bytes) <= room && files.len() + 2 < MOST_MEMBERS;
            if !metadata.is_file() || !fits || plain(&path).is_err() || File::open(&from).is_err() {
                left_out.push(path);
                continue;
            }
            room -= overhead(bytes);
            let cut_bytes = metadata.len() - bytes;
            files.push(Chosen { from, packed: Packed { path, bytes, cut_bytes } });
        }
    }
    left_out.truncate(MOST_MEMBERS);
    (files, left_out)
}

/// Where that evidence is, relative to the run; each once.
fn directories(report: &Report) -> Vec<String> {
    let first = super::super::html::first_evidence(report).map(str::to_owned);
    let missed = report.cases.iter().filter(|case| case.result != Counted::Passed);
    let of_cases = missed.flat_map(|case| {
        let rounds = case.missed_rounds().into_iter().map(|round| &round.evidence);
        std::iter::once(&case.evidence).chain(rounds)
    });
    let mut all: Vec<String> = Vec::new();
    for directory in first.into_iter().chain(of_cases.cloned()) {
        if is_evidence(&directory) && !all.contains(&directory) {
            all.push(directory);
        }
    }
    all
}

/// The files right in a directory, by name.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| is_evidence(&format!("evidence/{name}"))).collect();
    names.sort();
    names
}

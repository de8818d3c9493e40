//! Where output waits on disk while there is no link: files without a name, so that the job does not find
//! them and nothing is left of them, whatever ends the agent.
//!
//! What is moved here at once is one block, encoded as a batch on the wire. Blocks lie one after the other
//! in segments; a segment whose blocks were all acknowledged is closed, and with that its space is free. In
//! memory there is an entry a block, and the last block that was read.

use std::{collections::VecDeque, fs::File, io, os::unix::fs::FileExt as _, path::PathBuf};

use bytes::Bytes;
use hodei_core::session::{Frame, NotSpooled, Spool, Unreadable};
use hodei_proto::{frame_from_wire, frame_to_wire, v1::LogBatch};
use jiff::Timestamp;
use prost::Message as _;

/// Files that a spool has open, about, when it is full.
const SEGMENTS: usize = 32;

/// The spool of one attempt.
#[derive(Debug)]
pub struct DiskSpool {
    directory: PathBuf,
    bound: usize,
    /// Bytes of all segments.
    used: usize,
    segments: VecDeque<Segment>,
    /// The block that was read last, by its first frame.
    read: Option<(u64, Vec<Frame>)>,
}

/// A file of blocks.
#[derive(Debug)]
struct Segment {
    file: File,
    bytes: usize,
    blocks: VecDeque<Block>,
}

/// Frames that were moved at once.
#[derive(Debug, Clone, Copy)]
struct Block {
    first: u64,
    last: u64,
    offset: usize,
    bytes: usize,
    /// Bytes of output in it.
    output: u64,
    since: Timestamp,
    until: Timestamp,
}

impl DiskSpool {
    /// An empty spool of at most `bound` bytes in files of this directory; none are made before they are
    /// needed.
    #[must_use]
    pub fn new(directory: PathBuf, bound: usize) -> Self {
        Self { directory, bound, used: 0, segments: VecDeque::new(), read: None }
    }

    fn write(&mut self, first: &Frame, last: &Frame, frames: &[Frame]) -> io::Result<()> {
        let wire = frames.iter().cloned().map(frame_to_wire).collect();
        let encoded = LogBatch { attempt: None, frames: wire }.encode_to_vec();
        if encoded.len() > self.room() {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                "more than the spool's bound",
            ));
        }
        let most = self.bound.div_ceil(SEGMENTS);
        let mut segment = match self.segments.pop_back_if(|segment| segment.bytes < most) {
            Some(segment) => segment,
            None => Segment {
                file: tempfile::tempfile_in(&self.directory)?,
                bytes: 0,
                blocks: VecDeque::new(),
            },
        };
        let written = segment.append(&encoded, |offset| Block {
            first: first.sequence,
            last: last.sequence,
            offset,
            bytes: encoded.len(),
            output: frames.iter().map(output_bytes).sum(),
            since: first.time,
            until: last.time,
        });
        if written.is_ok() {
            self.used += encoded.len();
        }
        if !segment.blocks.is_empty() {
            self.segments.push_back(segment);
        }
        written
    }

    /// The block that holds a frame, and its segment's file.
    fn find(&self, sequence: u64) -> Option<(Block, &File)> {
        let before = |segment: &Segment| segment.last() < sequence;
        let segment = self.segments.get(self.segments.partition_point(before))?;
        let index = segment.blocks.partition_point(|block| block.last < sequence);
        segment.blocks.get(index).map(|block| (*block, &segment.file))
    }
}

fn output_bytes(frame: &Frame) -> u64 {
    u64::try_from(frame.data.len()).unwrap_or(u64::MAX)
}

impl Segment {
    fn last(&self) -> u64 {
        self.blocks.back().map_or(0, |block| block.last)
    }

    fn append(&mut self, encoded: &[u8], block: impl FnOnce(usize) -> Block) -> io::Result<()> {
        if let Err(error) = self.file.write_all_at(encoded, to_offset(self.bytes)) {
            // Part of it may be there, and may be what the disk has no room for.
            if let Err(error) = self.file.set_len(to_offset(self.bytes)) {
                tracing::debug!(%error, "part of a block stays in the spool");
            }
            return Err(error);
        }
        self.blocks.push_back(block(self.bytes));
        self.bytes += encoded.len();
        Ok(())
    }
}

fn to_offset(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("a spool is smaller than what a file can be")
}

impl Block {
    fn read(&self, file: &File) -> io::Result<Vec<Frame>> {
        let mut encoded = vec![0; self.bytes];
        file.read_exact_at(&mut encoded, to_offset(self.offset))?;
        let batch = LogBatch::decode(Bytes::from(encoded))?;
        let frames: Result<Vec<_>, _> = batch.frames.into_iter().map(frame_from_wire).collect();
        let frames = frames.map_err(io::Error::other)?;
        if frames.iter().map(|frame| frame.sequence).eq(self.first..=self.last) {
            Ok(frames)
        } else {
            Err(io::Error::other("these are other frames than were written"))
        }
    }

    /// What is lost with its frames from that one on.
    fn lost_from(&self, from: u64) -> Unreadable {
        let (left, all) = (self.last - from + 1, self.last - self.first + 1);
        let bytes = u128::from(self.output) * u128::from(left) / u128::from(all);
        Unreadable {
            through: self.last,
            bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
            since: self.since,
            until: self.until,
        }
    }
}

impl Spool for DiskSpool {
    fn room(&self) -> usize {
        self.bound.saturating_sub(self.used)
    }

    fn append(&mut self, frames: &[Frame]) -> Result<(), NotSpooled> {
        let (Some(first), Some(last)) = (frames.first(), frames.last()) else { return Ok(()) };
        self.write(first, last, frames).map_err(|error| {
            let directory = self.directory.display();
            tracing::warn!(%directory, %error, spooled = self.used, "output cannot be written to disk");
            NotSpooled
        })
    }

    fn read(&mut self, from: u64, most: usize) -> Result<Vec<Frame>, Unreadable> {
        let last_read = self.read.take();
        let Some((block, file)) = self.find(from) else {
            tracing::error!(frame = from, "the spool does not have what it is asked for");
            let now = Timestamp::now();
            return Err(Unreadable { through: from, bytes: 0, since: now, until: now });
        };
        let frames = match last_read.filter(|(first, _)| *first == block.first) {
            Some((_, frames)) => frames,
            None => block.read(file).map_err(|error| {
                let (first, last) = (from, block.last);
                tracing::error!(first, last, %error, "output cannot be read from disk: it is lost");
                block.lost_from(from)
            })?,
        };
        let skipped = usize::try_from(from - block.first).unwrap_or(usize::MAX);
        let asked = frames.iter().skip(skipped).take(most).cloned().collect();
        self.read = Some((block.first, frames));
        Ok(asked)
    }

    fn release(&mut self, through: u64) {
        while let Some(segment) = self.segments.front_mut() {
            while segment.blocks.pop_front_if(|block| block.last <= through).is_some() {}
            if !segment.blocks.is_empty() {
                break;
            }
            self.used -= segment.bytes;
            self.segments.pop_front();
        }
        self.read.take_if(|(_, frames)| frames.last().is_none_or(|last| last.sequence <= through));
    }

    fn fresh(&self) -> Self {
        Self::new(self.directory.clone(), self.bound)
    }
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;

use std::{fs, path::Path};

use hodei_core::session::{FRAME_COST, Gap, GapCause, OutputStream};
use proptest::prelude::*;

use super::*;

fn frame(sequence: u64, bytes: usize) -> Frame {
    let time = Timestamp::from_second(i64::try_from(sequence).unwrap()).unwrap();
    let lost =
        Gap { bytes: 7, frames: 3, since: Timestamp::UNIX_EPOCH, cause: GapCause::SpoolFull };
    Frame {
        sequence,
        stream: if sequence.is_multiple_of(3) {
            OutputStream::Stderr
        } else {
            OutputStream::Stdout
        },
        time,
        data: vec![u8::try_from(sequence % 251).unwrap(); bytes].into(),
        gap: sequence.is_multiple_of(17).then_some(lost),
    }
}

fn cost(frames: &[Frame]) -> usize {
    frames.iter().map(|frame| frame.data.len() + FRAME_COST).sum()
}

/// What a spool has open, in bytes on the disk.
fn on_disk(spool: &DiskSpool) -> u64 {
    spool.segments.iter().map(|segment| segment.file.metadata().unwrap().len()).sum()
}

#[derive(Debug, Clone)]
enum Step {
    /// So many frames of that size.
    Append(usize, usize),
    /// So many frames from so far behind the first on.
    Read(usize, usize),
    Release(usize),
    /// The next attempt begins.
    Fresh,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = prop_oneof![0_usize..40, 1_000_usize..9_000];
    let step = prop_oneof![
        4 => (1_usize..30, bytes).prop_map(|(count, bytes)| Step::Append(count, bytes)),
        4 => (any::<usize>(), 1_usize..60).prop_map(|(skip, most)| Step::Read(skip, most)),
        2 => (0_usize..60).prop_map(Step::Release),
        1 => Just(Step::Fresh),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #[test]
    fn a_spool_is_a_list_of_frames_within_a_bound(steps in steps(), bound in 0_usize..400_000) {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = DiskSpool::new(directory.path().into(), bound);
        let (mut model, mut last) = (Vec::<Frame>::new(), 0);
        for step in steps {
            match step {
                Step::Append(count, bytes) => {
                    let frames: Vec<_> = (last + 1..).take(count).map(|n| frame(n, bytes)).collect();
                    if cost(&frames) <= spool.room() {
                        prop_assert_eq!(spool.append(&frames), Ok(()), "what there is room for is kept");
                        last += u64::try_from(count).unwrap();
                        model.extend(frames);
                    }
                }
                Step::Read(skip, most) if !model.is_empty() => {
                    let skip = skip % model.len();
                    let read = spool.read(model[skip].sequence, most).unwrap();
                    prop_assert!(!read.is_empty() && read.len() <= most);
                    prop_assert_eq!(&read[..], &model[skip..skip + read.len()]);
                }
                Step::Read(..) => {}
                Step::Release(count) => {
                    let gone: Vec<_> = model.drain(..count.min(model.len())).collect();
                    gone.last().into_iter().for_each(|frame| spool.release(frame.sequence));
                }
                Step::Fresh => (spool, model, last) = (spool.fresh(), Vec::new(), 0),
            }
            prop_assert!(on_disk(&spool) <= bound as u64);
            prop_assert_eq!(spool.used as u64, on_disk(&spool));
            prop_assert!(!model.is_empty() || spool.segments.is_empty(), "space is given back");
            prop_assert!(spool.segments.len() <= SEGMENTS + 1);
            prop_assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "no file has a name");
        }
    }
}

fn filled(directory: &Path) -> DiskSpool {
    let mut spool = DiskSpool::new(directory.into(), 1 << 20);
    for block in [1..=4, 5..=8] {
        let frames: Vec<_> = block.map(|sequence| frame(sequence, 100)).collect();
        spool.append(&frames).unwrap();
    }
    spool
}

#[test]
fn a_disk_that_takes_nothing_leaves_the_spool_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = filled(directory.path());
    let (room, segment) = (spool.room(), spool.segments.back_mut().unwrap());
    let read_only = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&segment.file));
    let writable = std::mem::replace(&mut segment.file, File::open(read_only).unwrap());
    assert_eq!(spool.append(&[frame(9, 100)]), Err(NotSpooled));
    assert_eq!((spool.room(), spool.read(8, 9).unwrap().len()), (room, 1));
    spool.segments.back_mut().unwrap().file = writable;
    assert_eq!(spool.append(&[frame(9, 100)]), Ok(()));
    assert_eq!(spool.read(9, 9).unwrap(), [frame(9, 100)]);
    let mut nowhere = DiskSpool::new(directory.path().join("absent"), 1 << 20);
    assert_eq!(nowhere.append(&[frame(1, 100)]), Err(NotSpooled));
    assert_eq!(nowhere.room(), 1 << 20);
}

#[test]
fn more_than_the_bound_is_refused_whole() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = DiskSpool::new(directory.path().into(), 1_000);
    assert_eq!(spool.append(&[frame(1, 400), frame(2, 700)]), Err(NotSpooled));
    assert_eq!((spool.room(), on_disk(&spool)), (1_000, 0));
    assert_eq!(spool.append(&[frame(1, 700)]), Ok(()));
}

#[test]
fn blocks_that_are_damaged_are_lost_as_a_whole_and_the_others_are_not() {
    type Damage = fn(&File, &Block);
    let directory = tempfile::tempdir().unwrap();
    let cut: Damage = |file, block| file.set_len(block.offset as u64 + 9).unwrap();
    let garble: Damage = |file, block| {
        file.write_all_at(&vec![0xff; block.bytes], block.offset as u64).unwrap();
    };
    let mix: Damage = |file, block| {
        let mut other = vec![0; block.bytes];
        file.read_exact_at(&mut other, 0).unwrap();
        file.write_all_at(&other, block.offset as u64).unwrap();
    };
    for damage in [cut, garble, mix] {
        let mut spool = filled(directory.path());
        let second = spool.find(5).unwrap();
        damage(second.1, &second.0);
        let (since, until) = (frame(5, 0).time, frame(8, 0).time);
        let lost = |bytes| Err(Unreadable { through: 8, bytes, since, until });
        assert_eq!((spool.read(5, 9), spool.read(7, 9)), (lost(400), lost(200)));
        assert_eq!(spool.read(2, 9).unwrap().len(), 3);
    }
}

mod outside_input {
    use super::*;

    proptest! {
        /// What a disk gives back is anything, after a crash of the node for one.
        #[test]
        fn a_block_is_read_with_its_numbers_or_is_said_to_be_lost(
            damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
            all in prop::option::weighted(0.2, prop::collection::vec(any::<u8>(), 0..900)),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut spool = filled(directory.path());
            let (_, file) = spool.find(1).unwrap();
            let length = file.metadata().unwrap().len();
            let mut bytes = vec![0; usize::try_from(length).unwrap()];
            file.read_exact_at(&mut bytes, 0).unwrap();
            for (place, byte) in &damages {
                *place.get_mut(&mut bytes) = *byte;
            }
            let bytes = all.unwrap_or(bytes);
            file.write_all_at(&bytes, 0).unwrap();
            if let Some(cut) = cut {
                file.set_len(cut.index(bytes.len() + 1) as u64).unwrap();
            }
            for (first, last) in [(1, 4), (5, 8)] {
                match spool.read(first, 9) {
                    Ok(frames) => {
                        let numbers = frames.iter().map(|frame| frame.sequence);
                        prop_assert!(numbers.eq(first..=last));
                    }
                    Err(lost) => prop_assert_eq!((lost.through, lost.bytes), (last, 400)),
                }
            }
        }
    }
}

//! How log payloads are stored: compressed with zstd where that makes them smaller.
//!
//! Measured with an optimised build on 64 KiB of time-stamped log lines, one core: level -1 leaves 25,746
//! bytes and takes 226 µs, level 1 19,572 bytes and 241 µs, level 3 18,830 bytes and 305 µs, level 7
//! 18,309 bytes and 1,382 µs; decompressing takes 75 to 120 µs. 64 KiB that do not get smaller cost 18 µs
//! at level 1. Of 4 MiB, level 3 leaves 28.0 % in 53 ms, level 7 26.3 % in 187 ms.

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// For chunks: an agent waits for its acknowledgement.
const CHUNK_LEVEL: i32 = 1;
/// For segments: nobody waits, and they are kept for long.
const SEGMENT_LEVEL: i32 = 3;
/// Shorter payloads do not get smaller.
const LEAST_BYTES: usize = 128;
/// Longer ones are not compressed or decompressed on a thread that serves others.
const INLINE_BYTES: usize = 64 << 10;
/// Most bytes that anything decodes to: a segment of 4 MiB and a chunk more, and some room.
pub(crate) const MOST_PLAIN_BYTES: usize = 8 << 20;

/// How a payload is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Plain,
    Zstd,
}

impl Encoding {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Zstd => "zstd",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Plain, Self::Zstd].into_iter().find(|encoding| encoding.as_str() == text)
    }
}

/// A payload as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) encoding: Encoding,
    /// Bytes once decoded.
    pub(crate) plain_bytes: usize,
    pub(crate) payload: Bytes,
}

/// Why a payload cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    /// Nothing that was stored here is so large.
    #[error("it says it holds {0} bytes, more than anything stored")]
    TooLarge(usize),
    #[error("it holds {found} bytes, not {expected}")]
    Length { expected: usize, found: usize },
    #[error("zstd: {0}")]
    Zstd(std::io::Error),
    #[error("its SHA-256 is another one")]
    Checksum,
    #[error("the work was stopped")]
    Stopped,
}

async fn off_thread<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if bytes <= INLINE_BYTES {
        return Some(work());
    }
    tokio::task::spawn_blocking(work).await.ok()
}

/// A chunk as it is stored: compressed, unless that does not make it smaller.
pub(crate) async fn pack_chunk(plain: Bytes) -> Packed {
    let plain_bytes = plain.len();
    let stored = Packed { encoding: Encoding::Plain, plain_bytes, payload: plain.clone() };
    if plain_bytes < LEAST_BYTES {
        return stored;
    }
    let compressed =
        off_thread(plain_bytes, move || zstd::bulk::compress(&plain, CHUNK_LEVEL)).await;
    match compressed {
        Some(Ok(smaller)) if smaller.len() < plain_bytes => {
            Packed { encoding: Encoding::Zstd, plain_bytes, payload: smaller.into() }
        }
        _ => stored,
    }
}

/// The plain bytes of a chunk; never more than it says, nor than [`MOST_PLAIN_BYTES`].
pub(crate) async fn unpack_chunk(packed: Packed) -> Result<Bytes, CodecError> {
    match packed.encoding {
        Encoding::Plain => Ok(packed.payload),
        Encoding::Zstd => decompress(packed.payload, packed.plain_bytes).await,
    }
}

async fn decompress(stored: Bytes, expected: usize) -> Result<Bytes, CodecError> {
    if expected > MOST_PLAIN_BYTES {
        return Err(CodecError::TooLarge(expected));
    }
    let work = move || zstd::bulk::decompress(&stored, expected).map_err(CodecError::Zstd);
    let plain = off_thread(expected, work).await.ok_or(CodecError::Stopped)??;
    match plain.len() {
        found if found == expected => Ok(plain.into()),
        found => Err(CodecError::Length { expected, found }),
    }
}

/// A segment's bytes as they are stored, and the SHA-256 of the plain ones.
pub(crate) async fn pack_segment(plain: Bytes) -> Result<(Bytes, [u8; 32]), CodecError> {
    if plain.len() > MOST_PLAIN_BYTES {
        return Err(CodecError::TooLarge(plain.len()));
    }
    let work = move || {
        let stored = zstd::bulk::compress(&plain, SEGMENT_LEVEL).map_err(CodecError::Zstd)?;
        Ok((Bytes::from(stored), Sha256::digest(&plain).into()))
    };
    off_thread(usize::MAX, work).await.ok_or(CodecError::Stopped)?
}

/// The plain bytes of a segment, which are those that were packed.
pub(crate) async fn unpack_segment(
    stored: Bytes,
    plain_bytes: usize,
    checksum: [u8; 32],
) -> Result<Bytes, CodecError> {
    let plain = decompress(stored, plain_bytes).await?;
    let work = move || {
        let found: [u8; 32] = Sha256::digest(&plain).into();
        (found == checksum).then_some(plain)
    };
    off_thread(plain_bytes, work).await.ok_or(CodecError::Stopped)?.ok_or(CodecError::Checksum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_decodes_to_more_than_it_says() {
        let bomb = Bytes::from(zstd::bulk::compress(&vec![0; 1 << 20], 1).unwrap());
        let packed =
            |plain_bytes| Packed { encoding: Encoding::Zstd, plain_bytes, payload: bomb.clone() };
        assert!(matches!(unpack_chunk(packed(1000)).await, Err(CodecError::Zstd(_))));
        let huge = unpack_chunk(packed(MOST_PLAIN_BYTES + 1)).await;
        assert!(matches!(huge, Err(CodecError::TooLarge(_))));
        let short = unpack_chunk(packed(MOST_PLAIN_BYTES)).await;
        assert!(matches!(short, Err(CodecError::Length { found, .. }) if found == 1 << 20));
    }

    #[tokio::test]
    async fn a_segment_with_other_bytes_is_noticed() {
        let (stored, checksum) = pack_segment(Bytes::from_static(b"as it was")).await.unwrap();
        let (other, _) = pack_segment(Bytes::from_static(b"otherwise")).await.unwrap();
        assert!(unpack_segment(stored, 9, checksum).await.is_ok());
        assert!(matches!(unpack_segment(other, 9, checksum).await, Err(CodecError::Checksum)));
    }
}

#[cfg(test)]
mod outside_input {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn plain() -> impl Strategy<Value = Bytes> {
        let of_one = (any::<u8>(), 0_usize..70_000).prop_map(|(byte, length)| vec![byte; length]);
        prop_oneof![4 => vec(any::<u8>(), 0..1_000), 1 => of_one].prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(plain in plain()) {
            let packed = block_on(pack_chunk(plain.clone()));
            prop_assert!(packed.payload.len() <= plain.len());
            prop_assert_eq!(packed.encoding == Encoding::Zstd, packed.payload.len() < plain.len());
            prop_assert_eq!(&block_on(unpack_chunk(packed)).unwrap(), &plain);
            let (stored, checksum) = block_on(pack_segment(plain.clone())).unwrap();
            let unpacked = block_on(unpack_segment(stored, plain.len(), checksum));
            prop_assert_eq!(&unpacked.unwrap(), &plain);
        }

        #[test]
        fn any_stored_bytes_are_what_they_say_or_refused(
            stored in vec(any::<u8>(), 0..200), plain_bytes in prop_oneof![0_usize..400, any::<usize>()],
        ) {
            let stored = Bytes::from(stored);
            let packed = Packed { encoding: Encoding::Zstd, plain_bytes, payload: stored.clone() };
            if let Ok(plain) = block_on(unpack_chunk(packed)) {
                prop_assert_eq!(plain.len(), plain_bytes);
            }
            let unpacked = block_on(unpack_segment(stored, plain_bytes, [0; 32]));
            prop_assert!(unpacked.is_err(), "nothing has this checksum");
        }

        #[test]
        fn a_segment_that_was_damaged_is_never_given_for_another(
            plain in vec(any::<u8>(), 1..600), place in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let plain = Bytes::from(plain);
            let (stored, checksum) = block_on(pack_segment(plain.clone())).unwrap();
            let mut damaged = stored.to_vec();
            *place.get_mut(&mut damaged) = byte;
            if let Ok(unpacked) = block_on(unpack_segment(damaged.into(), plain.len(), checksum)) {
                prop_assert_eq!(unpacked, plain);
            }
        }

        #[test]
        fn any_text_is_an_encoding_by_its_name_alone(text in prop_oneof![any::<String>(), "(plain|zstd)?"]) {
            if let Some(encoding) = Encoding::parse(&text) {
                prop_assert_eq!(encoding.as_str(), text);
            }
        }
    }
}

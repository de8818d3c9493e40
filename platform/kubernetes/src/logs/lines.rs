//! Bytes cut into lines of a bounded length, however the bytes arrive.

/// Longest line that is kept, in bytes, with room for the time before a message of 1 MiB.
pub(super) const LONGEST: usize = (1 << 20) + 64;

/// The line that is being read.
#[derive(Debug, Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    /// Bytes of it that were too many.
    left_out: u64,
    begun: bool,
}

impl Lines {
    /// Takes bytes in, and gives every line that they complete.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut give: impl FnMut(String)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..end]);
            self.begun = true;
            bytes = &bytes[end + 1..];
            give(self.finish().expect("the line has an end, so it has begun"));
        }
        self.extend(bytes);
    }

    /// The last line, where it has no end.
    pub(super) fn finish(&mut self) -> Option<String> {
        if !std::mem::take(&mut self.begun) {
            return None;
        }
        let left_out = std::mem::take(&mut self.left_out);
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        Some(match left_out {
            0 => text.into_owned(),
            _ => format!("{text} [{left_out} bytes left out]"),
        })
    }

    /// Forgets a line that was not completed.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn extend(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(LONGEST - self.line.len());
        self.line.extend_from_slice(&bytes[..kept]);
        self.left_out += (bytes.len() - kept) as u64;
        self.begun |= !bytes.is_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn split<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for chunk in chunks {
            lines.push(chunk, |line| all.push(line));
        }
        all.extend(lines.finish());
        all
    }

    #[test]
    fn a_line_ends_at_its_end_and_nowhere_else() {
        for (bytes, expected) in [
            (&b""[..], &[][..]),
            (b"\n", &[""]),
            (b"a\n\nb", &["a", "", "b"]),
            (b"a\r\nb\n", &["a\r", "b"]),
            (b"\xff\xc3\n\xc3\xa9\n", &["\u{fffd}\u{fffd}", "\u{e9}"]),
        ] {
            assert_eq!(split([bytes]), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_line_too_long_is_cut_and_says_so() {
        let exact = vec![b'x'; LONGEST];
        assert_eq!(split([&exact[..]])[0].len(), LONGEST);
        let long = vec![b'x'; LONGEST + 7];
        let line = split([&long[..10], &long[10..], b"\nnext\n"]);
        assert!(line[0].ends_with("x [7 bytes left out]"), "{}", &line[0][LONGEST - 9..]);
        assert_eq!(line[1], "next");
    }
}

#[cfg(test)]
mod outside_input {
    use proptest::{collection::vec, prelude::*};

    use super::tests::split;

    proptest! {
        #[test]
        fn the_chunks_do_not_matter_and_no_text_is_lost(
            bytes in vec(prop_oneof![4 => prop::sample::select(b"a\n\xc3\xa9 ".to_vec()), 1 => any::<u8>()], 0..60),
            sizes in vec(1..7_usize, 60),
        ) {
            let mut rest = &bytes[..];
            let mut chunks = Vec::new();
            for size in sizes {
                let (chunk, more) = rest.split_at(size.min(rest.len()));
                chunks.push(chunk);
                rest = more;
            }
            let lines = split(chunks);
            prop_assert_eq!(&lines, &split([&bytes[..]]));
            let whole = lines.join("\n");
            let text = String::from_utf8_lossy(&bytes);
            prop_assert_eq!(whole, text.strip_suffix('\n').unwrap_or(&text));
        }
    }
}

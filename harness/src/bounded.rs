//! Text of unknown size and content, made fit to show: cut, without characters that a reader
//! cannot see, and read from the end of a file however large it is.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Characters of a headline.
pub const HEADLINE: usize = 200;

/// The first `limit` bytes of `text` at most, at a character's boundary; what is left out is said.
#[must_use]
pub fn cut(text: &str, limit: usize) -> Cow<'_, str> {
    if text.len() <= limit {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(limit);
    Cow::Owned(format!("{}\n[{} more bytes]", &text[..end], text.len() - end))
}

/// The first line of `text`, up to [`HEADLINE`] characters.
#[must_use]
pub fn headline(text: &str) -> Cow<'_, str> {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(HEADLINE) {
        Some((end, _)) => Cow::Owned(format!("{}…", &line[..end])),
        None => Cow::Borrowed(line),
    }
}

/// `text` with a sign in place of each control character but newline and tab, and of each that
/// turns the direction of writing: neither a terminal nor a page acts on what it shows.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if is_hidden(c) { sign_of(c) } else { c }).collect())
}

fn is_hidden(c: char) -> bool {
    let turns_direction =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (c.is_control() && c != '\n' && c != '\t') || turns_direction
}

/// The control pictures of Unicode for those that have one.
fn sign_of(c: char) -> char {
    match u32::from(c) {
        code @ 0..0x20 => char::from_u32(0x2400 + code).unwrap_or(char::REPLACEMENT_CHARACTER),
        0x7f => '\u{2421}',
        _ => char::REPLACEMENT_CHARACTER,
    }
}

/// The last lines of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail {
    /// In the file's order, without their ends; what is not UTF-8 is replaced.
    pub lines: Vec<String>,
    /// Whether something came before them.
    pub is_part: bool,
}

/// The whole lines in the last `limit` bytes of a regular file; of one longer line, its end.
///
/// # Errors
/// It is not a regular file or cannot be read.
pub fn tail(path: &Path, limit: u64) -> io::Result<Tail> {
    // A pipe of that name would be waited for without end.
    if !std::fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(limit);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if start > 0 && lines.len() > 1 {
        lines.remove(0);
    }
    Ok(Tail { lines, is_part: start > 0 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn a_cut_is_short_whole_and_says_what_is_missing(text in "\\PC{0,60}", limit in 0_usize..80) {
            let shown = cut(&text, limit);
            if text.len() <= limit {
                prop_assert_eq!(shown, text.as_str());
            } else {
                let (head, _) = shown.rsplit_once("\n[").unwrap();
                prop_assert!(head.len() <= limit && text.starts_with(head));
                let said = format!("\n[{} more bytes]", text.len() - head.len());
                prop_assert!(shown.ends_with(&said));
            }
        }

        #[test]
        fn nothing_hidden_is_left(text in any::<String>()) {
            let shown = visible(&text);
            prop_assert_eq!(shown.chars().count(), text.chars().count());
            prop_assert!(!shown.contains(is_hidden));
        }
    }

    #[test]
    fn control_characters_are_shown_as_signs() {
        assert_eq!(visible("a\u{1b}[31m\0\u{202e}b\n\tc"), "a␛[31m␀\u{fffd}b\n\tc");
    }

    #[test]
    fn a_headline_is_one_short_line() {
        assert_eq!(headline("one\ntwo"), "one");
        assert_eq!(headline(""), "");
        assert_eq!(headline(&"é".repeat(HEADLINE)), "é".repeat(HEADLINE));
        assert_eq!(headline(&"é".repeat(HEADLINE + 1)), "é".repeat(HEADLINE) + "…");
    }

    #[test]
    fn a_tail_has_whole_lines_and_only_of_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, b"first line\nsecond\nthird \xff\n").unwrap();
        let all = tail(&path, 1000).unwrap();
        assert_eq!(all.lines, ["first line", "second", "third \u{fffd}"]);
        assert!(!all.is_part);
        let last = tail(&path, 20).unwrap();
        assert_eq!((last.lines.len(), last.is_part), (2, true), "{last:?}");
        assert_eq!(last.lines[0], "second");
        let of_one = tail(&path, 4).unwrap();
        assert_eq!(of_one.lines, ["d \u{fffd}"]);
        assert!(tail(dir.path(), 10).is_err());
    }
}

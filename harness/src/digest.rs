//! Hashes of inputs: what names an image, a component, a cluster configuration, so that
//! nothing is built twice and nothing stale is used.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::failure::{Classify, Result};

/// Hex digits of a hash that go into a tag.
const TAG_DIGITS: usize = 12;

/// Collects named inputs. Name and length go in too, so that no two lists collide.
#[derive(Clone, Default)]
pub struct Inputs {
    hasher: Sha256,
}

impl Inputs {
    /// No input yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one input.
    #[must_use]
    pub fn add(mut self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let content = content.as_ref();
        for part in [name.as_bytes(), content] {
            self.hasher.update((part.len() as u64).to_le_bytes());
            self.hasher.update(part);
        }
        self
    }

    /// Adds a file, or a directory's files by relative path in sorted order.
    ///
    /// # Errors
    /// Something below `path` cannot be read.
    pub fn add_path(mut self, path: &Path) -> Result<Self> {
        let mut files = Vec::new();
        collect(path, &mut files)
            .and_then(|()| {
                files.sort();
                for file in &files {
                    let name = file.strip_prefix(path).unwrap_or(file).to_string_lossy();
                    let content = std::fs::read(file)?;
                    self = std::mem::take(&mut self).add(&name, content);
                }
                Ok(())
            })
            .infrastructure("read", path.display().to_string())?;
        Ok(self)
    }

    /// The hash so far, as short as a tag wants it.
    #[must_use]
    pub fn tag(&self) -> String {
        let digest = self.hasher.clone().finalize();
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        hex.chars().take(TAG_DIGITS).collect()
    }
}

fn collect(path: &Path, files: &mut Vec<std::path::PathBuf>) -> std::io::Result<()> {
    if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            collect(&entry?.path(), files)?;
        }
    } else {
        files.push(path.to_path_buf());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_every_input_counts() {
        let base = Inputs::new().add("a", "bc").tag();
        assert_eq!(base, Inputs::new().add("a", "bc").tag());
        assert_eq!(base.len(), TAG_DIGITS);
        for other in [
            Inputs::new().add("ab", "c"),
            Inputs::new().add("a", "b").add("", "c"),
            Inputs::new().add("a", "bd"),
        ] {
            assert_ne!(base, other.tag());
        }
    }

    #[test]
    fn a_directory_counts_by_names_and_contents() {
        let dir = tempfile::tempdir().unwrap();
        let tag = || Inputs::new().add_path(dir.path()).unwrap().tag();
        std::fs::write(dir.path().join("one"), "1").unwrap();
        let first = tag();
        std::fs::rename(dir.path().join("one"), dir.path().join("two")).unwrap();
        let renamed = tag();
        std::fs::write(dir.path().join("two"), "2").unwrap();
        assert_ne!(first, renamed);
        assert_ne!(renamed, tag());
    }
}

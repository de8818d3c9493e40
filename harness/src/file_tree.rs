//! Copies of files and trees, for build contexts.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A hard link where the file system allows it, else a copy.
pub(crate) fn link(from: &Path, to: &Path) -> std::io::Result<()> {
    to.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    std::fs::hard_link(from, to).or_else(|_| std::fs::copy(from, to).map(drop))
}

/// Copies a file or a tree of them; what runs is 0755 and what does not is 0644, as module caches
/// hold everything read-only.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    if from.is_dir() {
        std::fs::create_dir_all(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            copy_tree(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    let content = std::fs::read(from)?;
    let mode = if content.starts_with(b"#!") { 0o755 } else { 0o644 };
    std::fs::write(to, content)?;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_run_and_the_rest_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir_all(from.join("bin")).unwrap();
        std::fs::write(from.join("bin/run"), "#!/bin/sh\n").unwrap();
        std::fs::write(from.join("conf"), "x").unwrap();
        copy_tree(&from, &to).unwrap();
        copy_tree(&from.join("conf"), &to.join("one")).unwrap();
        let mode = |name: &str| to.join(name).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("bin/run"), mode("conf"), mode("one")), (0o755, 0o644, 0o644));
    }
}

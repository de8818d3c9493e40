//! The scratch tree: a copy of a checkout in which the saboteurs' edits are made. It is kept from one
//! selftest to the next, and a file is written only if its content changes, so that Cargo builds
//! only what has to be built.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::saboteurs::Edited;
use crate::failure::{Classify, FailureClass, Result};
use crate::process::Command;
use crate::progress::Stage;

/// What a synchronisation did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Synced {
    /// Files of the tree.
    pub(super) files: usize,
    /// Of which so many were written.
    pub(super) written: usize,
    /// Files that the checkout does not have any more.
    pub(super) removed: usize,
}

/// The files of a checkout as they are now: what git tracks, and what is new and not ignored.
///
/// # Errors
/// It is no git checkout.
pub(super) async fn files(workspace: &Path, stage: &Stage) -> Result<Vec<PathBuf>> {
    let list = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .directory(workspace);
    let subject = format!("the files of {}", workspace.display());
    let output = list.run(stage).await.classify(FailureClass::Harness, "list", subject);
    let output = output.map_err(|error| error.with_help("a selftest needs a git checkout"))?;
    let names = output.stdout.trim_end_matches('\n').split('\0');
    Ok(names.filter(|name| !name.is_empty()).map(PathBuf::from).collect())
}

/// Makes `tree` what `workspace` is, but for what was edited.
///
/// # Errors
/// A file cannot be read, written or removed; the next synchronisation goes on from there.
pub(super) fn sync(
    workspace: &Path,
    files: &[PathBuf],
    edited: &Edited,
    tree: &Path,
) -> Result<Synced> {
    let mut synced = Synced::default();
    let mut kept = BTreeSet::new();
    for file in files {
        let (from, to) = (workspace.join(file), tree.join(file));
        let there = copy(&from, edited.get(file), &to);
        match there.infrastructure("copy", format!("{} to {}", from.display(), to.display()))? {
            Copied::Nothing => continue,
            Copied::Same => {}
            Copied::Written => synced.written += 1,
        }
        kept.insert(to);
    }
    synced.files = kept.len();
    let (_, removed) = remove_others(tree, &kept)
        .infrastructure("clear", format!("the scratch tree {}", tree.display()))?;
    synced.removed = removed;
    Ok(synced)
}

enum Copied {
    /// There is no such file: it is deleted in the working tree, or a submodule.
    Nothing,
    Same,
    Written,
}

fn copy(from: &Path, edited: Option<&String>, to: &Path) -> io::Result<Copied> {
    let source = match std::fs::symlink_metadata(from) {
        Ok(source) if source.is_dir() => return Ok(Copied::Nothing),
        Ok(source) => source,
        Err(error) if is_absent(&error) => return Ok(Copied::Nothing),
        Err(error) => return Err(error),
    };
    let there = std::fs::symlink_metadata(to).ok();
    if source.is_symlink() {
        let target = std::fs::read_link(from)?;
        if there.is_some() && std::fs::read_link(to).is_ok_and(|now| now == target) {
            return Ok(Copied::Same);
        }
        make_way(to)?;
        symlink(target, to)?;
        return Ok(Copied::Written);
    }
    let content = match edited {
        Some(text) => text.clone().into_bytes(),
        None => std::fs::read(from)?,
    };
    let is_same = there.is_some_and(|there| there.is_file())
        && std::fs::read(to).is_ok_and(|now| now == content);
    if !is_same {
        make_way(to)?;
        std::fs::write(to, content)?;
    }
    std::fs::set_permissions(to, source.permissions())?;
    Ok(if is_same { Copied::Same } else { Copied::Written })
}

/// The file is not there, or what should be its directory is a file.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Removes what is in the way of a file, and makes its directory.
fn make_way(to: &Path) -> io::Result<()> {
    let parent = to.parent().unwrap_or(to);
    for above in parent.ancestors() {
        match std::fs::symlink_metadata(above) {
            Ok(there) if there.is_dir() => break,
            Ok(_) => std::fs::remove_file(above)?,
            Err(_) => {}
        }
    }
    std::fs::create_dir_all(parent)?;
    match std::fs::symlink_metadata(to) {
        Ok(there) if there.is_dir() => std::fs::remove_dir_all(to),
        Ok(_) => std::fs::remove_file(to),
        Err(_) => Ok(()),
    }
}

/// Removes all files but those of `kept`, and directories that hold none. Returns whether `dir` is
/// empty now, and how many files went.
fn remove_others(dir: &Path, kept: &BTreeSet<PathBuf>) -> io::Result<(bool, usize)> {
    let (mut is_empty, mut removed) = (true, 0);
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            let (emptied, below) = remove_others(&path, kept)?;
            removed += below;
            if emptied {
                std::fs::remove_dir(&path)?;
            }
            is_empty &= emptied;
        } else if kept.contains(&path) {
            is_empty = false;
        } else {
            std::fs::remove_file(&path)?;
            removed += 1;
        }
    }
    Ok((is_empty, removed))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::SystemTime;

    use super::*;
    use crate::progress::Progress;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    fn modified(path: PathBuf) -> SystemTime {
        std::fs::metadata(path).unwrap().modified().unwrap()
    }

    #[test]
    fn only_what_changed_is_written_and_what_is_gone_goes() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(from.path(), &[("a/one.rs", "1"), ("a/two.rs", "2"), ("b/run.sh", "3")]);
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(from.path().join("b/run.sh"), executable).unwrap();
        symlink("one.rs", from.path().join("a/link.rs")).unwrap();
        let names = ["a/one.rs", "a/two.rs", "a/link.rs", "b/run.sh", "deleted.rs"];
        let files: Vec<PathBuf> = names.map(PathBuf::from).into();
        let edited = Edited::from([("a/two.rs".into(), "sabotaged".into())]);
        let synced = || sync(from.path(), &files, &edited, to.path()).unwrap();
        assert_eq!(synced(), Synced { files: 4, written: 4, removed: 0 });
        let read = |path: &str| std::fs::read_to_string(to.path().join(path)).unwrap();
        assert_eq!((&*read("a/two.rs"), &*read("a/link.rs")), ("sabotaged", "1"));
        let mode = std::fs::metadata(to.path().join("b/run.sh")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);

        let long_ago = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
        for name in ["a/one.rs", "a/two.rs"] {
            let file = std::fs::File::options().write(true).open(to.path().join(name)).unwrap();
            file.set_modified(long_ago).unwrap();
        }
        write(from.path(), &[("a/one.rs", "new")]);
        write(to.path(), &[("c/deep/built.rs", ""), ("a/left.rs", "")]);
        std::fs::remove_file(from.path().join("b/run.sh")).unwrap();
        assert_eq!(synced(), Synced { files: 3, written: 1, removed: 3 });
        assert_eq!(read("a/one.rs"), "new");
        assert_ne!(modified(to.path().join("a/one.rs")), long_ago);
        assert_eq!(modified(to.path().join("a/two.rs")), long_ago, "it was written again");
        assert!(!to.path().join("c").exists() && !to.path().join("b").exists());
    }

    #[test]
    fn a_file_takes_the_place_of_a_directory_and_the_other_way_round() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(from.path(), &[("a/b.rs", "1"), ("c", "2")]);
        write(to.path(), &[("a", "file"), ("c/d.rs", "")]);
        let files = ["a/b.rs".into(), "c".into(), "c/d.rs".into()];
        sync(from.path(), &files, &Edited::new(), to.path()).unwrap();
        assert_eq!(std::fs::read_to_string(to.path().join("a/b.rs")).unwrap(), "1");
        assert_eq!(std::fs::read_to_string(to.path().join("c")).unwrap(), "2");
    }

    #[tokio::test]
    async fn the_files_are_those_of_the_working_tree_without_what_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let stage = Progress::silent().unlisted();
        assert!(files(dir.path(), &stage).await.unwrap_err().help.unwrap().contains("git"));
        write(dir.path(), &[("a b.rs", ""), ("new/ü.rs", ""), ("target/x", "")]);
        write(dir.path(), &[(".gitignore", "/target\n")]);
        for args in [&["init", "--quiet"][..], &["add", "a b.rs", ".gitignore"]] {
            Command::new("git").args(args).directory(dir.path()).run(&stage).await.unwrap();
        }
        let mut found = files(dir.path(), &stage).await.unwrap();
        found.sort();
        assert_eq!(found, [".gitignore", "a b.rs", "new/ü.rs"].map(PathBuf::from));
    }
}

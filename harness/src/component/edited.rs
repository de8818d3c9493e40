//! Compiling from an edited copy of a module. The module is downloaded and verified as any other;
//! nothing of it is committed here but the few lines that change.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Go, module_directory};
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::file_tree::copy_tree;
use crate::paths::Paths;
use crate::progress::Stage;
use crate::versions::{Edit, EditedModule, GoComponent};

/// A directory with a copy of the committed module and of the one that is edited. Gone when dropped.
pub(super) struct Copy(TempDir);

impl Copy {
    /// The copy of the committed module, which compiles from the edited one.
    pub(super) fn module(&self) -> PathBuf {
        self.0.path().join("module")
    }

    fn source(&self) -> PathBuf {
        self.0.path().join("source")
    }
}

impl Go {
    /// Copies both, edits one, and points the other to it.
    pub(super) async fn edit(
        &self,
        paths: &Paths,
        component: &GoComponent,
        edited: &EditedModule,
        stage: &Stage,
    ) -> Result<Copy> {
        let subject = || format!("a copy of {}", edited.module);
        let original = self.source(paths, component, &edited.module, stage).await?;
        let place = tempfile::Builder::new().prefix(".edited-").tempdir_in(paths.components());
        let copy = Copy(place.infrastructure("make a place for", subject())?);
        copy_tree(&module_directory(paths, &component.module), &copy.module())
            .infrastructure("make", subject())?;
        copy_tree(&original, &copy.source()).infrastructure("make", subject())?;
        edited.edit.iter().try_for_each(|edit| apply(&copy.source(), edit))?;
        let replace = format!("-replace={}={}", edited.module, copy.source().display());
        let command = self.command(paths).args(["mod", "edit", &replace]);
        let pointed = command.directory(copy.module()).run(stage).await;
        pointed.classify(FailureClass::Image, "compile from", subject())?;
        Ok(copy)
    }
}

fn apply(source: &Path, edit: &Edit) -> Result<()> {
    let subject = || edit.file.display().to_string();
    let path = source.join(&edit.file);
    let text = std::fs::read_to_string(&path).classify(FailureClass::Image, "edit", subject())?;
    let times = text.matches(&edit.find).count();
    if times != 1 {
        let cause = format!("what is to be replaced is there {times} times, not once");
        return Err(HarnessError::new(FailureClass::Image, "edit", subject(), cause));
    }
    let text = text.replace(&edit.find, &edit.replace);
    std::fs::write(&path, text).classify(FailureClass::Image, "edit", subject())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_finds_its_place_once_or_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir_all(from.join("pkg")).unwrap();
        std::fs::write(from.join("pkg/a.go"), "one\ntwo\ntwo\n").unwrap();
        copy_tree(&from, &to).unwrap();
        let edit = |find: &str| {
            let replace = format!("{find} and more");
            apply(&to, &Edit { file: "pkg/a.go".into(), find: find.into(), replace })
        };
        let why = |find| edit(find).unwrap_err().source.to_string();
        assert!(why("three").contains("0 times"));
        assert!(why("two").contains("2 times"));
        edit("one").unwrap();
        let read = |root: &Path| std::fs::read_to_string(root.join("pkg/a.go")).unwrap();
        assert_eq!(read(&to), "one and more\ntwo\ntwo\n");
        assert_eq!(read(&from), "one\ntwo\ntwo\n", "the download stays as it was verified");
    }
}

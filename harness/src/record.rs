//! The bootstrap record: what this tool did to the machine, written down before it is done.
//!
//! `pristine` undoes exactly what is recorded, last first; what was there before this tool came
//! is never in it. The doing of each undo step is left to `pristine`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Classify, FailureClass, Result};
use crate::paths::write_atomically;

/// One thing done to the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Action {
    /// Packages that were absent and are installed.
    AptPackages {
        /// Their names, dependencies included.
        names: Vec<String>,
    },
    /// A file or directory that was absent and was made; goes with all that is in it.
    Tree {
        /// Absolute.
        path: PathBuf,
        /// Whether only root can remove it.
        root: bool,
    },
    /// The container engine's daemon that was started by hand.
    Daemon {
        /// Where it writes its process id.
        pid_file: PathBuf,
        /// Process id, once known.
        pid: Option<i32>,
        /// Start time in clock ticks since boot (field 22 of /proc/PID/stat), so that a
        /// re-used process id is not taken for it.
        start_time: Option<u64>,
    },
    /// An image in the engine.
    Image {
        /// Its name and tag.
        reference: String,
    },
    /// A Kind cluster.
    Cluster {
        /// Its name.
        name: String,
    },
}

/// Whether a recorded action came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Written down, perhaps begun.
    Begun,
    /// Done.
    Done,
}

/// An action and how far it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What was done.
    pub action: Action,
    /// How far it came.
    pub phase: Phase,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    entries: Vec<Entry>,
}

/// The record on disk. Every change is durable before the method returns.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    content: Content,
}

impl Record {
    /// Reads the record, or starts an empty one.
    ///
    /// # Errors
    /// It exists and cannot be read or understood.
    pub fn open(path: &Path) -> Result<Self> {
        let subject = || path.display().to_string();
        let content = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .classify(FailureClass::Harness, "understand", subject())
                .map_err(|error| {
                    error.with_help("it is this tool's own; move it away if it is damaged")
                })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Content::default(),
            Err(error) => return Err(error).infrastructure("read", subject()),
        };
        Ok(Self { path: path.to_path_buf(), content })
    }

    /// What is recorded, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.content.entries
    }

    /// Whether this action is recorded, whatever its phase.
    #[must_use]
    pub fn has(&self, action: &Action) -> bool {
        self.content.entries.iter().any(|entry| entry.action == *action)
    }

    /// Writes an action down before it is done. One that is there already stays as it is.
    ///
    /// # Errors
    /// The record cannot be written; then the action must not be done.
    pub fn begin(&mut self, action: Action) -> Result<()> {
        if self.has(&action) {
            return Ok(());
        }
        self.content.entries.push(Entry { action, phase: Phase::Begun });
        self.save()
    }

    /// Marks an action as done; `done` may say more than what was written before (a process
    /// id), and then takes its place.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn finish(&mut self, begun: &Action, done: Action) -> Result<()> {
        self.content.entries.retain(|entry| entry.action != *begun && entry.action != done);
        self.content.entries.push(Entry { action: done, phase: Phase::Done });
        self.save()
    }

    /// Writes down an image before it is made or pulled.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn begin_image(&mut self, reference: &str) -> Result<()> {
        self.begin(Action::Image { reference: reference.to_owned() })
    }

    /// Marks an image as made.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn finish_image(&mut self, reference: &str) -> Result<()> {
        let action = Action::Image { reference: reference.to_owned() };
        self.finish(&action, action.clone())
    }

    /// Takes an action out, because it was undone.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn forget(&mut self, action: &Action) -> Result<()> {
        self.content.entries.retain(|entry| entry.action != *action);
        self.save()
    }

    /// The actions to undo, in the order in which to undo them: clusters and images while the
    /// engine still runs, then the daemon, its packages, and what lies on disk.
    #[must_use]
    pub fn undo_plan(&self) -> Vec<Action> {
        let rank = |action: &Action| match action {
            Action::Cluster { .. } => 0,
            Action::Image { .. } => 1,
            Action::Daemon { .. } => 2,
            Action::AptPackages { .. } => 3,
            Action::Tree { .. } => 4,
        };
        let mut plan: Vec<Action> =
            self.content.entries.iter().rev().map(|entry| entry.action.clone()).collect();
        plan.sort_by_key(rank);
        plan
    }

    fn save(&self) -> Result<()> {
        let text = serde_json::to_vec_pretty(&self.content).classify(
            FailureClass::Harness,
            "serialise",
            "the bootstrap record",
        )?;
        write_atomically(&self.path, &text, 0o600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(path: &str) -> Action {
        Action::Tree { path: path.into(), root: false }
    }

    #[test]
    fn a_record_survives_and_knows_what_was_only_begun() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bootstrap.json");
        let mut record = Record::open(&path).unwrap();
        record.begin(tree("/a")).unwrap();
        record.begin(tree("/b")).unwrap();
        record.finish(&tree("/a"), tree("/a")).unwrap();
        let again = Record::open(&path).unwrap();
        let phases: Vec<_> = again.entries().iter().map(|e| (&e.action, e.phase)).collect();
        assert_eq!(phases, [(&tree("/b"), Phase::Begun), (&tree("/a"), Phase::Done)]);
    }

    #[test]
    fn a_daemon_is_replaced_by_what_is_known_of_it_later() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::open(&dir.path().join("r.json")).unwrap();
        let daemon = |pid, start_time| Action::Daemon { pid_file: "/p".into(), pid, start_time };
        record.begin(daemon(None, None)).unwrap();
        record.finish(&daemon(None, None), daemon(Some(7), Some(9))).unwrap();
        assert_eq!(record.entries().len(), 1);
        assert!(record.has(&daemon(Some(7), Some(9))));
    }

    #[test]
    fn undoing_needs_the_engine_until_images_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::open(&dir.path().join("r.json")).unwrap();
        let packages = Action::AptPackages { names: vec!["docker.io".into()] };
        let daemon = Action::Daemon { pid_file: "/p".into(), pid: None, start_time: None };
        let image = |name: &str| Action::Image { reference: name.into() };
        let cluster = Action::Cluster { name: "c".into() };
        for action in [&tree("/var"), &packages, &daemon, &image("one"), &cluster, &image("two")] {
            record.begin(action.clone()).unwrap();
        }
        let plan = record.undo_plan();
        assert_eq!(plan, [cluster, image("two"), image("one"), daemon, packages, tree("/var")]);
    }

    #[test]
    fn a_damaged_record_is_an_error_and_not_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.json");
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Record::open(&path).unwrap_err().class, FailureClass::Harness);
    }
}

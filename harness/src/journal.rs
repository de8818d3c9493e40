//! The journal of a run: every resource is written down, and is durable, before it is made.
//!
//! One file a run, one JSON object a line, appended with a single write by any process of the
//! run. A line begins with its own newline, so that a line torn by a crash or a full disk never
//! runs into the next one. What is to be done about an entry is left to `reap`.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::failure::{Classify, FailureClass, Result};
use crate::lineage::ProcessIdentity;

/// Identifies one resource of a run.
pub type EntryId = Uuid;

/// Something a run makes and has to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Resource {
    /// A namespace, with all that is in it.
    Namespace {
        /// Kubeconfig that reaches its cluster.
        kubeconfig: PathBuf,
        /// Context in it.
        context: String,
        /// Its name.
        name: String,
    },
    /// A pod in a namespace that stays.
    Pod {
        /// Kubeconfig that reaches its cluster.
        kubeconfig: PathBuf,
        /// Context in it.
        context: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A cluster role or cluster role binding, in the group rbac.authorization.k8s.io/v1.
    ClusterObject {
        /// Kubeconfig that reaches its cluster.
        kubeconfig: PathBuf,
        /// Context in it.
        context: String,
        /// `ClusterRole` or `ClusterRoleBinding`.
        type_name: String,
        /// Its name.
        name: String,
    },
    /// A database on the server that `admin_url` reaches.
    Database {
        /// With its password: the file is private to its owner.
        admin_url: String,
        /// Its name.
        name: String,
    },
    /// A container of the engine.
    Container {
        /// Its name.
        name: String,
    },
    /// A worker node whose container was stopped or paused: to be started again.
    NodeDown {
        /// Its cluster.
        cluster: String,
        /// Its name, which is its container's.
        name: String,
    },
    /// A node that was cordoned: to be uncordoned.
    NodeCordoned {
        /// Kubeconfig that reaches its cluster.
        kubeconfig: PathBuf,
        /// Context in it.
        context: String,
        /// Its name.
        name: String,
    },
    /// An extended resource that a node was given: to be taken from it.
    NodeResource {
        /// Kubeconfig that reaches its cluster.
        kubeconfig: PathBuf,
        /// Context in it.
        context: String,
        /// The node's name.
        name: String,
        /// The resource's name.
        resource: String,
    },
    /// A process, known by the id of this entry in its environment.
    Process {
        /// The program, for a person.
        program: String,
    },
    /// A directory outside the run's own.
    Directory {
        /// Absolute.
        path: PathBuf,
    },
}

impl Resource {
    /// "namespace hodei-e2e-3fa9c1-smoke", for a person.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Namespace { name, .. } => format!("namespace {name}"),
            Self::Pod { namespace, name, .. } => format!("pod {namespace}/{name}"),
            Self::ClusterObject { type_name, name, .. } => format!("{type_name} {name}"),
            Self::Database { name, .. } => format!("database {name}"),
            Self::Container { name } => format!("container {name}"),
            Self::NodeDown { name, .. } => format!("stop of node {name}"),
            Self::NodeCordoned { name, .. } => format!("cordon of node {name}"),
            Self::NodeResource { name, resource, .. } => format!("{resource} of node {name}"),
            Self::Process { program } => format!("process {program}"),
            Self::Directory { path } => format!("directory {}", path.display()),
        }
    }
}

/// How far a resource came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Written down; perhaps made.
    Intended,
    /// Made.
    Created,
    /// Told to go; not seen gone yet.
    Removing,
    /// Seen gone.
    Removed,
    /// Left standing because a person asked for it.
    Kept,
}

/// One resource, as all the lines about it say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which.
    pub id: EntryId,
    /// When it was written down.
    pub at: Timestamp,
    /// The case that made it; `None` for the run itself.
    pub case: Option<String>,
    /// What it is.
    pub resource: Resource,
    /// How far it came.
    pub state: State,
    /// For a process: which one.
    pub process: Option<ProcessIdentity>,
}

/// What a journal says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// In the order in which they were written down.
    pub entries: Vec<Entry>,
    /// Lines that could not be understood: torn by a crash.
    pub torn: usize,
}

impl Contents {
    /// What may still be there, last made first.
    #[must_use]
    pub fn outstanding(&self) -> Vec<&Entry> {
        self.entries.iter().rev().filter(|entry| entry.state != State::Removed).collect()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
enum Line {
    Create { id: EntryId, at: Timestamp, case: Option<String>, resource: Resource },
    Started { id: EntryId, process: ProcessIdentity },
    State { id: EntryId, at: Timestamp, state: State },
}

/// A journal open for appending.
#[derive(Debug, Clone)]
pub struct Journal {
    path: PathBuf,
    case: Option<String>,
}

impl Journal {
    /// The journal at `path`; its entries will be `case`'s.
    #[must_use]
    pub fn at(path: PathBuf, case: Option<String>) -> Self {
        Self { path, case }
    }

    /// Writes a resource down. Make it only after this has returned.
    ///
    /// # Errors
    /// The journal cannot be written; then the resource must not be made.
    pub fn intend(&self, resource: Resource) -> Result<EntryId> {
        let id = Uuid::now_v7();
        let (at, case) = (Timestamp::now(), self.case.clone());
        self.append(&Line::Create { id, at, case, resource })?;
        Ok(id)
    }

    /// Says which process an entry became.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn started(&self, id: EntryId, process: ProcessIdentity) -> Result<()> {
        self.append(&Line::Started { id, process })
    }

    /// Says how far a resource came.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn mark(&self, id: EntryId, state: State) -> Result<()> {
        self.append(&Line::State { id, at: Timestamp::now(), state })
    }

    /// Reads what is there; a torn line is counted and passed over.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub fn read(path: &Path) -> Result<Contents> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(parse(&bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Contents::default()),
            Err(error) => Err(error).infrastructure("read", path.display().to_string()),
        }
    }

    fn append(&self, line: &Line) -> Result<()> {
        let subject = || format!("the journal {}", self.path.display());
        let text =
            serde_json::to_string(line).classify(FailureClass::Harness, "encode", subject())?;
        let write = || -> std::io::Result<()> {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.create(true).append(true).mode(0o600).open(&self.path)?;
            file.write_all(format!("\n{text}\n").as_bytes())?;
            file.sync_data()
        };
        write().infrastructure("write", subject()).map_err(|error| {
            error.with_help("nothing is made that is not written down first: free some disk space")
        })
    }
}

fn parse(bytes: &[u8]) -> Contents {
    let mut contents = Contents::default();
    let mut places: HashMap<EntryId, usize> = HashMap::new();
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let Ok(line) = serde_json::from_slice::<Line>(line) else {
            contents.torn += 1;
            continue;
        };
        match line {
            Line::Create { id, at, case, resource } => {
                let (state, process) = (State::Intended, None);
                places.insert(id, contents.entries.len());
                contents.entries.push(Entry { id, at, case, resource, state, process });
            }
            Line::Started { id, process } => {
                if let Some(&index) = places.get(&id) {
                    contents.entries[index].process = Some(process);
                    contents.entries[index].state = State::Created;
                }
            }
            Line::State { id, state, .. } => {
                if let Some(&index) = places.get(&id) {
                    contents.entries[index].state = state;
                }
            }
        }
    }
    contents
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn container(index: usize) -> Resource {
        Resource::Container { name: format!("c{index}") }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Cut anywhere, then written on by another process: every whole line before the cut and
        /// every line after it is there.
        #[test]
        fn a_torn_line_loses_nothing_but_itself(count in 1_usize..8, cut in 0.0_f64..1.0, more in 1_usize..4) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("journal.jsonl");
            let journal = Journal::at(path.clone(), Some("case".into()));
            for index in 0..count {
                journal.intend(container(index)).unwrap();
            }
            let bytes = std::fs::read(&path).unwrap();
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a small file")]
            let at = (bytes.len() as f64 * cut) as usize;
            std::fs::write(&path, &bytes[..at]).unwrap();
            let whole = parse(&bytes[..at]).entries.len();
            let other = Journal::at(path.clone(), None);
            for index in 0..more {
                other.intend(container(100 + index)).unwrap();
            }
            let contents = Journal::read(&path).unwrap();
            prop_assert_eq!(contents.entries.len(), whole + more);
            prop_assert!(contents.torn <= 1);
            for (index, entry) in contents.entries[..whole].iter().enumerate() {
                prop_assert_eq!(&entry.resource, &container(index));
            }
        }
    }

    #[test]
    fn what_is_outstanding_is_last_made_first_without_what_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::at(dir.path().join("j"), None);
        let ids: Vec<_> = (0..3).map(|index| journal.intend(container(index)).unwrap()).collect();
        journal.mark(ids[1], State::Removed).unwrap();
        journal.mark(ids[2], State::Kept).unwrap();
        let contents = Journal::read(&dir.path().join("j")).unwrap();
        let left: Vec<_> =
            contents.outstanding().iter().map(|entry| entry.resource.describe()).collect();
        assert_eq!(left, ["container c2", "container c0"]);
    }

    #[test]
    fn writers_in_parallel_do_not_mix_their_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let journal = Journal::at(path.clone(), Some(format!("w{writer}")));
                scope.spawn(move || {
                    for index in 0..25 {
                        journal.intend(container(index)).unwrap();
                    }
                });
            }
        });
        let contents = Journal::read(&path).unwrap();
        assert_eq!((contents.entries.len(), contents.torn), (100, 0));
    }
}

//! Where the harness keeps things: state (records, kubeconfigs, logs), caches (tools, compiled
//! components, root file systems), and the workspace whose files it builds from.
//!
//! Nothing here creates or removes a directory except the `ensure_` functions.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;

use crate::failure::{Classify, FailureClass, HarnessError, Result};

/// Overrides the state directory.
pub const STATE_DIR_ENV: &str = "HODEI_E2E_STATE_DIR";
/// Overrides the cache directory.
pub const CACHE_DIR_ENV: &str = "HODEI_E2E_CACHE_DIR";
/// Overrides where the workspace is looked for.
pub const WORKSPACE_ENV: &str = "HODEI_WORKSPACE";
/// The file by which a directory is known to be the workspace.
const WORKSPACE_MARK: &str = "deploy/kind/node-image";

/// The directories of one user's harness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    state: PathBuf,
    cache: PathBuf,
    workspace: PathBuf,
}

impl Paths {
    /// The directories by environment and XDG; creates the state and log directories (0700).
    ///
    /// # Errors
    /// No home directory, no workspace above the current directory, or a directory that cannot
    /// be made.
    pub fn discover() -> Result<Self> {
        let strategy =
            etcetera::choose_base_strategy().infrastructure("find", "a home directory")?;
        let from_env = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let state = from_env(STATE_DIR_ENV).map_or_else(
            || strategy.state_dir().unwrap_or_else(|| strategy.data_dir()).join("hodei-e2e"),
            PathBuf::from,
        );
        let cache = from_env(CACHE_DIR_ENV)
            .map_or_else(|| strategy.cache_dir().join("hodei-e2e"), PathBuf::from);
        let workspace = find_workspace(from_env(WORKSPACE_ENV).map(PathBuf::from))?;
        let paths = Self { state: absolute(state)?, cache: absolute(cache)?, workspace };
        ensure_private_dir(&paths.state)?;
        ensure_private_dir(&paths.log_dir())?;
        Ok(paths)
    }

    /// Directories given outright, as tests do.
    #[must_use]
    pub fn new(state: PathBuf, cache: PathBuf, workspace: PathBuf) -> Self {
        Self { state, cache, workspace }
    }

    /// Records, kubeconfigs, marks of ownership, logs.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// What can be made again: tools, compiled components, downloads.
    #[must_use]
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The checkout that images and binaries are built from.
    #[must_use]
    pub fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// The private kubeconfig of one cluster.
    #[must_use]
    pub fn kubeconfig(&self, cluster: &str) -> PathBuf {
        self.state.join(format!("kubeconfig-{cluster}"))
    }

    /// The audit policy of one cluster's API server, mounted into its node.
    #[must_use]
    pub fn audit_directory(&self, cluster: &str) -> PathBuf {
        self.state.join(format!("audit-{cluster}"))
    }

    /// What this tool did to the machine.
    #[must_use]
    pub fn bootstrap_record(&self) -> PathBuf {
        self.state.join("bootstrap.json")
    }

    /// Output of the commands that were run.
    #[must_use]
    pub fn log_dir(&self) -> PathBuf {
        self.state.join("logs")
    }

    /// The log of one command, by a short name.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.log_dir().join(format!("{name}.log"))
    }

    /// Tools that this harness installed for itself.
    #[must_use]
    pub fn tools_bin(&self) -> PathBuf {
        self.cache.join("tools").join("bin")
    }

    /// Outputs of image components, each below its own input hash.
    #[must_use]
    pub fn components(&self) -> PathBuf {
        self.cache.join("components")
    }

    /// Build and module caches of Go, kept apart from the user's so that they can be removed.
    #[must_use]
    pub fn go_cache(&self) -> PathBuf {
        self.cache.join("go")
    }

    /// Everything that this tool puts below the cache directory.
    #[must_use]
    pub fn cache_trees(&self) -> Vec<PathBuf> {
        vec![self.cache.join("tools"), self.components(), self.go_cache()]
    }
}

/// Makes a directory that only its owner may enter, with its parents.
///
/// # Errors
/// The directory cannot be made.
pub fn ensure_private_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .infrastructure("create", format!("directory {}", path.display()))
}

/// Removes a directory and all in it; one that is not there is a success.
///
/// # Errors
/// Something in it cannot be removed.
pub fn remove_tree(path: &Path) -> Result<()> {
    gone(std::fs::remove_dir_all(path), path)
}

/// Removes a file; one that is not there is a success.
///
/// # Errors
/// It cannot be removed.
pub fn remove_file(path: &Path) -> Result<()> {
    gone(std::fs::remove_file(path), path)
}

fn gone(removed: std::io::Result<()>, path: &Path) -> Result<()> {
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).infrastructure("remove", path.display().to_string())
        }
        _ => Ok(()),
    }
}

/// Writes a file so that a reader sees the old or the new content, never a part: a temporary
/// file beside it, fsync, rename.
///
/// # Errors
/// The file cannot be written (a full disk, say); the old content then still stands.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let subject = || format!("{}", path.display());
    let write = || -> std::io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        std::io::Write::write_all(&mut file, content)?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        std::fs::File::open(dir)?.sync_all()
    };
    write().infrastructure("write", subject())
}

fn absolute(path: PathBuf) -> Result<PathBuf> {
    std::path::absolute(&path).infrastructure("resolve", path.display().to_string())
}

fn find_workspace(given: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(path) = given {
        return absolute(path);
    }
    let current = std::env::current_dir().infrastructure("find", "the current directory")?;
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR"));
    current
        .ancestors()
        .chain(built_from.ancestors())
        .find(|dir| dir.join(WORKSPACE_MARK).is_dir())
        .map(Path::to_path_buf)
        .ok_or_else(|| {
            HarnessError::new(
                FailureClass::Harness,
                "find",
                "the Hodei workspace",
                format!("no directory above {} has {WORKSPACE_MARK}", current.display()),
            )
            .with_help(format!("run inside the checkout, or set {WORKSPACE_ENV} to it"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_atomic_write_replaces_content_and_sets_the_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/record.json");
        write_atomically(&path, b"one", 0o600).unwrap();
        write_atomically(&path, b"two", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn each_cluster_has_its_own_kubeconfig() {
        let paths = Paths::new("/s".into(), "/c".into(), "/w".into());
        assert_eq!(paths.kubeconfig("a"), Path::new("/s/kubeconfig-a"));
        assert_eq!(paths.log("kind"), Path::new("/s/logs/kind.log"));
    }
}

//! From a specification to a command that can be spawned.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use hodei_core::{
    id::AttemptKey,
    spec::{JobSpec, Run},
};
use tokio::process::Command;

use super::Environment;

/// PATH where the image sets none: that of Debian's login shell for root.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command ready to be spawned, and what has to live as long as it runs.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) command: Command,
    /// What is run, for a message: never an argument.
    pub(super) program: String,
    _script: Option<PrivateDirectory>,
}

/// Builds the command, or says for a person why it can't be run.
pub(super) fn prepare(
    spec: &JobSpec,
    attempt: AttemptKey,
    environment: &Environment,
) -> Result<Prepared, String> {
    let directory = match &spec.working_directory {
        Some(path) => PathBuf::from(path),
        None => environment.workspace.clone(),
    };
    // A spawn that fails doesn't say whether the program or the directory was the matter.
    match fs::metadata(&directory) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(format!("working directory {directory:?} is not a directory")),
        Err(error) => return Err(format!("working directory {directory:?}: {error}")),
    }
    let (program, mut command, script) = match &spec.run {
        Run::Command(argv) => {
            let (program, arguments) = argv.split_first().ok_or("the command names no program")?;
            let mut command = Command::new(program);
            command.args(arguments);
            (program.clone(), command, None)
        }
        Run::Script(text) => {
            // A file, as one argument is limited to 128 KiB (MAX_ARG_STRLEN), and stdin is the job's.
            let private = PrivateDirectory::create(&environment.scratch)
                .and_then(|private| private.write("script", text).map(|path| (private, path)));
            let (private, path) =
                private.map_err(|error| format!("the script could not be written: {error}"))?;
            let mut command = Command::new("/bin/sh");
            command.arg("-eu").arg(path);
            ("/bin/sh".to_owned(), command, Some(private))
        }
    };
    command
        .env_clear()
        .env("PATH", environment.path.as_deref().unwrap_or(USUAL_PATH))
        .env("HOME", &environment.workspace)
        .env("LANG", "C.UTF-8")
        .envs(&spec.env)
        .env("HODEI_JOB_ID", attempt.job.to_string())
        .env("HODEI_ATTEMPT", attempt.epoch.to_string())
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    Ok(Prepared { command, program, _script: script })
}

/// A directory only this user can look into, removed with its contents when dropped.
#[derive(Debug)]
struct PrivateDirectory(PathBuf);

impl PrivateDirectory {
    fn create(parent: &Path) -> std::io::Result<Self> {
        let path = parent.join(format!("hodei-{}", uuid::Uuid::new_v4()));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    fn write(&self, name: &str, text: &str) -> std::io::Result<PathBuf> {
        let path = self.0.join(name);
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes())?;
        Ok(path)
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "could not remove the script");
        }
    }
}

//! `dockerd` started by hand, where nothing else starts it: detached, logged, recorded, and
//! known again after a restart of the machine or of this tool.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::engine::{Engine, oci};
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::paths::{Paths, write_atomically};
use crate::privilege::Privilege;
use crate::process::Command;
use crate::progress::Stage;
use crate::record::{Action, Record};
use crate::wait::{Observed, Wait};

/// A first start makes the storage directories.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Where a daemon that was ended hard leaves its process id, and then refuses to start.
const SYSTEM_PID_FILE: &str = "/var/run/docker.pid";

/// Starts the daemon and waits until it answers.
///
/// # Errors
/// It does not start, or does not answer in time; the error has the end of its log.
pub async fn start(
    paths: &Paths,
    record: &mut Record,
    privilege: Privilege,
    stage: &Stage,
) -> Result<()> {
    if Path::new("/run/systemd/system").exists() {
        let start = privilege.command("systemctl")?.args(["start", "docker.service"]);
        start.run(stage).await.infrastructure("start", "docker.service")?;
        return await_answer(paths, stage, None).await;
    }
    let pid_file = paths.state().join("dockerd.pid");
    clear_stale(Path::new(SYSTEM_PID_FILE), privilege, stage).await?;
    clear_stale(&pid_file, privilege, stage).await?;
    for old in record.undo_plan() {
        if matches!(old, Action::Daemon { .. }) {
            record.forget(&old)?;
        }
    }
    let begun = Action::Daemon { pid_file: pid_file.clone(), pid: None, start_time: None };
    record.begin(begun.clone())?;
    let wrapper =
        if capability_is_missing() { Some(install_wrapper(paths, stage).await?) } else { None };
    let mut child = spawn(paths, privilege, &pid_file, wrapper.as_deref())?;
    let mut early_exit = || child.try_wait().ok().flatten().filter(|status| !status.success());
    await_answer(paths, stage, Some(&mut early_exit)).await?;
    let pid = read_pid(&pid_file);
    let start_time = pid.and_then(start_time);
    record.finish(&begun, Action::Daemon { pid_file, pid, start_time })
}

/// Whether the process that a record names is still the same one.
#[must_use]
pub fn is_alive(pid: i32, recorded_start: u64) -> bool {
    start_time(pid) == Some(recorded_start)
}

/// Ends the daemon of a record, and waits until it is gone.
///
/// # Errors
/// It is still there after its deadline.
pub async fn stop(
    pid: i32,
    recorded_start: u64,
    privilege: Privilege,
    stage: &Stage,
) -> Result<()> {
    if !is_alive(pid, recorded_start) {
        return Ok(());
    }
    let kill = privilege.command("kill")?.args(["-TERM", &pid.to_string()]);
    kill.run(stage).await.infrastructure("end", format!("dockerd ({pid})"))?;
    Wait::infrastructure(format!("dockerd ({pid}) to end"), Duration::from_secs(30))
        .until(stage, async || {
            let alive = is_alive(pid, recorded_start);
            Ok(if alive { Observed::NotYet("running".into()) } else { Observed::Ready(()) })
        })
        .await
}

/// Ends the daemon that a pid file names, where the record was cut off before it knew more.
///
/// # Errors
/// As [`stop`].
pub async fn stop_recorded(pid_file: &Path, privilege: Privilege, stage: &Stage) -> Result<()> {
    let named = read_pid(pid_file).filter(|pid| is_dockerd(*pid));
    match named.and_then(|pid| Some((pid, start_time(pid)?))) {
        Some((pid, start)) => stop(pid, start, privilege, stage).await,
        None => Ok(()),
    }
}

fn is_dockerd(pid: i32) -> bool {
    start_time(pid).is_some()
        && std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|name| name.trim() == "dockerd")
}

fn spawn(
    paths: &Paths,
    privilege: Privilege,
    pid_file: &Path,
    wrapper: Option<&Path>,
) -> Result<std::process::Child> {
    let log_path = paths.log("dockerd");
    let open = || std::fs::OpenOptions::new().create(true).append(true).open(&log_path);
    let log = open().infrastructure("open", log_path.display().to_string())?;
    let log_too = log.try_clone().infrastructure("open", log_path.display().to_string())?;
    let mut words: Vec<String> = Vec::new();
    if privilege == Privilege::Sudo {
        words.extend(["sudo".into(), "-n".into()]);
    }
    // A session of its own: it outlives this tool and the terminal.
    words.extend(["setsid".into(), "dockerd".into()]);
    words.push(format!("--pidfile={}", pid_file.display()));
    if privilege == Privilege::Sudo {
        words.push(format!("--group={}", nix::unistd::getgid()));
    }
    if let Some(wrapper) = wrapper {
        words.push(format!("--add-runtime=hodei={}", wrapper.display()));
        words.push("--default-runtime=hodei".into());
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = std::process::Command::new(&words[0]);
    command.args(&words[1..]).env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command.stdin(Stdio::null()).stdout(log).stderr(log_too);
    command.spawn().infrastructure("start", "dockerd")
}

type EarlyExit<'a> = &'a mut dyn FnMut() -> Option<std::process::ExitStatus>;

async fn await_answer(
    paths: &Paths,
    stage: &Stage,
    mut early_exit: Option<EarlyExit<'_>>,
) -> Result<()> {
    let log = paths.log("dockerd");
    let outcome = Wait::infrastructure("the container engine to answer", START_DEADLINE)
        .until(stage, async || match Engine::connect(stage).await {
            Ok(_) => Ok(Observed::Ready(())),
            Err(error) => match early_exit.as_mut().and_then(|exited| exited()) {
                Some(status) => Err(HarnessError::new(
                    FailureClass::Infrastructure,
                    "start",
                    "dockerd",
                    format!("it ended with {status}:\n{}", last_lines(&log)),
                )),
                None => Ok(Observed::NotYet(error.to_string())),
            },
        })
        .await;
    outcome.map_err(|error| error.with_help(format!("its log is {}", log.display())))
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

/// A pid file whose process is not a dockerd is in the way of the next one.
async fn clear_stale(pid_file: &Path, privilege: Privilege, stage: &Stage) -> Result<()> {
    let Some(pid) = read_pid(pid_file) else { return Ok(()) };
    if is_dockerd(pid) {
        return Ok(());
    }
    let remove = privilege.command("rm")?.arg("-f").arg(pid_file);
    remove.run(stage).await.infrastructure("remove", pid_file.display().to_string())?;
    Ok(())
}

fn read_pid(path: &Path) -> Option<i32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn start_time(pid: i32) -> Option<u64> {
    parse_start_time(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22 of /proc/PID/stat. The name in field 2 may hold spaces and brackets. A process
/// that has ended and that nobody has waited for (state Z) has no start time here: it is gone.
fn parse_start_time(stat: &str) -> Option<u64> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?;
    if state == "Z" { None } else { fields.nth(18)?.parse().ok() }
}

fn capability_is_missing() -> bool {
    crate::doctor::host::bounding_set().is_some_and(oci::is_missing_from)
}

/// Puts the wrapper where the daemon finds it as long as this state directory is there.
async fn install_wrapper(paths: &Paths, stage: &Stage) -> Result<PathBuf> {
    let built = wrapper_binary(paths, stage).await?;
    let bytes = std::fs::read(&built).infrastructure("read", built.display().to_string())?;
    let target = paths.state().join("bin/hodei-oci-runtime");
    write_atomically(&target, &bytes, 0o755)?;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&target, mode).infrastructure("make executable", "the wrapper")?;
    Ok(target)
}

async fn wrapper_binary(paths: &Paths, stage: &Stage) -> Result<PathBuf> {
    let name = "hodei-oci-runtime";
    let beside = std::env::current_exe().ok().map(|path| path.with_file_name(name));
    if let Some(found) = beside.filter(|path| path.exists()) {
        return Ok(found);
    }
    stage.line("compiling the runtime wrapper");
    let output = Command::new("cargo")
        .args(["build", "-p", "hodei-harness", "--bin", name])
        .arg("--message-format=json-render-diagnostics")
        .directory(paths.workspace())
        .deadline(Duration::from_secs(600))
        .run(stage)
        .await
        .classify(FailureClass::Harness, "compile", name)?;
    crate::tools::executable_from_cargo(&output.stdout, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_times_are_read_past_any_name() {
        let stat = "42 (a b) c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 12345 6 7";
        assert_eq!(parse_start_time(stat), Some(12345));
        assert_eq!(parse_start_time(&stat.replace(") S", ") Z")), None);
        assert_eq!(parse_start_time("nonsense"), None);
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(is_alive(own, start_time(own).unwrap()));
        assert!(!is_alive(own, 1));
    }
}

//! Which processes are ours: told by process id together with start time, or by a mark in their
//! environment, never by a name. A recycled process id is therefore never taken for ours.
//!
//! Reads /proc, so it finds nothing where there is none (macOS); ending a process is left to
//! its callers except for [`end`], which asks once more who it is before it signals.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// The variable by which a child of a run carries the id of its journal entry.
pub const MARK_ENV: &str = "HODEI_E2E_JOURNAL_ENTRY";
/// Between two looks at a process that was told to end.
const LOOK: Duration = Duration::from_millis(20);

/// One process, for as long as the machine is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process id.
    pub pid: i32,
    /// Clock ticks between boot and its start (field 22 of /proc/PID/stat, proc(5)).
    pub start: u64,
}

impl ProcessIdentity {
    /// The identity of a process that runs now; `None` if there is none.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        parse_start(&stat).map(|start| Self { pid, start })
    }

    /// Whether this very process still runs (a zombie does not).
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)) else {
            return false;
        };
        parse_start(&stat) == Some(self.start) && !is_zombie(&stat)
    }
}

/// Processes that carry `mark` in their environment and are not zombies.
#[must_use]
pub fn marked(mark: &str) -> Vec<ProcessIdentity> {
    let wanted = format!("{MARK_ENV}={mark}");
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| carries(Path::new(&format!("/proc/{pid}/environ")), wanted.as_bytes()))
        .filter_map(ProcessIdentity::of)
        .filter(ProcessIdentity::is_alive)
        .collect()
}

/// Ends a process: SIGTERM, and SIGKILL after `grace`. Returns whether it is gone.
pub async fn end(process: ProcessIdentity, grace: Duration) -> bool {
    for (signal, patience) in [(Signal::SIGTERM, grace), (Signal::SIGKILL, Duration::from_secs(5))]
    {
        if !process.is_alive() {
            return true;
        }
        if let Err(error) = kill(Pid::from_raw(process.pid), signal) {
            tracing::debug!(pid = process.pid, %signal, %error, "the process was gone already");
        }
        let until = tokio::time::Instant::now() + patience;
        while process.is_alive() && tokio::time::Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
    }
    !process.is_alive()
}

fn carries(environ: &Path, wanted: &[u8]) -> bool {
    // Another user's process cannot be read, and is not ours.
    std::fs::read(environ).is_ok_and(|bytes| bytes.split(|byte| *byte == 0).any(|v| v == wanted))
}

/// The fields after the command name, which may itself hold spaces and brackets.
fn after_name(stat: &str) -> Option<&str> {
    stat.rsplit_once(") ").map(|(_, rest)| rest)
}

fn parse_start(stat: &str) -> Option<u64> {
    // Field 22 in all; the first one after the name is field 3.
    after_name(stat)?.split(' ').nth(19)?.parse().ok()
}

fn is_zombie(stat: &str) -> bool {
    after_name(stat).is_some_and(|rest| rest.starts_with('Z') || rest.starts_with('X'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_a_hostile_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 1 1 1";
        assert_eq!(parse_start(stat), Some(777));
        assert!(!is_zombie(stat));
        assert!(is_zombie("42 (x) Z 1 1"));
    }

    #[tokio::test]
    async fn a_marked_child_is_found_and_ended_and_a_recycled_id_is_not() {
        let mark = uuid::Uuid::new_v4().to_string();
        let mut child =
            std::process::Command::new("sleep").arg("600").env(MARK_ENV, &mark).spawn().unwrap();
        let me = ProcessIdentity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let wait = crate::wait::Wait::infrastructure("the child's mark", Duration::from_secs(5));
        let stage = crate::progress::Progress::silent().unlisted();
        let found = wait
            .until(&stage, async || {
                Ok(match marked(&mark).as_slice() {
                    [one] => crate::wait::Observed::Ready(*one),
                    other => crate::wait::Observed::NotYet(format!("{other:?}")),
                })
            })
            .await
            .unwrap();
        assert_eq!(found.pid, i32::try_from(child.id()).unwrap());
        let recycled = ProcessIdentity { start: me.start + 1, ..me };
        assert!(
            end(recycled, Duration::from_secs(1)).await,
            "another start time is another process"
        );
        assert!(end(found, Duration::from_secs(5)).await);
        child.wait().unwrap();
        assert!(me.is_alive());
    }
}

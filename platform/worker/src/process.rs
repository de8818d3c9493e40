//! The processes a job leaves behind: killed with it, and reaped when the agent inherits them.
//!
//! The agent is pid 1 of its container, and a subreaper elsewhere, so every descendant whose parent
//! died becomes its child. [`Family`] reaps those, and leaves the children that were spawned
//! through it to whoever waits for them.

use std::{
    collections::HashSet,
    fs, io,
    sync::{Arc, Mutex, MutexGuard},
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{Signal, kill, killpg},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};

/// The children of this process.
#[derive(Debug, Clone, Default)]
pub struct Family {
    spawned: Arc<Mutex<HashSet<i32>>>,
    /// Whether this process inherits orphans; if not, only process groups can be killed.
    inherits: bool,
}

impl Family {
    /// Makes this process the one that inherits orphans, and reaps them from now on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn inherit() -> io::Result<Self> {
        prctl::set_child_subreaper(true)?;
        let family = Self { inherits: true, ..Self::default() };
        let mut children = signal(SignalKind::child())?;
        let reaper = family.clone();
        tokio::spawn(async move {
            while children.recv().await.is_some() {
                reaper.reap();
            }
        });
        Ok(family)
    }

    /// Spawns a child that its owner waits for.
    ///
    /// # Errors
    /// As [`Command::spawn`].
    pub fn spawn(&self, command: &mut Command) -> io::Result<(Child, Pid)> {
        // Held until the child is written down, or a child that dies at once is taken for an orphan.
        let mut spawned = self.lock();
        let child = command.spawn()?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        let pid = pid.ok_or_else(|| io::Error::other("the child has no process id"))?;
        spawned.insert(pid);
        Ok((child, Pid::from_raw(pid)))
    }

    /// A spawned child was waited for by its owner.
    pub fn forget(&self, pid: Pid) {
        self.lock().remove(&pid.as_raw());
    }

    /// SIGKILL to a process group and, where orphans are inherited, to every descendant, also one
    /// that has left the group.
    pub fn kill_all(&self, group: Pid) {
        signal_group(group, Signal::SIGKILL);
        if !self.inherits {
            return;
        }
        // A process may fork between the look and the kill, so look again until none is left.
        for _ in 0..16 {
            let living = living_descendants();
            if living.is_empty() {
                break;
            }
            for pid in living {
                ignore_gone(kill(pid, Signal::SIGKILL), pid);
            }
        }
    }

    fn reap(&self) {
        let spawned = self.lock();
        let own = Pid::this().as_raw();
        for process in processes().iter().filter(|process| process.parent == own && process.zombie)
        {
            if !spawned.contains(&process.pid) {
                let reaped = waitpid(Pid::from_raw(process.pid), Some(WaitPidFlag::WNOHANG));
                tracing::debug!(pid = process.pid, ?reaped, "reaped an orphan");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<i32>> {
        self.spawned.lock().expect("no holder of the lock on the spawned children panics")
    }
}

/// Sends a signal to a process group; one that is gone already is no matter.
pub fn signal_group(group: Pid, signal: Signal) {
    ignore_gone(killpg(group, signal), group);
}

fn ignore_gone(result: nix::Result<()>, pid: Pid) {
    match result {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => tracing::warn!(%pid, %error, "could not signal"),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    zombie: bool,
}

fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
        .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok())
        .filter_map(|stat| parse_stat(&stat))
        .collect()
}

/// `pid (comm) state ppid …`, where comm may hold anything, parentheses and spaces too: proc(5).
fn parse_stat(stat: &str) -> Option<Process> {
    let (before, after) = (stat.find(" (")?, stat.rfind(") ")?);
    let mut fields = stat.get(after + 2..)?.split(' ');
    let state = fields.next()?;
    Some(Process {
        pid: stat.get(..before)?.parse().ok()?,
        parent: fields.next()?.parse().ok()?,
        zombie: matches!(state, "Z" | "X"),
    })
}

fn living_descendants() -> Vec<Pid> {
    let all = processes();
    let mut family = HashSet::from([Pid::this().as_raw()]);
    let mut before = 0;
    while family.len() > before {
        before = family.len();
        family.extend(
            all.iter().filter(|p| family.contains(&p.parent)).map(|p| p.pid).collect::<Vec<_>>(),
        );
    }
    family.remove(&Pid::this().as_raw());
    let living = all.iter().filter(|p| !p.zombie && family.contains(&p.pid));
    living.map(|p| Pid::from_raw(p.pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_confuse_the_reader() {
        let stat = "42 (a) Z 1 (x) S 7 42 42 0";
        assert_eq!(parse_stat(stat), Some(Process { pid: 42, parent: 7, zombie: false }));
        assert_eq!(parse_stat("9 (sh) Z 1 9"), Some(Process { pid: 9, parent: 1, zombie: true }));
        assert_eq!(parse_stat(""), None);
        assert_eq!(parse_stat("1 (unfinished"), None);
    }

    #[test]
    fn this_process_is_found() {
        assert!(processes().iter().any(|process| process.pid == Pid::this().as_raw()));
    }
}

#[cfg(test)]
mod outside_input {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A job chooses the names of its processes.
        #[test]
        fn no_name_of_a_process_hides_it(
            name in prop_oneof![any::<String>(), "[() ZSX0-9]{0,15}"], pid in 1_i32.., parent in 0_i32..,
            state in prop::sample::select(vec!["S", "R", "Z", "X"]),
        ) {
            let stat = format!("{pid} ({name}) {state} {parent} 7 7 0 -1");
            let zombie = ["Z", "X"].contains(&state);
            prop_assert_eq!(parse_stat(&stat), Some(Process { pid, parent, zombie }));
        }

        #[test]
        fn any_line_of_the_kernel_is_read_or_passed_over(line in any::<String>()) {
            let _ = parse_stat(&line);
        }
    }
}

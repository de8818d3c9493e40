//! Whether the kernel killed something of ours at the memory limit.
//!
//! cgroup v2 counts in `memory.events`, v1 in `memory.oom_control`, both as a line `oom_kill N`.
//! Where the kubelet sets `memory.oom.group` (v2, Kubernetes 1.28 and newer, by default) the whole
//! container goes, agent included; then only the provider can tell.

use std::{fs, path::PathBuf};

/// The counter of the cgroup this process is in.
#[derive(Debug)]
pub(super) struct OomCounter {
    file: Option<PathBuf>,
    before: u64,
}

impl OomCounter {
    /// Remembers how it stands now.
    pub(super) fn start() -> Self {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let file = candidates(&groups).into_iter().find(|path| path.is_file());
        let before = file.as_ref().map_or(0, read);
        Self { file, before }
    }

    /// Whether it grew since.
    pub(super) fn has_grown(&self) -> bool {
        self.file.as_ref().is_some_and(|file| read(file) > self.before)
    }
}

/// Where the counter may be. In a container the path in /proc is that of the host, unless it has a
/// cgroup namespace of its own, while the mount shows the container's group at its root.
fn candidates(groups: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.events"),
            v1 if v1.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.oom_control")
            }
            _ => continue,
        };
        let path = path.trim_start_matches('/');
        found.push(PathBuf::from(root).join(path).join(file));
        found.push(PathBuf::from(root).join(file));
    }
    found
}

fn read(file: &PathBuf) -> u64 {
    parse(&fs::read_to_string(file).unwrap_or_default())
}

fn parse(text: &str) -> u64 {
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read() {
        assert_eq!(parse("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n"), 2);
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"), 5);
        assert_eq!(parse(""), 0);
    }

    #[test]
    fn the_groups_own_file_comes_before_the_root() {
        let found = |groups| -> Vec<String> {
            candidates(groups).iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(
            found("0::/a/b\n"),
            ["/sys/fs/cgroup/a/b/memory.events", "/sys/fs/cgroup/memory.events"]
        );
        assert_eq!(
            found("4:cpu,memory:/x\n1:cpuset:/\n"),
            [
                "/sys/fs/cgroup/memory/x/memory.oom_control",
                "/sys/fs/cgroup/memory/memory.oom_control"
            ]
        );
    }
}

#[cfg(test)]
mod outside_input {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_counter_and_any_list_of_groups_are_read(
            text in prop_oneof![any::<String>(), "(oom_kill |oom )?[0-9 ]{0,22}\n?"],
            groups in prop_oneof![any::<String>(), "([0-9]:(memory|cpu|name=x)?(,memory)?:/[a-z/]{0,6}\n){0,4}"],
        ) {
            let _ = parse(&text);
            for file in candidates(&groups) {
                prop_assert!(file.starts_with("/sys/fs/cgroup"), "{}", file.display());
            }
        }
    }
}

//! Facts about this machine, read from /proc and friends. Parsing is apart from reading, so
//! that it can be tested.

use std::path::Path;

/// Which cgroup hierarchy is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One tree for each controller.
    V1,
    /// The unified tree.
    V2,
}

/// The cgroup hierarchy of this machine, if one is mounted.
#[must_use]
pub fn cgroup_version() -> Option<CgroupVersion> {
    parse_cgroup(&std::fs::read_to_string("/proc/mounts").ok()?)
}

fn parse_cgroup(mounts: &str) -> Option<CgroupVersion> {
    let mounted = |kind: &str, at: Option<&str>| {
        mounts.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.get(2) == Some(&kind) && at.is_none_or(|at| fields.get(1) == Some(&at))
        })
    };
    if mounted("cgroup2", Some("/sys/fs/cgroup")) {
        Some(CgroupVersion::V2)
    } else if mounted("cgroup", None) {
        Some(CgroupVersion::V1)
    } else {
        None
    }
}

/// The capability bounding set of this process.
#[must_use]
pub fn bounding_set() -> Option<u64> {
    parse_bounding_set(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse_bounding_set(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Whether the kernel has a file system, built in or as a loaded module.
#[must_use]
pub fn has_filesystem(name: &str) -> bool {
    std::fs::read_to_string("/proc/filesystems")
        .is_ok_and(|text| text.lines().any(|line| line.split_whitespace().last() == Some(name)))
}

/// A number in /proc/sys, by its dotted name.
#[must_use]
pub fn sysctl(name: &str) -> Option<u64> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// MiB of memory that can be had without swapping.
#[must_use]
pub fn memory_available_mib() -> Option<u64> {
    parse_memory(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib / 1024)
}

/// MiB free for this user on the file system of `path` or its nearest parent that exists.
#[must_use]
pub fn disk_free_mib(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|path| path.exists())?;
    let stat = nix::sys::statvfs::statvfs(existing).ok()?;
    #[expect(clippy::useless_conversion, reason = "the width differs between targets")]
    let bytes = u64::from(stat.blocks_available()) * u64::from(stat.fragment_size());
    Some(bytes / (1024 * 1024))
}

/// The suite of this distribution ("bookworm"), from os-release.
#[must_use]
pub fn suite() -> Option<String> {
    parse_suite(&std::fs::read_to_string("/etc/os-release").ok()?)
}

fn parse_suite(os_release: &str) -> Option<String> {
    let line = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(line.trim_matches('"').to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mounts_tell_the_cgroup_version() {
        let v1 = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                  cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        for (mounts, want) in [
            (v1, Some(CgroupVersion::V1)),
            (v2, Some(CgroupVersion::V2)),
            ("proc /proc proc", None),
        ] {
            assert_eq!(parse_cgroup(mounts), want, "{mounts}");
        }
    }

    #[test]
    fn numbers_and_names_are_parsed() {
        let status = "Name:\tx\nCapEff:\t0000\nCapBnd:\t000001fffeffffff\n";
        assert_eq!(parse_bounding_set(status), Some(0x0000_01ff_feff_ffff));
        assert_eq!(parse_bounding_set("Name: x"), None);
        let meminfo = "MemTotal: 100 kB\nMemAvailable:   2048000 kB\n";
        assert_eq!(parse_memory(meminfo), Some(2000));
        assert_eq!(parse_suite("ID=debian\nVERSION_CODENAME=bookworm\n"), Some("bookworm".into()));
        assert_eq!(parse_suite("ID=x\nVERSION_CODENAME=\"noble\"\n"), Some("noble".into()));
        assert_eq!(parse_suite("ID=arch\n"), None);
    }
}

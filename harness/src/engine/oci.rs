//! The OCI runtime wrapper: takes CAP_SYS_RESOURCE out of what a runtime is asked to grant.
//!
//! On a machine whose bounding set lacks that capability, an engine asks for it all the same
//! for privileged containers, and the runtime fails to apply it. The wrapper edits the
//! configuration of `create` and `run` and the process file of `exec`, then becomes runc.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The capability that is taken out.
pub const DROPPED: &str = "CAP_SYS_RESOURCE";
/// The runtime behind the wrapper.
pub const RUNTIME: &str = "runc";

/// The file that a runtime's command line makes it read, if that holds capabilities.
#[must_use]
pub fn file_to_edit(args: &[OsString]) -> Option<PathBuf> {
    let words: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap_or_default()).collect();
    let verb = words.iter().find(|word| matches!(**word, "create" | "run" | "exec"))?;
    let names: [&str; 2] = if *verb == "exec" { ["--process", "-p"] } else { ["--bundle", "-b"] };
    let value = words.iter().enumerate().find_map(|(index, word)| {
        names.iter().find_map(|name| {
            let rest = word.strip_prefix(name)?;
            match rest.strip_prefix('=') {
                Some(value) => Some(OsString::from(value)),
                None if rest.is_empty() => args.get(index + 1).cloned(),
                None => None,
            }
        })
    });
    match (*verb, value) {
        ("exec", value) => value.map(PathBuf::from),
        (_, Some(bundle)) => Some(Path::new(&bundle).join("config.json")),
        (_, None) => Some(PathBuf::from("config.json")),
    }
}

/// Takes the capability out of a configuration (`process.capabilities`) or a process file
/// (`capabilities`). Returns whether anything changed.
pub fn drop_capability(config: &mut Value) -> bool {
    let process = if config.get("process").is_some() { &mut config["process"] } else { config };
    let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) else {
        return false;
    };
    let mut changed = false;
    for set in sets.values_mut().filter_map(Value::as_array_mut) {
        let before = set.len();
        set.retain(|name| name.as_str() != Some(DROPPED));
        changed |= set.len() != before;
    }
    changed
}

/// Edits the file that `args` make the runtime read, in place.
///
/// # Errors
/// The file cannot be read, understood or written.
pub fn edit_for(args: &[OsString]) -> std::io::Result<()> {
    let Some(path) = file_to_edit(args) else { return Ok(()) };
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    if drop_capability(&mut config) {
        std::fs::write(&path, serde_json::to_vec(&config)?)?;
    }
    Ok(())
}

/// Whether a capability mask (as in `CapBnd:` of /proc/self/status) lacks the capability.
#[must_use]
pub fn is_missing_from(mask: u64) -> bool {
    /// CAP_SYS_RESOURCE in linux/capability.h.
    const SYS_RESOURCE: u32 = 24;
    mask & (1 << SYS_RESOURCE) == 0
}

/// The runtime's program name, for the wrapper.
#[must_use]
pub fn runtime() -> &'static OsStr {
    OsStr::new(RUNTIME)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_right_file_is_found() {
        let cases: &[(&[&str], Option<&str>)] = &[
            (&["--root", "/r", "create", "--bundle", "/b", "id"], Some("/b/config.json")),
            (&["create", "--bundle=/b", "--pid-file", "/p", "id"], Some("/b/config.json")),
            (&["run", "-b", "/b", "id"], Some("/b/config.json")),
            (&["run", "id"], Some("config.json")),
            (&["--log", "/l", "exec", "--process", "/t/p.json", "-d", "id"], Some("/t/p.json")),
            (&["exec", "-p=/t/p", "id"], Some("/t/p")),
            (&["exec", "id", "sh"], None),
            (&["exec", "--pid-file", "/x", "id", "sh"], None),
            (&["state", "id"], None),
            (&["--version"], None),
        ];
        for (args, want) in cases {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            assert_eq!(file_to_edit(&args), want.map(PathBuf::from), "{args:?}");
        }
    }

    #[test]
    fn only_that_capability_goes() {
        let sets = json!({"bounding": ["CAP_CHOWN", DROPPED], "effective": [DROPPED]});
        let want = json!({"bounding": ["CAP_CHOWN"], "effective": []});
        let mut config = json!({"ociVersion": "1", "process": {"capabilities": sets.clone()}});
        assert!(drop_capability(&mut config));
        assert_eq!(config, json!({"ociVersion": "1", "process": {"capabilities": want.clone()}}));
        let mut process = json!({"args": ["sh"], "capabilities": sets});
        assert!(drop_capability(&mut process));
        assert_eq!(process["capabilities"], want);
        assert!(!drop_capability(&mut process), "a second time changes nothing");
        assert!(!drop_capability(&mut json!({"process": {"args": []}})));
    }

    #[test]
    fn masks() {
        assert!(is_missing_from(0x0000_01ff_feff_ffff));
        assert!(!is_missing_from(0x0000_01ff_ffff_ffff));
    }
}

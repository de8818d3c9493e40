//! The rules of a specification, each checked whatever the others say.

use std::collections::BTreeMap;

use super::{
    InvalidSpec, JobSpec, MAX_ARGUMENTS, MAX_ENV, MAX_ENV_VALUE_BYTES, MAX_LABELS, MAX_RETRIES,
    MAX_SCRIPT_BYTES, MAX_TIMEOUT, PRIORITIES, Resources, Run, Timeouts, Violation,
};
use crate::{
    id::is_dns_label,
    quantity::{parse_bytes, parse_cpu_millis},
};

impl JobSpec {
    /// Checks every rule.
    ///
    /// # Errors
    /// All violations, in the order of the fields.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        let mut found = Findings::default();
        if let Some(name) = &self.name {
            found.require(is_dns_label(name), "spec.name", || {
                format!("{:?} is not a DNS-1123 label (a-z, 0-9, '-', at most 63)", clip(name))
            });
        }
        self.run.validate(&mut found);
        validate_env(&self.env, &mut found);
        if let Some(path) = &self.working_directory {
            let good = path.starts_with('/') && path.len() <= 4096 && !path.contains('\0');
            found.require(good, "spec.working_directory", || {
                format!("{:?} is not an absolute path of at most 4096 bytes", clip(path))
            });
        }
        self.resources.validate(&mut found);
        self.timeouts.validate(&mut found);
        for (field, retries) in
            [("infrastructure", self.retry.infrastructure), ("command", self.retry.command)]
        {
            found.require(retries <= MAX_RETRIES, &format!("spec.retry.{field}"), || {
                format!("{retries} is more than {MAX_RETRIES}")
            });
        }
        found.require(self.labels.len() <= MAX_LABELS, "spec.labels", || {
            format!("{} labels; at most {MAX_LABELS}", self.labels.len())
        });
        for (key, value) in &self.labels {
            let sized = !key.is_empty() && key.len() <= 253 && value.len() <= 256;
            let good = sized && !key.contains('\0') && !value.contains('\0');
            found.require(good, &format!("spec.labels[{:?}]", clip(key)), || {
                "a key has 1 to 253 bytes, a value at most 256, and neither a NUL".to_owned()
            });
        }
        if let Some(image) = &self.image {
            let good =
                (1..=1024).contains(&image.len()) && image.bytes().all(|b| b.is_ascii_graphic());
            found.require(good, "spec.image", || format!("{:?} is not an image name", clip(image)));
        }
        found.require(PRIORITIES.contains(&self.priority), "spec.priority", || {
            format!("{} is not in {} to {}", self.priority, PRIORITIES.start(), PRIORITIES.end())
        });
        if found.0.is_empty() { Ok(()) } else { Err(InvalidSpec(found.0)) }
    }
}

impl Run {
    fn validate(&self, found: &mut Findings) {
        match self {
            Self::Command(argv) => {
                let named = argv.first().is_some_and(|program| !program.is_empty());
                found.require(named, "spec.command.argv", || "names no program".to_owned());
                found.require(argv.len() <= MAX_ARGUMENTS, "spec.command.argv", || {
                    format!("{} arguments; at most {MAX_ARGUMENTS}", argv.len())
                });
                let bytes: usize = argv.iter().map(String::len).sum();
                found.require(bytes <= MAX_SCRIPT_BYTES, "spec.command.argv", || {
                    format!("{bytes} bytes in all; at most {MAX_SCRIPT_BYTES}")
                });
                for (index, argument) in argv.iter().enumerate() {
                    found.require(
                        !argument.contains('\0'),
                        &format!("spec.command.argv[{index}]"),
                        || "contains a NUL byte".to_owned(),
                    );
                }
            }
            Self::Script(text) => {
                found.require(!text.trim().is_empty(), "spec.script", || "is empty".to_owned());
                found.require(text.len() <= MAX_SCRIPT_BYTES, "spec.script", || {
                    format!("{} bytes; at most {MAX_SCRIPT_BYTES}", text.len())
                });
                found.require(!text.contains('\0'), "spec.script", || {
                    "contains a NUL byte".to_owned()
                });
            }
        }
    }
}

fn validate_env(env: &BTreeMap<String, String>, found: &mut Findings) {
    found.require(env.len() <= MAX_ENV, "spec.env", || {
        format!("{} variables; at most {MAX_ENV}", env.len())
    });
    for (name, value) in env {
        let field = format!("spec.env[{:?}]", clip(name));
        let good = name.len() <= 256
            && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        found.require(good, &field, || "a name matches [A-Za-z_][A-Za-z0-9_]*".to_owned());
        found.require(!name.starts_with("HODEI_"), &field, || {
            "names that begin with HODEI_ are reserved".to_owned()
        });
        // The value may be a secret: say its size, never the value.
        found.require(value.len() <= MAX_ENV_VALUE_BYTES && !value.contains('\0'), &field, || {
            format!(
                "a value has at most {MAX_ENV_VALUE_BYTES} bytes and no NUL; this has {}",
                value.len()
            )
        });
    }
}

impl Resources {
    fn validate(&self, found: &mut Findings) {
        let mut parse = |field: &str, text: &Option<String>, parse: fn(&str) -> _| {
            let parsed: Result<u64, crate::quantity::InvalidQuantity> = parse(text.as_deref()?);
            match parsed {
                Ok(0) => {
                    found.add(&format!("spec.resources.{field}"), "must not be zero".to_owned());
                    None
                }
                Ok(value) => Some(value),
                Err(error) => {
                    found.add(&format!("spec.resources.{field}"), error.to_string());
                    None
                }
            }
        };
        let cpu_request = parse("cpu_request", &self.cpu_request, parse_cpu_millis);
        let cpu_limit = parse("cpu_limit", &self.cpu_limit, parse_cpu_millis);
        let memory_request = parse("memory_request", &self.memory_request, parse_bytes);
        let memory_limit = parse("memory_limit", &self.memory_limit, parse_bytes);
        for (field, request, limit) in
            [("cpu", cpu_request, cpu_limit), ("memory", memory_request, memory_limit)]
        {
            if let (Some(request), Some(limit)) = (request, limit) {
                found.require(request <= limit, &format!("spec.resources.{field}_request"), || {
                    format!("is larger than {field}_limit")
                });
            }
        }
    }
}

impl Timeouts {
    fn validate(&self, found: &mut Findings) {
        for (field, value) in [("queue", self.queue), ("startup", self.startup), ("run", self.run)]
        {
            let good = !value.is_zero() && value <= MAX_TIMEOUT;
            found.require(good, &format!("spec.timeouts.{field}"), || {
                format!("{value:?} is not between 1 ns and 7 days")
            });
        }
    }
}

#[derive(Default)]
struct Findings(Vec<Violation>);

impl Findings {
    fn require(&mut self, good: bool, field: &str, problem: impl FnOnce() -> String) {
        if !good {
            self.add(field, problem());
        }
    }

    fn add(&mut self, field: &str, problem: String) {
        self.0.push(Violation { field: field.to_owned(), problem });
    }
}

fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn problems(change: impl FnOnce(&mut JobSpec)) -> Vec<String> {
        let mut spec = JobSpec::command(["true"]);
        change(&mut spec);
        let violations = spec.validate().err().map(|InvalidSpec(all)| all).unwrap_or_default();
        violations.into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn a_plain_job_is_valid() {
        assert!(problems(|_| ()).is_empty());
        assert!(JobSpec::script("echo hello").validate().is_ok());
        assert!(problems(|s| s.priority = 1000).is_empty());
        assert!(problems(|s| s.priority = -1000).is_empty());
    }

    #[test]
    fn each_broken_rule_names_its_field() {
        type Change = fn(&mut JobSpec);
        let cases: [(&str, Change); 14] = [
            ("spec.name", |s| s.name = Some("No".into())),
            ("spec.command.argv", |s| s.run = Run::Command(vec![])),
            ("spec.command.argv[1]", |s| s.run = Run::Command(vec!["a".into(), "\0".into()])),
            ("spec.script", |s| s.run = Run::Script("  ".into())),
            ("spec.env[\"1A\"]", |s| drop(s.env.insert("1A".into(), String::new()))),
            ("spec.env[\"HODEI_X\"]", |s| drop(s.env.insert("HODEI_X".into(), String::new()))),
            ("spec.working_directory", |s| s.working_directory = Some("relative".into())),
            ("spec.resources.cpu_limit", |s| s.resources.cpu_limit = Some("two".into())),
            ("spec.resources.memory_limit", |s| s.resources.memory_limit = Some("0".into())),
            ("spec.timeouts.run", |s| s.timeouts.run = Duration::ZERO),
            ("spec.retry.command", |s| s.retry.command = 11),
            ("spec.image", |s| s.image = Some("with space".into())),
            ("spec.priority", |s| s.priority = 1001),
            ("spec.priority", |s| s.priority = -1001),
        ];
        for (field, change) in cases {
            assert_eq!(problems(change), [field]);
        }
    }

    #[test]
    fn all_broken_rules_are_reported_at_once() {
        let fields = problems(|spec| {
            spec.name = Some(String::new());
            spec.resources.cpu_request = Some("2".into());
            spec.resources.cpu_limit = Some("1".into());
            spec.timeouts.queue = Duration::MAX;
        });
        assert_eq!(fields, ["spec.name", "spec.resources.cpu_request", "spec.timeouts.queue"]);
    }

    #[test]
    fn neither_debug_nor_an_error_shows_a_value() {
        let mut spec = JobSpec::command(["sh", "-c", "s3cret"]);
        spec.env.insert("bad name".into(), "s3cret".into());
        let printed = format!("{spec:?} {}", spec.validate().unwrap_err());
        assert!(!printed.contains("s3cret"), "{printed}");
    }
}

//! What a client asks for, and the rules it has to keep. Every broken rule is reported at once, each
//! with the path of its field.

mod rules;

use std::{collections::BTreeMap, fmt, ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};

/// Most arguments a command may have.
pub const MAX_ARGUMENTS: usize = 1024;
/// Largest script, and largest sum of a command's arguments, in bytes.
pub const MAX_SCRIPT_BYTES: usize = 1 << 20;
/// Most environment variables of a job.
pub const MAX_ENV: usize = 512;
/// Largest value of one environment variable, in bytes: the kernel's MAX_ARG_STRLEN less the name.
pub const MAX_ENV_VALUE_BYTES: usize = 96 << 10;
/// Most labels of a job.
pub const MAX_LABELS: usize = 64;
/// Longest time-out that can be asked for.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most further attempts that can be asked for.
pub const MAX_RETRIES: u32 = 10;
/// What a priority may be: of two jobs that wait, the one of the higher number goes first.
pub const PRIORITIES: RangeInclusive<i32> = -1000..=1000;

/// One job as a client wants it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// A name a person reads; a DNS-1123 label.
    pub name: Option<String>,
    /// What to run.
    pub run: Run,
    /// Environment of the command, beside what the agent sets.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Absolute path; `None` for the agent's workspace.
    pub working_directory: Option<String>,
    /// What the worker needs.
    #[serde(default)]
    pub resources: Resources,
    /// How long each part may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// When to try again.
    #[serde(default)]
    pub retry: RetryPolicy,
    /// For the client's own use.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Worker image; `None` for the provider's.
    pub image: Option<String>,
    /// Place in the queue, within [`PRIORITIES`]; among equals the older job goes first.
    #[serde(default)]
    pub priority: i32,
}

/// The two forms of work.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Run {
    /// Program and arguments, without a shell.
    Command(Vec<String>),
    /// Text for `/bin/sh -eu`.
    Script(String),
}

/// Kubernetes quantities; `None` for the provider's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// CPU set aside.
    pub cpu_request: Option<String>,
    /// CPU at most.
    pub cpu_limit: Option<String>,
    /// Memory set aside.
    pub memory_request: Option<String>,
    /// Memory at most.
    pub memory_limit: Option<String>,
}

/// How long each part of a job may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// From submission until a worker is asked for.
    pub queue: Duration,
    /// From there until the command runs.
    pub startup: Duration,
    /// From there until it ends.
    pub run: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            queue: Duration::from_secs(3600),
            startup: Duration::from_secs(300),
            run: Duration::from_secs(3600),
        }
    }
}

/// How many further attempts a job gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// After a transient failure of the infrastructure.
    pub infrastructure: u32,
    /// After the command itself failed.
    pub command: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { infrastructure: 2, command: 0 }
    }
}

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, as in `spec.env["PATH"]`.
    pub field: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

/// All broken rules of one specification; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct InvalidSpec(pub Vec<Violation>);

impl fmt::Display for InvalidSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Violation { field, problem }) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{field}: {problem}")?;
        }
        Ok(())
    }
}

impl JobSpec {
    /// A job that runs `argv`, with everything else as it is by default.
    pub fn command<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self::new(Run::Command(argv.into_iter().map(Into::into).collect()))
    }

    /// A job that runs a script, with everything else as it is by default.
    pub fn script(text: impl Into<String>) -> Self {
        Self::new(Run::Script(text.into()))
    }

    fn new(run: Run) -> Self {
        Self {
            name: None,
            run,
            env: BTreeMap::new(),
            working_directory: None,
            resources: Resources::default(),
            timeouts: Timeouts::default(),
            retry: RetryPolicy::default(),
            labels: BTreeMap::new(),
            image: None,
            priority: 0,
        }
    }
}

impl fmt::Debug for JobSpec {
    /// Shows the names of environment variables, never their values: they may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobSpec")
            .field("name", &self.name)
            .field("run", &self.run)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("resources", &self.resources)
            .field("timeouts", &self.timeouts)
            .field("retry", &self.retry)
            .field("image", &self.image)
            .field("priority", &self.priority)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Run {
    /// Shows the program and sizes; arguments and scripts may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(argv) => {
                write!(f, "Command({:?} +{})", argv.first(), argv.len().max(1) - 1)
            }
            Self::Script(text) => write!(f, "Script({} bytes)", text.len()),
        }
    }
}

//! What can go wrong, said once: the failure classes of a verdict, the exit codes a caller
//! may rely on, and the one error type of this crate.
//!
//! How an error is printed is left to the binary (miette renders it with its causes and help).

use std::error::Error as StdError;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Exit code of a command line that could not be understood.
pub const EXIT_USAGE: u8 = 2;
/// Exit code of a run in which a required case did not run.
pub const EXIT_INCONCLUSIVE: u8 = 3;
/// Exit code of a process that SIGINT ended, after its clean-up.
pub const EXIT_INTERRUPTED: u8 = 130;
/// Exit code of a process that SIGTERM ended, after its clean-up.
pub const EXIT_TERMINATED: u8 = 143;

/// Who is to look at a failure. Each has an exit code that never changes meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// Engine, cluster, disk, memory, package sources: the only class that may be retried.
    Infrastructure,
    /// A node, worker or service image could not be built, loaded or proved.
    Image,
    /// A pod found no node, quota or admission.
    Scheduling,
    /// Name, route or port between pod and host.
    Network,
    /// The system under test did not do what it must.
    Product,
    /// The harness itself is wrong.
    Harness,
}

impl FailureClass {
    /// All classes, in the order in which reports list them.
    pub const ALL: [Self; 6] = [
        Self::Infrastructure,
        Self::Image,
        Self::Scheduling,
        Self::Network,
        Self::Product,
        Self::Harness,
    ];

    /// The exit code of a process that ends with a failure of this class.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Product => 1,
            Self::Infrastructure => 10,
            Self::Image => 11,
            Self::Scheduling => 12,
            Self::Network => 13,
            Self::Harness => 70,
        }
    }

    /// The name used in reports, exit messages and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Infrastructure => "infrastructure",
            Self::Image => "image",
            Self::Scheduling => "scheduling",
            Self::Network => "network",
            Self::Product => "product",
            Self::Harness => "harness",
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// SIGINT or SIGTERM arrived; found at the root of every error that this caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// What was asked for does not fit what is there: the command line has to change, not the machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// The cause of a [`HarnessError`]: any error, or a sentence.
pub type Source = Box<dyn StdError + Send + Sync + 'static>;

/// An error of the harness: what was being done, to what, why it failed, what to do.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("could not {operation} {subject}")]
pub struct HarnessError {
    /// Who is to look at it.
    pub class: FailureClass,
    /// A verb: "start", "build", "reuse".
    pub operation: String,
    /// What the verb was applied to: "the container engine", "cluster hodei-e2e".
    pub subject: String,
    /// The cause.
    pub source: Source,
    /// What a person can do about it.
    #[help]
    pub help: Option<String>,
}

/// What functions of this crate return.
pub type Result<T, E = HarnessError> = std::result::Result<T, E>;

impl HarnessError {
    /// An error of `class` while doing `operation` to `subject`; `source` may be a `String`.
    pub fn new(
        class: FailureClass,
        operation: impl Into<String>,
        subject: impl Into<String>,
        source: impl Into<Source>,
    ) -> Self {
        Self {
            class,
            operation: operation.into(),
            subject: subject.into(),
            source: source.into(),
            help: None,
        }
    }

    /// The error for work that a signal ended.
    pub fn interrupted(operation: impl Into<String>, subject: impl Into<String>) -> Self {
        Self::new(FailureClass::Infrastructure, operation, subject, Interrupted)
    }

    /// Adds what a person can do about it.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Whether a signal, not a fault, is at the root of this error.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        let mut cause: Option<&(dyn StdError + 'static)> = Some(&*self.source);
        while let Some(error) = cause {
            if error.is::<Interrupted>() {
                return true;
            }
            if error.downcast_ref::<Self>().is_some_and(Self::is_interrupted) {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// Whether what was asked for has to change.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.source.is::<Refusal>()
    }

    /// The exit code of a process that ends with this error; after SIGTERM it is
    /// [`EXIT_TERMINATED`] in place of [`EXIT_INTERRUPTED`], which the error does not know.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            _ if self.is_interrupted() => EXIT_INTERRUPTED,
            _ if self.is_refusal() => EXIT_USAGE,
            _ => self.class.exit_code(),
        }
    }
}

/// Turns the error of a library into a [`HarnessError`].
pub trait Classify<T> {
    /// Says what was being done, to what, and whose failure it is.
    ///
    /// # Errors
    /// The error of `self`, wrapped.
    fn classify(
        self,
        class: FailureClass,
        operation: impl Into<String>,
        subject: impl Into<String>,
    ) -> Result<T>;

    /// As [`Classify::classify`] with [`FailureClass::Infrastructure`].
    ///
    /// # Errors
    /// The error of `self`, wrapped.
    fn infrastructure(self, operation: impl Into<String>, subject: impl Into<String>) -> Result<T>
    where
        Self: Sized,
    {
        self.classify(FailureClass::Infrastructure, operation, subject)
    }
}

impl<T, E: Into<Source>> Classify<T> for std::result::Result<T, E> {
    fn classify(
        self,
        class: FailureClass,
        operation: impl Into<String>,
        subject: impl Into<String>,
    ) -> Result<T> {
        self.map_err(|error| HarnessError::new(class, operation, subject, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_distinct_and_never_success() {
        let mut codes: Vec<u8> = FailureClass::ALL.iter().map(|class| class.exit_code()).collect();
        codes.extend([EXIT_USAGE, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED, EXIT_TERMINATED]);
        let count = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), count);
        assert!(!codes.contains(&0));
    }

    #[test]
    fn an_interruption_is_found_however_deep() {
        let inner = HarnessError::interrupted("wait for", "nodes");
        let outer = HarnessError::new(FailureClass::Image, "build", "the image", inner);
        assert!(outer.is_interrupted());
        assert_eq!(outer.exit_code(), EXIT_INTERRUPTED);
        let other = HarnessError::new(FailureClass::Image, "build", "the image", "no space");
        assert_eq!(other.exit_code(), 11);
        let refused =
            HarnessError::new(FailureClass::Harness, "go on with", "run r", Refusal("no".into()));
        assert_eq!(refused.exit_code(), EXIT_USAGE);
    }
}

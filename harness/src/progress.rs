//! Stages: what is being done, for how long, and what came of it.
//!
//! On a terminal each running stage is a spinner with the last line of output; elsewhere it is
//! one plain line at the start and one at the end. The timings go into the report. A [`Stage`]
//! also carries the cancellation that SIGINT and SIGTERM trigger.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::failure::{HarnessError, Result};

/// How long one stage took and how it ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageTiming {
    /// The stage's name, as shown.
    pub name: String,
    /// When it began; `None` in a report of an older harness.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub started_at: Option<Timestamp>,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// "reused", "built 7 components", or the error.
    pub note: String,
    /// Whether the stage did what it is for.
    pub ok: bool,
}

/// Shows stages and remembers their timings. Clones share both.
#[derive(Clone)]
pub struct Progress {
    inner: Arc<Inner>,
}

struct Inner {
    bars: Option<MultiProgress>,
    silent: bool,
    timings: Mutex<Vec<StageTiming>>,
    cancel: CancellationToken,
    /// The exit code that the signal which came asks for.
    signalled: OnceLock<u8>,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// Progress on standard error: spinners on a terminal, plain lines elsewhere.
    #[must_use]
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self::build(terminal.then(MultiProgress::new), false)
    }

    /// Progress that shows nothing and still keeps the timings.
    #[must_use]
    pub fn silent() -> Self {
        Self::build(None, true)
    }

    fn build(bars: Option<MultiProgress>, silent: bool) -> Self {
        let cancel = CancellationToken::new();
        let (timings, signalled) = (Mutex::default(), OnceLock::new());
        Self { inner: Arc::new(Inner { bars, silent, timings, cancel, signalled }) }
    }

    /// Ends all work because of a signal, after which the process exits with `code`. The first
    /// one counts.
    pub fn interrupt(&self, code: u8) {
        // One that is set stays: a second signal does not change what the first one asked for.
        self.inner.signalled.get_or_init(|| code);
        self.inner.cancel.cancel();
    }

    /// The exit code that a signal asks for, if one came.
    #[must_use]
    pub fn interrupted(&self) -> Option<u8> {
        self.inner.signalled.get().copied()
    }

    /// The token that ends all work of this progress; signal handlers cancel it.
    #[must_use]
    pub fn cancellation(&self) -> CancellationToken {
        self.inner.cancel.clone()
    }

    /// Runs `work` as a stage called `name`.
    ///
    /// # Errors
    /// What `work` returns, or an interruption if cancellation came first.
    pub async fn stage<T, F>(&self, name: impl Into<String>, work: F) -> Result<T>
    where
        F: AsyncFnOnce(Stage) -> Result<T>,
    {
        let stage = self.begin(name.into());
        let outcome = if stage.is_cancelled() {
            Err(HarnessError::interrupted("start", stage.shared.name.clone()))
        } else {
            work(stage.clone()).await
        };
        self.end(&stage, outcome.as_ref().err());
        outcome
    }

    /// A stage that is neither shown nor timed, for commands outside any stage.
    #[must_use]
    pub fn unlisted(&self) -> Stage {
        let shared = Shared {
            name: String::new(),
            started: Instant::now(),
            started_at: Timestamp::now(),
            note: Mutex::default(),
            bar: None,
            cancel: self.inner.cancel.clone(),
        };
        Stage { shared: Arc::new(shared) }
    }

    /// Writes one line for a person, above any spinner.
    pub fn say(&self, line: &str) {
        match &self.inner.bars {
            _ if self.inner.silent => {}
            Some(bars) => drop(bars.println(line)),
            None => eprintln!("{line}"),
        }
    }

    /// Runs `ask` (a question on the terminal) with the spinners out of the way.
    pub fn suspend<T>(&self, ask: impl FnOnce() -> T) -> T {
        match &self.inner.bars {
            Some(bars) => bars.suspend(ask),
            None => ask(),
        }
    }

    /// The timings of the stages that have ended, in the order in which they did.
    #[must_use]
    pub fn timings(&self) -> Vec<StageTiming> {
        self.inner.timings.lock().expect("no stage panics while it holds the timings").clone()
    }

    /// The timings as JSON lines.
    #[must_use]
    pub fn timings_json_lines(&self) -> String {
        self.timings()
            .iter()
            .filter_map(|timing| serde_json::to_string(timing).ok())
            .map(|line| line + "\n")
            .collect()
    }

    fn begin(&self, name: String) -> Stage {
        let bar = self.inner.bars.as_ref().map(|bars| {
            let style =
                ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg:.dim}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner());
            let bar = bars.add(ProgressBar::new_spinner().with_style(style));
            bar.set_prefix(name.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            self.say(&format!("▸ {name} …"));
        }
        let (started, started_at) = (Instant::now(), Timestamp::now());
        let cancel = self.inner.cancel.clone();
        let shared = Shared { name, started, started_at, note: Mutex::default(), bar, cancel };
        Stage { shared: Arc::new(shared) }
    }

    fn end(&self, stage: &Stage, error: Option<&HarnessError>) {
        let seconds = stage.shared.started.elapsed().as_secs_f64();
        let note = error.map_or_else(|| stage.noted(), |error| error.source.to_string());
        let name = stage.shared.name.clone();
        if let Some(bar) = &stage.shared.bar {
            bar.finish_and_clear();
        }
        let mark = if error.is_none() { "✓" } else { "✗" };
        let first = note.lines().next().unwrap_or_default();
        let shown = if first.is_empty() { Cow::from("") } else { format!(" ({first})").into() };
        self.say(&format!("{mark} {name} {seconds:.1} s{shown}"));
        let started_at = Some(stage.shared.started_at);
        let timing = StageTiming { name, started_at, seconds, note, ok: error.is_none() };
        let mut timings =
            self.inner.timings.lock().expect("no stage panics while it holds the timings");
        timings.push(timing);
    }
}

/// One piece of work that is under way. Clones are the same stage.
#[derive(Clone)]
pub struct Stage {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    started: Instant,
    started_at: Timestamp,
    note: Mutex<String>,
    bar: Option<ProgressBar>,
    cancel: CancellationToken,
}

impl Stage {
    /// Sets what the stage's last line says in brackets: "reused", "7 components built".
    pub fn note(&self, note: impl Into<String>) {
        let mut held = self.shared.note.lock().expect("no stage panics while it holds its note");
        *held = note.into();
    }

    /// Shows what is going on at this moment: a step's name or a line of output.
    pub fn line(&self, line: &str) {
        if let Some(bar) = &self.shared.bar {
            bar.set_message(line.trim().to_owned());
        }
    }

    /// Whether SIGINT or SIGTERM has arrived.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.shared.cancel.is_cancelled()
    }

    /// Returns when SIGINT or SIGTERM arrives.
    pub async fn cancelled(&self) {
        self.shared.cancel.cancelled().await;
    }

    fn noted(&self) -> String {
        self.shared.note.lock().expect("no stage panics while it holds its note").clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureClass;

    #[tokio::test]
    async fn a_stage_leaves_its_note_and_its_outcome() {
        let progress = Progress::silent();
        let value = progress
            .stage("cluster", async |stage: Stage| {
                stage.note("reused");
                Ok(7)
            })
            .await;
        assert_eq!(value.unwrap(), 7);
        let failed: Result<()> = progress
            .stage("engine", async |_| {
                Err(HarnessError::new(FailureClass::Infrastructure, "start", "it", "no disk"))
            })
            .await;
        assert!(failed.is_err());
        let timings = progress.timings();
        assert_eq!((timings[0].note.as_str(), timings[0].ok), ("reused", true));
        assert_eq!((timings[1].note.as_str(), timings[1].ok), ("no disk", false));
        assert_eq!(progress.timings_json_lines().lines().count(), 2);
    }

    #[tokio::test]
    async fn no_stage_starts_after_a_signal_and_the_first_one_counts() {
        let progress = Progress::silent();
        assert_eq!(progress.interrupted(), None);
        progress.interrupt(143);
        progress.interrupt(130);
        assert_eq!(progress.interrupted(), Some(143));
        let outcome = progress.stage("engine", async |_| Ok(())).await;
        assert!(outcome.unwrap_err().is_interrupted());
    }
}

//! Where the output of a command goes.

use std::collections::VecDeque;
use std::path::Path;

use crate::progress::Stage;

/// Lines of output that an error repeats.
const TAIL_LINES: usize = 15;

/// Keeps output: text for the caller, a tail for errors, everything in the log.
pub(super) struct Sink {
    pub(super) stdout: String,
    pub(super) stderr: String,
    tail: VecDeque<String>,
    log: Option<std::fs::File>,
}

impl Sink {
    pub(super) fn open(log: Option<&Path>) -> std::io::Result<Self> {
        let open = |path: &Path| {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            std::fs::OpenOptions::new().create(true).append(true).open(path)
        };
        let log = log.map(open).transpose()?;
        Ok(Self { stdout: String::new(), stderr: String::new(), tail: VecDeque::new(), log })
    }

    pub(super) fn take(
        &mut self,
        line: &str,
        is_stdout: bool,
        stage: &Stage,
    ) -> std::io::Result<()> {
        let kept = if is_stdout { &mut self.stdout } else { &mut self.stderr };
        kept.push_str(line);
        kept.push('\n');
        if let Some(log) = &mut self.log {
            std::io::Write::write_all(log, format!("{line}\n").as_bytes())?;
        }
        // JSON is for programs; a person is shown the lines that are not.
        if !line.trim().is_empty() && !line.starts_with('{') {
            stage.line(line);
            if self.tail.len() == TAIL_LINES {
                self.tail.pop_front();
            }
            self.tail.push_back(line.trim_end().to_owned());
        }
        Ok(())
    }

    pub(super) fn tail(&self) -> String {
        self.tail.iter().cloned().collect::<Vec<_>>().join("\n")
    }
}

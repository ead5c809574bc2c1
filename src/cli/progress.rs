//! The progress of a long operation: one line on a terminal, which is removed at the end.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};

/// The progress of sessions that go.
#[derive(Debug)]
pub struct Progress {
    /// Draws nothing if stderr is not a terminal.
    bar: ProgressBar,
}

/// Whether a person looks on, and not a script.
pub fn is_watched() -> bool {
    io::stdout().is_terminal() && io::stderr().is_terminal()
}

impl Progress {
    pub fn new(sessions: usize) -> Self {
        let bar = ProgressBar::new(sessions as u64);
        let line = "{bar:30} {pos} of {len} sessions are gone, {elapsed}";
        if let Ok(style) = ProgressStyle::with_template(line) {
            bar.set_style(style);
        }
        Self { bar }
    }

    pub fn show(&self, left: usize) {
        let all = self.bar.length().unwrap_or_default();
        self.bar.set_position(all.saturating_sub(left as u64));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

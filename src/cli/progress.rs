//! How far something is that takes its time: one line on a terminal, which is gone when it is done.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};

/// Sessions that go.
#[derive(Debug)]
pub struct Progress {
    /// Draws nothing unless stderr is a terminal.
    bar: ProgressBar,
}

/// Whether somebody looks on, rather than a script.
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

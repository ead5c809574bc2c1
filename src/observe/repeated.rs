//! Warnings that would repeat for each request or connection during a fault, or as long as a
//! stranger wants. The first one is logged at once, similar ones are counted, and the count is
//! logged every ten seconds.
//!
//! Else an outage would write ten thousand lines a second, which would hide every other line and
//! fill the disk. Lines are similar if they have the same kind, upstream and server.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use log::{Level, log};
use parking_lot::Mutex;

use super::terminal;

/// How long lines similar to a logged one are counted.
const PERIOD: Duration = Duration::from_secs(10);

/// How many kinds are distinguished. The file and the DNS answers limit the number; this limit is
/// for a file with very many servers that fail at the same time.
const KINDS: usize = 1000;

/// What similar lines have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Chosen by the caller, for example a status.
    pub what: String,
    pub upstream: Option<String>,
    pub server: Option<String>,
}

impl Kind {
    /// For lines that concern no server.
    pub fn of(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            upstream: None,
            server: None,
        }
    }
}

#[derive(Debug, Default)]
struct Repeats(HashMap<Kind, Counted>);

#[derive(Debug)]
struct Counted {
    level: Level,
    since: Instant,
    more: u64,
    /// The last line that was not logged.
    last: String,
}

impl Repeats {
    /// Returns the line if it must be logged now.
    fn note(&mut self, (level, kind): (Level, Kind), line: String, now: Instant) -> Option<String> {
        if let Some(counted) = self.0.get_mut(&kind) {
            counted.more += 1;
            counted.last = line;
            return None;
        }
        // Above the limit nothing is remembered, and so nothing is counted.
        if self.0.len() < KINDS {
            let counted = Counted {
                level,
                since: now,
                more: 0,
                last: String::new(),
            };
            self.0.insert(kind, counted);
        }
        Some(line)
    }

    /// What must be logged of the kinds whose period is over. At the end, of all kinds.
    fn summaries(&mut self, now: Instant, is_end: bool) -> Vec<(Level, String)> {
        let mut lines = Vec::new();
        self.0.retain(|_, counted| {
            let lasted = now.saturating_duration_since(counted.since);
            if lasted < PERIOD && !is_end {
                return true;
            }
            if counted.more == 0 {
                return false;
            }
            let rest = match counted.more - 1 {
                0 => String::new(),
                more => format!("; and {more} more like it in {} s", lasted.as_secs().max(1)),
            };
            lines.push((counted.level, counted.last.clone() + &rest));
            counted.more = 0;
            counted.since = now;
            true
        });
        lines
    }
}

/// One for the process, like its stderr.
static REPEATS: LazyLock<Mutex<Repeats>> = LazyLock::new(Mutex::default);

/// Logs the line, or counts it.
pub fn warn(kind: Kind, line: String) {
    say(Level::Warn, kind, &line);
}

/// Like [`warn`], for errors that keep prusik from its work.
pub fn error(kind: Kind, line: String) {
    say(Level::Error, kind, &line);
}

pub(super) fn say(level: Level, kind: Kind, line: &str) {
    // A part of the line may come from a client.
    let line = terminal::escaped(line);
    let said = REPEATS.lock().note((level, kind), line, Instant::now());
    if let Some(line) = said {
        log!(level, "{line}");
    }
}

/// Logs the counts that are due. Must be called about every second.
pub fn tell() {
    tell_summaries(false);
}

/// Logs all counts, because the process ends.
pub fn tell_all() {
    tell_summaries(true);
}

fn tell_summaries(is_end: bool) {
    let lines = REPEATS.lock().summaries(Instant::now(), is_end);
    for (level, line) in lines {
        log!(level, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(server: &str) -> Kind {
        Kind {
            what: "502".to_owned(),
            upstream: Some("chat".to_owned()),
            server: Some(server.to_owned()),
        }
    }

    #[test]
    fn the_first_is_said_and_those_like_it_are_summed() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let mut said = 0;
        for number in 0..10_000 {
            let line = format!("refused {number}");
            said += usize::from(
                repeats
                    .note((Level::Warn, kind("a")), line, start)
                    .is_some(),
            );
        }
        assert_eq!(said, 1);
        let other = repeats.note((Level::Warn, kind("b")), "refused".to_owned(), start);
        assert_eq!(other.as_deref(), Some("refused"));
        assert!(repeats.summaries(start + PERIOD / 2, false).is_empty());
        let summaries = repeats.summaries(start + PERIOD, false);
        let sum = "refused 9999; and 9998 more like it in 10 s".to_owned();
        assert_eq!(summaries, [(Level::Warn, sum)]);
        // It is quiet: the next one is said at once again.
        assert!(repeats.summaries(start + 2 * PERIOD, false).is_empty());
        let next = repeats.note(
            (Level::Warn, kind("a")),
            "again".to_owned(),
            start + 2 * PERIOD,
        );
        assert_eq!(next.as_deref(), Some("again"));
    }

    #[test]
    fn at_the_end_nothing_that_was_counted_is_kept_back() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        repeats.note((Level::Warn, kind("a")), "one".to_owned(), start);
        repeats.note((Level::Warn, kind("a")), "two".to_owned(), start);
        let summaries = repeats.summaries(start, true);
        assert_eq!(summaries, [(Level::Warn, "two".to_owned())]);
    }
}

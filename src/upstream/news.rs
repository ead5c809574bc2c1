//! What a group reports: lines for the log, and servers whose sessions must go.
//!
//! A group that is not at work yet holds its news back, because the reload may still fail and a
//! line must be true when it is read.

use std::net::SocketAddr;
use std::sync::Arc;

use log::info;
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;

/// The channel on which groups report servers whose sessions must go.
pub type Departures = UnboundedSender<Departed>;

/// A server whose sessions must go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departed {
    pub upstream: Arc<str>,
    pub server: SocketAddr,
    pub why: Departure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// The server fails its health checks.
    Down,
    /// The server is gone from the file or from DNS.
    Removed,
}

pub(super) struct News {
    departures: Departures,
    /// `None`: the group is at work, and nothing is held back.
    waiting: Mutex<Option<Vec<Item>>>,
}

enum Item {
    Line(String),
    Departed(Departed),
}

impl News {
    pub fn new(departures: Departures) -> Self {
        Self {
            departures,
            waiting: Mutex::new(Some(Vec::new())),
        }
    }

    /// Logs a line.
    pub fn line(&self, line: String) {
        self.tell(Item::Line(line));
    }

    pub fn departed(&self, departed: Departed) {
        self.tell(Item::Departed(departed));
    }

    /// From now on all news is told at once.
    pub fn release(&self) {
        let mut waiting = self.waiting.lock();
        for item in waiting.take().into_iter().flatten() {
            self.send(item);
        }
    }

    fn tell(&self, item: Item) {
        let mut waiting = self.waiting.lock();
        match &mut *waiting {
            Some(waiting) => waiting.push(item),
            // Sent under the lock, so that news stays in order.
            None => self.send(item),
        }
    }

    fn send(&self, item: Item) {
        match item {
            Item::Line(line) => info!("{line}"),
            Item::Departed(departed) => {
                // There is no receiver when the process is about to end.
                let _ = self.departures.send(departed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    #[test]
    fn nothing_is_told_before_the_group_is_at_work_and_nothing_is_lost() {
        let (departures, mut told) = unbounded_channel();
        let news = News::new(departures);
        let gone = |port| Departed {
            upstream: "chat".into(),
            server: ([127, 0, 0, 1], port).into(),
            why: Departure::Removed,
        };
        news.departed(gone(1));
        assert!(told.try_recv().is_err());
        news.release();
        news.departed(gone(2));
        let told: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).collect();
        assert_eq!(told, [gone(1), gone(2)]);
    }
}

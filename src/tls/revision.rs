//! Whether a connection has shown what its listener now demands of clients.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::sync::watch;

use super::Acceptor;

/// Rises with each reload that demands more of a listener's clients: TLS instead of plain text, or
/// certificates of other authorities. A connection with a lower revision has not shown that. A
/// renewed certificate of the listener itself demands nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct TlsRevision(u32);

impl TlsRevision {
    /// The revision after a reload from `before` to `now`. `None`: plain text.
    #[must_use]
    pub fn after(self, before: Option<&Acceptor>, now: Option<&Acceptor>) -> Self {
        let asks_more = match (before, now) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(before), Some(now)) => now.asks_other_certificates_than(before),
        };
        Self(self.0 + u32::from(asks_more))
    }
}

/// The present revision of a listener. It is read for every request, without a lock.
#[derive(Debug)]
pub struct CurrentRevision {
    now: AtomicU32,
    changed: watch::Sender<()>,
}

impl CurrentRevision {
    pub fn new(revision: TlsRevision) -> Self {
        Self {
            now: revision.0.into(),
            changed: watch::Sender::new(()),
        }
    }

    pub fn get(&self) -> TlsRevision {
        TlsRevision(self.now.load(Relaxed))
    }

    /// Wakes those who watch, if the revision has changed.
    pub fn set(&self, TlsRevision(revision): TlsRevision) {
        if self.now.swap(revision, Relaxed) != revision {
            self.changed.send_replace(());
        }
    }

    /// [`CurrentRevision::get`] must be read after this call.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

//! Whether a connection has shown what its listener asks of clients now.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::sync::watch;

use super::Acceptor;

/// Rises with each reload that asks more of a listener's clients: TLS where there was none, or
/// certificates by other authorities. Who came in under a lower one has not shown that. A renewed
/// certificate of the listener's own asks nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct TlsRevision(u32);

impl TlsRevision {
    /// For a reload from `before` to `now`; `None`: plain text.
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

/// The present revision of a listener. Every request asks for it: it is read without a lock.
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

    /// Wakes who watches, if it is another one.
    pub fn set(&self, TlsRevision(revision): TlsRevision) {
        if self.now.swap(revision, Relaxed) != revision {
            self.changed.send_replace(());
        }
    }

    /// Look at [`CurrentRevision::get`] after this.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

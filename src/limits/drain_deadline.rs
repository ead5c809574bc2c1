//! The moment at which a process that goes waits no more for what is still under way.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Seen by everything that an exchange may wait for: its client, its server, a connection to that.
/// Copies tell of the same moment. It wakes nobody: who is told must be polled after it has struck.
#[derive(Debug, Clone, Default)]
pub struct DrainDeadline(Arc<AtomicBool>);

/// Why an exchange has failed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", Self::WORDS)]
pub struct Cut;

impl DrainDeadline {
    pub fn strike(&self) {
        self.0.store(true, Relaxed);
    }

    /// The process serves on after all.
    pub fn clear(&self) {
        self.0.store(false, Relaxed);
    }

    pub fn has_struck(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// An error once it has struck.
    pub fn check(&self) -> io::Result<()> {
        match self.has_struck() {
            true => Err(io::Error::other(Cut)),
            false => Ok(()),
        }
    }
}

impl Cut {
    /// In the log.
    pub const WORDS: &str = "cut at the drain's deadline";

    /// Whether it is what stands behind this error.
    pub fn is_behind(cause: &(dyn Error + 'static)) -> bool {
        let cause = cause.downcast_ref::<io::Error>();
        let cause = cause.and_then(io::Error::get_ref);
        cause.is_some_and(|cause| cause.is::<Self>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_copy_of_a_deadline_strikes_and_its_error_is_known_again() {
        let deadline = DrainDeadline::default();
        let copy = deadline.clone();
        assert!(copy.check().is_ok());
        deadline.strike();
        let error = copy.check().unwrap_err();
        assert!(Cut::is_behind(&error));
        assert_eq!(error.to_string(), "cut at the drain's deadline");
        assert!(!Cut::is_behind(&io::Error::other("something else")));
        deadline.clear();
        assert!(copy.check().is_ok());
    }
}

//! The moment at which an ending process stops waiting for what is still under way.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Shared with everything that an exchange may wait for: its client, its server, a connection to a
/// server. Copies have the same state. It wakes no task, so each must be polled after the deadline.
#[derive(Debug, Clone, Default)]
pub struct DrainDeadline(Arc<AtomicBool>);

/// The error of an exchange that fails because of the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", Self::WORDS)]
pub struct Cut;

impl DrainDeadline {
    pub fn strike(&self) {
        self.0.store(true, Relaxed);
    }

    /// The process serves again after all.
    pub fn clear(&self) {
        self.0.store(false, Relaxed);
    }

    pub fn has_struck(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// Returns an error once the deadline has struck.
    pub fn check(&self) -> io::Result<()> {
        match self.has_struck() {
            true => Err(io::Error::other(Cut)),
            false => Ok(()),
        }
    }
}

impl Cut {
    /// The text in the log.
    pub const WORDS: &str = "cut at the drain's deadline";

    /// Whether this error was caused by the deadline.
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

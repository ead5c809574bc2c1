//! Upgrades: another process takes over listeners, idle connections and sessions.
//!
//! ```text
//!        old process                                       new process
//!   hand_over ── old: what it does when        new: what it does when ── take_over
//!       │                                                                    │
//!       └── link ═══════════════ protocol: the messages ═══════════════ link ┘
//!     warm_state: of servers, drains · census: what counts where · snapshot: sessions at rest
//! ```
//!
//! The two processes meet in one of two ways: [`exec`] starts the new process, or something else
//! has started it and it asks at a socket ([`rendezvous`]). If systemd ends the old process before
//! it starts the new one, they do not meet, and what the old one would say waits in a [`store`].
//!
//! [`old`] and [`new`] are values without sockets, and [`model`] looks at every order in which
//! things can happen to both.

mod about;
mod began;
mod census;
mod convert;
pub mod exec;
pub mod hand_over;
mod link;
#[cfg(test)]
mod model;
mod new;
pub mod old;
pub mod predecessor;
mod program;
pub mod protocol;
pub mod rendezvous;
mod severed;
mod snapshot;
pub mod store;
mod stream_snapshot;
mod successor;
pub mod take_over;
mod warm_state;

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::admin::ControlError;
pub use program::Program;

/// Why the old process kept on.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error("cannot start {path}: {cause}")]
    Spawn { path: PathBuf, cause: io::Error },
    #[error("{}", .0.error)]
    NotNow(ControlError),
    #[error("the new process refused: {0}")]
    Refused(String),
    #[error("the new process ended before it served{}; its log says why", in_words(.0))]
    Ended(Option<ExitStatus>),
    #[error("the new process did not {what} within {limit:?} and {}", fate(*.is_killed))]
    TooSlow {
        what: &'static str,
        limit: Duration,
        /// A process in another container is only told.
        is_killed: bool,
    },
    #[error(
        "the new process ended while it took over{}, with {sessions} sessions that it had already; \
         its log says why",
        in_words(.status)
    )]
    Fell {
        sessions: u64,
        status: Option<ExitStatus>,
    },
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn fate(is_killed: bool) -> &'static str {
    match is_killed {
        true => "was killed",
        false => "is told to end when it goes on",
    }
}

fn in_words(status: &Option<ExitStatus>) -> String {
    match status {
        Some(status) => format!(" ({status})"),
        None => String::new(),
    }
}

impl From<UpgradeError> for ControlError {
    fn from(error: UpgradeError) -> Self {
        match error {
            UpgradeError::NotNow(refusal) => refusal,
            error => Self::refused(error.to_string(), "this process goes on as before"),
        }
    }
}

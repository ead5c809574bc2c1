//! What the old and the new process tell each other at an upgrade, over a socket that only they
//! have.
//!
//! ```text
//!   old                                   new
//!    │                                Ready │  adopted the listeners, servers checked, a request
//!    │                                      │  of its own answered; nothing can fail from here on
//!    │  Go, Census …                        │  what operators have done, what counts in the old one
//!    │  Accept                              │
//!    │                              Serving │  accepts; the old one no longer does
//!    │  Session, Idle … (descriptors)       │
//!    │                   Adopted, Refused … │  said before a byte of it is read there
//!    │  Census …                            │  as sessions end in the old one
//!    │  Command …                           │
//!    │                            Outcome … │
//!    │                             Stopping │  at any time: it was told to stop
//!    │  Moved                               │
//!    │  End                                 │
//!    │                                  End │  it has everything: a link that is closed without this
//!    │                                      │  is that of a process that has died
//! ```
//!
//! A process that was not started by the old one has to be given the listening sockets first:
//!
//! ```text
//!   old                                   new
//!    │                             TakeOver │  (a pidfd of itself)
//!    │  Listener … (a descriptor each)      │
//!    │  Given                               │  (a pidfd of itself), then as above
//! ```
//!
//! Each side says in its first message ([`Ready`], [`Go`]) which protocol it speaks, and both then
//! speak the lower one. The first (0.1.0) has neither Accept nor Census, Command, Outcome and
//! Stopping, and tells of drains in a message of its own. [`frame`] has the bytes, [`wire`] the
//! shapes.
//!
//! A message or field that one side does not know is skipped by its length; a session that it does
//! not understand is refused by itself, and stays where it was.

pub mod frame;
pub mod wire;

use serde::{Deserialize, Serialize};

use wire::{Census, Command, Go, Idle, NamedDrain, Outcome, Ready, Session, TakeOver};

use crate::net::Binder;

/// The name of the link among the inherited descriptors.
pub const LINK: &str = "prusik-upgrade";

/// The name of a listening socket that prusik has bound; systemd's have any other.
const OURS: &str = "prusik-listener";

/// What a listening socket is called on the way to the new process.
pub fn name_of(binder: Binder) -> &'static str {
    match binder {
        Binder::Us => OURS,
        Binder::Systemd => "systemd",
    }
}

/// Who has bound a listening socket of this name.
pub fn binder_of(name: &str) -> Binder {
    match name {
        OURS => Binder::Us,
        _ => Binder::Systemd,
    }
}

/// One message, without the bytes and descriptors that come along.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// Whoever was not started by the old process asks to take over. With a descriptor that names
    /// its process.
    TakeOver(TakeOver),
    /// With one descriptor: a listening socket. `name`: as [`name_of`] has it.
    Listener {
        name: String,
    },
    /// All listening sockets were given. With a descriptor that names the old process.
    Given,
    Ready(Ready),
    /// The new process gives up.
    Failed {
        reason: String,
    },
    Go(Go),
    Census(Census),
    /// All that must be known before the first accept has been said.
    Accept,
    Serving,
    /// With two descriptors: the client's, then the server's.
    Session {
        number: u64,
        session: Box<Session>,
    },
    /// With one descriptor.
    Idle {
        number: u64,
        #[serde(flatten)]
        idle: Idle,
    },
    Adopted {
        number: u64,
    },
    Refused {
        number: u64,
        reason: String,
    },
    Command {
        number: u64,
        command: Command,
        /// Who has given it, in words.
        #[serde(default)]
        by: String,
    },
    Outcome {
        number: u64,
        outcome: Outcome,
    },
    /// The new process was told to stop: whoever did that means the old one too.
    Stopping,
    /// Sessions that were told to go, or about to be. Of the first protocol alone.
    Drain(NamedDrain),
    /// All that could move at once has. What comes now is a handshake or request that took longer.
    Moved {
        sessions: u64,
        told: u64,
    },
    /// Nothing more comes; from the new process: nothing more is needed.
    End,
}

#[cfg(test)]
mod golden;

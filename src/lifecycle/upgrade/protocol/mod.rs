//! What the old and the new process tell each other in an upgrade, over a socket that only they
//! have.
//!
//! ```text
//!   old                                   new
//!    │                                Ready │  adopted the listeners, servers checked, a request
//!    │                                      │  of its own answered; nothing can fail from here on
//!    │  Go, Keys …, Learned …, Census …     │  what operators have done, what counts in the old one
//!    │  Accept                              │
//!    │                              Serving │  accepts; the old one no longer does
//!    │  Session, Stream, Idle … (and their  │
//!    │  descriptors)                        │
//!    │                   Adopted, Refused … │  said before a byte of it is read there
//!    │  Census …, Learned …                 │  as sessions end in the old one
//!    │  Command …                           │
//!    │                            Outcome … │
//!    │                             Stopping │  at any time: it was told to stop
//!    │  Moved                               │
//!    │  End                                 │
//!    │                                  End │  it has everything: a link that is closed without this
//!    │                                      │  is that of a process that has died
//! ```
//!
//! A process that the old one has not started must get the listening sockets first:
//!
//! ```text
//!   old                                   new
//!    │                             TakeOver │  (a pidfd of itself)
//!    │  Wait                                │
//!    │  Listener … (a descriptor each)      │
//!    │  Given                               │  (a pidfd of itself), then as above
//! ```
//!
//! The first message of each side ([`Ready`], [`Go`]) says which protocol it speaks. Then both
//! speak the lower of the two. The third protocol has Stream. The first (0.1.0) has no Accept, Census, Command, Outcome
//! and Stopping, and a message of its own for drains. [`frame`] has the bytes, [`wire`] the types.
//!
//! A message or field that one side does not know is skipped by its length. A session that it does
//! not understand is refused, and stays where it was.

pub mod frame;
pub mod wire;

use serde::{Deserialize, Serialize};

use wire::{
    Census, Command, Go, Idle, Keys, Learned, NamedDrain, Outcome, Ready, Session, Stream, TakeOver,
};

use crate::net::Binder;

fn is_false(value: &bool) -> bool {
    !value
}

/// The name of the link among the inherited descriptors.
pub const LINK: &str = "prusik-upgrade";

/// The name of a listening socket that prusik has bound. A socket of systemd has another name.
const OURS: &str = "prusik-listener";

/// The name of a listening socket on its way to the new process.
pub fn name_of(binder: Binder) -> &'static str {
    match binder {
        Binder::Us => OURS,
        Binder::Systemd => "systemd",
    }
}

/// Who has bound a listening socket with this name.
pub fn binder_of(name: &str) -> Binder {
    match name {
        OURS => Binder::Us,
        _ => Binder::Systemd,
    }
}

/// One message without its bytes and descriptors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// A process that the old one has not started asks to take over. With its own pidfd.
    TakeOver(TakeOver),
    /// It was heard. What is under way here comes first, so the answer may take a while.
    Wait,
    /// With one descriptor, a listening socket. `name`: the result of [`name_of`].
    Listener {
        name: String,
    },
    /// All listening sockets were given. With the pidfd of the old process.
    Given,
    Ready(Ready),
    /// The new process gives up, or the old one does not let it take over.
    Failed {
        reason: String,
        /// The old one stops: when it has ended, there is nobody to take over from.
        #[serde(default, skip_serializing_if = "is_false")]
        stops: bool,
    },
    Go(Go),
    Census(Census),
    /// Which servers have which sessions, by `affinity.header`. Older processes skip it.
    Learned(Learned),
    /// What was fetched for `auth.jwt`. Older processes skip it.
    Keys(Keys),
    /// Everything that must be known before the first accept was sent.
    Accept,
    Serving,
    /// With two descriptors: the client's, then the server's.
    Session {
        number: u64,
        session: Box<Session>,
    },
    /// With two descriptors, as [`Message::Session`]. Only for a process that
    /// [takes them](wire::takes_streams).
    Stream {
        number: u64,
        stream: Box<Stream>,
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
        /// Who has given the command, as text.
        #[serde(default)]
        by: String,
    },
    Outcome {
        number: u64,
        outcome: Outcome,
    },
    /// The new process was told to stop, which is meant for the old process too.
    Stopping,
    /// Sessions that were or will be told to go. Only in the first protocol.
    Drain(NamedDrain),
    /// Everything that could move at once has moved. What follows are handshakes and requests that
    /// took longer.
    Moved {
        sessions: u64,
        told: u64,
    },
    /// Nothing more comes. From the new process: it needs nothing more.
    End,
}

#[cfg(test)]
mod golden;

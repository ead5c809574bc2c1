//! A restart by systemd that keeps sessions: they wait in the service manager until the next
//! process has started.
//!
//! ```text
//!   old process                     systemd                      new process
//!   keep ── keeper: what it does    (its file descriptor store)
//!     │     when                                                 player ── take_over
//!     └─ record ── bundle ────────► a socket, listeners ───────► bundle ──┘
//! ```
//!
//! systemd stops the old process before it starts the new one, so the two never meet. The old one
//! writes down ([`record`]) what it would say in an upgrade, and puts that with all descriptors
//! into the queue of a socket ([`bundle`]). systemd holds that one socket, and the listening
//! sockets, and gives them to the new process. There a [`player`] says what was written to the side
//! of an upgrade that takes over, so both roads have the same parcels.
//!
//! The kernel takes what clients and servers send meanwhile, and the new process reads it.
//!
//! The old process must know that its stop is part of a restart: [`mark`] tells it.

mod bundle;
pub mod keep;
pub mod keeper;
pub mod mark;
pub mod player;
mod record;

/// The name in systemd's store of the socket with sessions and connections.
pub const BUNDLE: &str = "prusik-sessions";

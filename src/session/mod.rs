//! Sessions: from the server's 101, or the head of its event stream, to the end of both
//! connections.
//!
//! ```text
//!   101 ──► handshake: the server's socket leaves Pingora
//!           listener::client_stream: so does the client's
//!              │
//!           runner ─► relay: moves the bytes (event_relay: those of an event stream)
//!              │         ├─ leg: one side, its socket and the frames that it sends
//!              │         └─ goodbye: which side is told what, and until when it is waited for
//!   registry ──┘ live, traffic: who it is and what it has carried; drain tells sessions to go;
//!                log: the lines of its life; stats: how sessions went
//! ```
//!
//! With `tunnel: pingora` the sockets stay where they are, and [`tunnel`] watches over the session.

mod client_end;
mod direction;
pub mod drain;
pub mod event_relay;
pub mod goodbye;
pub mod handshake;
mod lazy_timer;
pub mod leg;
pub mod live;
pub mod log;
pub mod message_rate;
pub mod registry;
pub mod relay;
mod relaying;
pub mod runner;
pub mod stats;
pub mod traffic;
pub mod tunnel;

pub use client_end::{Admission, ClientEnd};
pub use relaying::Relaying;
pub use runner::{IdleConnection, Leaving, MoveWatch, Runner, Session, Talk, Upgraded};

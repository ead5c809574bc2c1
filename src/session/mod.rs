//! Upgraded sessions: from the server's 101 to the end of both connections.
//!
//! ```text
//!   101 ──► handshake: the server's socket leaves Pingora
//!           listener::stream: so does the client's
//!              │
//!           runner ─► relay: moves the bytes, says goodbye
//!              │         └─ leg: one side; frames: read as they pass; transport: the socket
//!   registry ──┘ live, traffic: who it is and what it has carried; drain tells sessions to go;
//!                ended: how they went
//! ```
//!
//! With `tunnel: pingora` the sockets stay where they are, and [`tap`] watches over the session.

mod client_end;
pub mod drain;
pub mod handshake;
pub mod leg;
pub mod live;
pub mod log;
pub mod registry;
pub mod relay;
pub mod runner;
pub mod stats;
pub mod traffic;
pub mod tunnel;

pub use client_end::{Admission, ClientEnd};
pub use runner::{IdleConnection, Leaving, Runner, Session, Upgraded, WayOut};

//! Upgraded sessions: from the server's 101 to the end of both connections.
//!
//! [`tap`] stands between Pingora and the server's socket, sees every byte of the session and
//! decides when it has been quiet, or has lasted, for too long; [`frames`] reads frame headers
//! out of the passing bytes; [`traffic`] holds what is counted, for the log; [`registry`] knows
//! the sessions that live now.

pub mod frames;
pub mod registry;
pub mod tap;
pub mod traffic;

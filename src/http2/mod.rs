//! HTTP/2 with clients (RFC 9113), and WebSocket over it (RFC 8441).
//!
//! Each stream becomes a connection of its own that speaks HTTP/1.1 in memory: [`request`] writes
//! the head from the stream's fields, [`Http2Stream`] is the [`Transport`] that hides the
//! difference, and [`response`] reads the answer. So everything that was shown for HTTP/1.1 holds
//! here too: the checks of heads, routes, limits, the relay, the drain, the log.
//!
//! ```text
//!   h2 connection ──► request  ──► Http2Stream ──► ClientStream ──► as any other connection
//!                 ◄── response ◄──
//! ```
//!
//! [`Transport`]: crate::transport::Transport

pub mod control;
pub mod fragments;
pub mod hpack;
pub mod request;
pub mod response;
mod settled;
mod stream;

pub use settled::Settled;
pub use stream::{Facts, Http2Stream, read_rest};

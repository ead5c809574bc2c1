//! HTTP/2 with clients (RFC 9113), and WebSocket over it (RFC 8441).
//!
//! Each stream becomes a connection of its own that speaks HTTP/1.1, in memory: [`request`] writes
//! the head that the stream's fields amount to, [`Http2Stream`] is the [`Transport`] behind which
//! nothing knows the difference, and [`response`] reads what is answered. So what is shown of
//! HTTP/1.1 holds here: the checks of heads, routes, limits, the relay, the drain, the log.
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
mod stream;

pub use stream::{Facts, Http2Stream, read_rest};

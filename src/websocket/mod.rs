//! The WebSocket protocol (RFC 6455), without sockets: its handshake and its frames.

pub mod frames;
pub mod handshake;
pub mod jitter;
pub mod origin;

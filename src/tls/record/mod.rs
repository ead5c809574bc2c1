//! The record layer of TLS for a connection whose handshake is over: what seals and opens records,
//! in few bytes, and in a form with which another process can continue.
//!
//! rustls does the handshake and everything that needs a certificate. Then [`convert`] takes the
//! traffic keys out of it, and [`layer::Record`] goes on alone: a value without I/O, over the AEADs
//! and the HKDF of `ring`. [`RecordStream`] is the thin shell that gives it a socket.
//!
//! ```text
//!   rustls ── convert ──► Record ─┬─ Half: one direction, its key, IV, secret and sequence number
//!                           │     ├─ Suite: which AEAD and hash, nonces, additional data
//!                           │     └─ Control: alerts and messages after the handshake
//!             RecordStream ─┘ ◄──► Saved: the bytes that go to another process
//! ```
//!
//! TLS 1.2 with AES-GCM and ChaCha20-Poly1305 (RFC 5246, 5288, 7905), and TLS 1.3 (RFC 8446).
//!
//! A nonce must never be used twice with one key. Each direction counts its records in one place
//! ([`half::Half`]), and only one process seals at a time: see `docs/security.md`. The tests note
//! every nonce (`audit.rs`).

mod alert;
#[cfg(any(test, debug_assertions))]
mod audit;
mod control;
mod convert;
mod half;
mod layer;
mod saved;
mod stream;
mod suite;
#[cfg(test)]
mod tests;
mod traffic_secrets;

pub use convert::{NotConverted, convert, is_suited};
pub use saved::{Saved, SavedError};
pub use stream::RecordStream;
pub use suite::{HEADER, RECORD_MAX};
pub use traffic_secrets::TrafficSecrets;

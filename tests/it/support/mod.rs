//! What the end-to-end tests stand on: the real binary in a process of its own, origins behind
//! it and clients before it, all over real sockets.
//!
//! Nothing here knows how prusik works inside. Nobody sleeps to let things happen: tests wait for
//! a condition, and [`PATIENCE`] is how long a condition may take before the test says which one.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(unused_imports, reason = "each test file uses a part of it")]

mod answer;
mod client;
mod config;
mod dns;
pub mod events;
pub mod fake_new;
pub mod http2;
pub mod issuer;
pub mod keys;
mod origin;
mod pattern;
mod process;
mod service_manager;
mod tls;
mod wire;
mod ws;

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

pub use answer::Answer;
pub use client::{Client, Response, get, metrics_of, status_of};
pub use config::Config;
pub use dns::Dns;
pub use origin::{Origin, Received, free_address, free_port_on, is_free, listen};
pub use pattern::{Pattern, PatternCheck};
pub use process::{Outcome, Prusik, check, prusik, signal};
pub use service_manager::ServiceManager;
pub use tls::{Authority, Pair, SecureChat, TlsClient, certificates, connect as tls_connect};
pub use wire::{Duplex, Framing, Head, Wire};
pub use ws::{
    ACCEPT, Ended, Frame, KEY, RawSession, Session, client_frame, handshake, handshake_with,
};

/// Long enough for a loaded machine: only a failing test ever waits for it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls until the condition holds; panics with `what` when it doesn't in time.
pub async fn eventually(what: impl Display, mut condition: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(
            started.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The future's output; panics with `what` when it takes too long.
pub async fn within<T>(what: impl Display, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

//! A session that lives: who it is, and what it carries.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::traffic::Traffic;
use crate::observe::trace::TraceContext;
use crate::upstream::Server;

/// What is known of a session from its handshake. Kept small: there are many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Ordered by the time of the handshake (UUIDv7), unless a trusted proxy has made it otherwise.
    pub id: Uuid,
    /// What a trusted proxy calls the handshake, where that is not the id.
    pub request_id: Option<Box<str>>,
    /// Where tracing is on. Boxed: where it is off an idle session must not pay for it.
    pub trace: Option<Box<TraceContext>>,
    pub listener: Arc<str>,
    pub route: Arc<str>,
    pub upstream: Arc<str>,
    pub server: SocketAddr,
    /// The client's address as the trust rules have it, as text.
    pub client: Box<str>,
    pub method: Box<str>,
    pub host: Box<str>,
    pub path: Box<str>,
    pub user_agent: Option<Box<str>>,
    /// From the request's head to the 101.
    pub handshake: Duration,
    /// Servers tried.
    pub attempts: usize,
}

#[derive(Debug)]
pub struct LiveSession {
    pub identity: Identity,
    pub traffic: Arc<Traffic>,
    /// Where its messages count once it has left.
    pub server: Arc<Server>,
}

impl LiveSession {
    /// Since the server's 101.
    pub fn age(&self) -> Duration {
        self.since().elapsed()
    }

    pub fn since(&self) -> Instant {
        self.traffic.established().unwrap_or_else(Instant::now)
    }
}

//! A session that is alive: its identity, and what it carries.

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
    /// Ordered by the time of the handshake (UUIDv7), unless a trusted proxy has made the id.
    pub id: Uuid,
    /// The trusted proxy's name for the handshake, if it differs from the id.
    pub request_id: Option<Box<str>>,
    /// `Some` if tracing is on. Boxed, so that idle sessions use less memory if it is off.
    pub trace: Option<Box<TraceContext>>,
    pub listener: Arc<str>,
    pub route: Arc<str>,
    pub upstream: Arc<str>,
    pub server: SocketAddr,
    /// The client's address according to the trust rules, as text.
    pub client: Box<str>,
    pub method: Box<str>,
    pub host: Box<str>,
    pub path: Box<str>,
    pub user_agent: Option<Box<str>>,
    /// Whose session it is. All sessions of a user on a route share the name.
    pub user: Option<Arc<str>>,
    /// The time from the request's head to the 101.
    pub handshake: Duration,
    /// How many servers were tried.
    pub attempts: usize,
}

/// What the two sides of a session speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionKind {
    WebSocket,
    /// An event stream.
    Stream,
}

impl SessionKind {
    pub const ALL: [Self; 2] = [Self::WebSocket, Self::Stream];

    pub fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Stream => "stream",
        }
    }

    /// The inverse of [`SessionKind::name`].
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

#[derive(Debug)]
pub struct LiveSession {
    pub kind: SessionKind,
    pub identity: Identity,
    pub traffic: Arc<Traffic>,
    /// The server on which the session's messages stay counted after its end.
    pub server: Arc<Server>,
}

impl LiveSession {
    /// The time since the server's 101, or since the head of its stream.
    pub fn age(&self) -> Duration {
        self.since().elapsed()
    }

    pub fn since(&self) -> Instant {
        self.traffic.established().unwrap_or_else(Instant::now)
    }
}

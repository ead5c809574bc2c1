//! A WebSocket handshake that is under way, and the parts of its later session.

use std::sync::Arc;
use std::time::Duration;

use crate::http1::Rejection;
use crate::limits::Permit;
use crate::session::expiry::Expiry;
use crate::session::handshake::ServerEnd;
use crate::session::traffic::Traffic;

pub struct Handshake {
    expected_accept: String,
    traffic: Arc<Traffic>,
    /// Holds the server's socket if it goes to the relay.
    server_end: Arc<ServerEnd>,
    /// Whether an extension was agreed on.
    is_extended: bool,
    /// Counts the session on its route.
    permit: Option<Permit>,
    expiry: Option<Expiry>,
    turned_away: Option<Box<TurnedAway>>,
}

/// Why a handshake that has waited for a server goes to none.
#[derive(Debug, Clone, Copy)]
pub struct TurnedAway {
    pub rejection: Rejection,
    /// `None`: as after any refusal.
    pub retry_after: Option<Duration>,
}

impl Handshake {
    pub fn new(expected_accept: String, permit: Option<Permit>) -> Self {
        Self {
            expected_accept,
            traffic: Arc::default(),
            server_end: Arc::default(),
            is_extended: false,
            permit,
            expiry: None,
            turned_away: None,
        }
    }

    pub fn turn_away(&mut self, why: TurnedAway) {
        self.turned_away = Some(Box::new(why));
    }

    pub fn turned_away(&self) -> Option<TurnedAway> {
        self.turned_away.as_deref().copied()
    }

    /// The value that the server must answer in `Sec-WebSocket-Accept`.
    pub fn expected_accept(&self) -> &str {
        &self.expected_accept
    }

    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    pub fn server_end(&self) -> &Arc<ServerEnd> {
        &self.server_end
    }

    /// The server has answered 101. `is_extended`: with an extension.
    pub fn succeed(&mut self, is_extended: bool) {
        self.is_extended = is_extended;
    }

    pub fn is_extended(&self) -> bool {
        self.is_extended
    }

    /// No session will follow: a client that asks again at once must find the permit free.
    pub fn free_permit(&mut self) {
        self.permit = None;
    }

    /// The permit, until the session takes it.
    pub fn permit(&self) -> Option<&Permit> {
        self.permit.as_ref()
    }

    pub fn permit_mut(&mut self) -> Option<&mut Permit> {
        self.permit.as_mut()
    }

    /// When its session ends with its credential. Only for a session that stays in Pingora.
    pub fn expire(&mut self, expiry: Option<Expiry>) {
        self.expiry = expiry;
    }

    pub fn expiry(&self) -> Option<Expiry> {
        self.expiry
    }

    /// Takes the permit for the session.
    pub fn take_permit(&mut self) -> Option<Permit> {
        self.permit.take()
    }
}

//! A WebSocket handshake on its way, and the session that may come of it.

use std::sync::Arc;

use crate::limits::Permit;
use crate::session::handshake::ServerEnd;
use crate::session::traffic::Traffic;

pub struct Handshake {
    expected_accept: String,
    traffic: Arc<Traffic>,
    /// Where the server's socket will be, should it go to the relay.
    server_end: Arc<ServerEnd>,
    /// An extension was agreed on.
    is_extended: bool,
    /// Counts the session on its route.
    permit: Option<Permit>,
}

impl Handshake {
    pub fn new(expected_accept: String, permit: Option<Permit>) -> Self {
        Self {
            expected_accept,
            traffic: Arc::default(),
            server_end: Arc::default(),
            is_extended: false,
            permit,
        }
    }

    /// What the server must answer in `Sec-WebSocket-Accept`.
    pub fn expected_accept(&self) -> &str {
        &self.expected_accept
    }

    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    pub fn server_end(&self) -> &Arc<ServerEnd> {
        &self.server_end
    }

    /// The server has answered 101, perhaps with an extension.
    pub fn succeed(&mut self, is_extended: bool) {
        self.is_extended = is_extended;
    }

    pub fn is_extended(&self) -> bool {
        self.is_extended
    }

    /// No session comes of it: who asks again at once must find its place free.
    pub fn free_permit(&mut self) {
        self.permit = None;
    }

    /// For the session.
    pub fn take_permit(&mut self) -> Option<Permit> {
        self.permit.take()
    }
}

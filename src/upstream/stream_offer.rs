//! A server's connection that may leave Pingora, because its answer is an event stream.
//!
//! ```text
//!   None ── the head has come ──► Made ──┬── declined ──► None   the answer goes on as any other
//!                                        └── taken up ──► TakenUp ── Pingora lets go ──► Left
//! ```
//!
//! From `Made` on the server is silent to Pingora until somebody has decided.

use bytes::BytesMut;
use parking_lot::Mutex;

use crate::transport::Transport;

/// A server's connection that has left.
#[derive(Debug)]
pub struct ServerSide {
    pub transport: Transport,
    /// Bytes that came after the head.
    pub early: BytesMut,
    /// Bytes of the request that the server has not taken yet.
    pub unsent: BytesMut,
}

/// Shared by the connection and the exchange.
#[derive(Debug, Default)]
pub struct StreamOffer(Mutex<Offer>);

#[derive(Debug, Default)]
enum Offer {
    #[default]
    None,
    Made,
    TakenUp,
    Left(Box<ServerSide>),
}

impl StreamOffer {
    /// Whether somebody must decide.
    pub fn is_made(&self) -> bool {
        matches!(*self.0.lock(), Offer::Made)
    }

    /// The answer goes on as any other.
    pub fn decline(&self) {
        *self.0.lock() = Offer::None;
    }

    /// The connection leaves as soon as Pingora lets go of it.
    pub fn take_up(&self) {
        *self.0.lock() = Offer::TakenUp;
    }

    /// The connection, once it has left.
    pub fn take(&self) -> Option<ServerSide> {
        match std::mem::take(&mut *self.0.lock()) {
            Offer::Left(server) => Some(*server),
            _ => None,
        }
    }

    pub(super) fn make(&self) {
        *self.0.lock() = Offer::Made;
    }

    pub(super) fn is_declined(&self) -> bool {
        matches!(*self.0.lock(), Offer::None)
    }

    pub(super) fn is_taken_up(&self) -> bool {
        matches!(*self.0.lock(), Offer::TakenUp)
    }

    pub(super) fn leave(&self, server: ServerSide) {
        *self.0.lock() = Offer::Left(Box::new(server));
    }
}

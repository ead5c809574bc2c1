//! A session that stays in Pingora's tunnel, as its client's stream sees it.
//!
//! Pingora takes from the client what its own queue has room for. When that is full, because the
//! server takes nothing, it looks at the client no more: neither at its going nor at the deadlines
//! that its stream carries. So it gets little enough that the queue is never full.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep};

use crate::session::relay::LOOK;
use crate::session::traffic::Traffic;
use crate::transport::Transport;

/// Reads whose bytes the server has not taken yet. Pingora's queue has room for four.
const AHEAD_MAX: u8 = 2;

#[derive(Debug, Default)]
pub(super) struct Tunnel {
    /// Bytes that Pingora has got of the session.
    given: u64,
    /// Reads since the server had taken all of them.
    ahead: u8,
    /// When the client is looked at, while it is not read.
    look: Option<Pin<Box<Sleep>>>,
}

impl Tunnel {
    /// Whether Pingora's queue has room for another read. If not, its client is looked at instead.
    pub fn may_read(&mut self, session: &Traffic) -> bool {
        if self.given == session.bytes_in.load(Relaxed) {
            self.ahead = 0;
        }
        let has_room = self.ahead < AHEAD_MAX;
        if has_room {
            self.look = None;
        } else {
            session.await_server();
        }
        has_room
    }

    /// Pingora has got so many bytes by one read.
    pub fn has_read(&mut self, bytes: usize) {
        self.given += bytes as u64;
        self.ahead += 1;
    }

    /// Ready when the client has gone: it is not read, and nothing is written to it, so that this
    /// must be looked for.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>, io: &mut Transport) -> Poll<io::Result<()>> {
        let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK)));
        loop {
            ready!(look.as_mut().poll(cx));
            look.as_mut().reset(Instant::now() + LOOK);
            if io.has_broken(cx) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
        }
    }
}

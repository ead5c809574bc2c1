//! A session that stays in Pingora's tunnel, as its client's stream sees it.
//!
//! Pingora takes from the client what its own queue has room for. When that is full, because the
//! server takes nothing, it looks at the client no more: neither at its going nor at the deadlines
//! that its stream carries. So it gets little enough that the queue is never full.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;
use tokio::time::{Instant, Sleep, sleep};

use super::client_stream::ClientStream;
use crate::session::relay::LOOK;

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

impl ClientStream {
    pub(super) fn poll_tunnel(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(session) = self.connection.tunnelled.get() {
            if self.tunnel.given == session.bytes_in.load(Relaxed) {
                self.tunnel.ahead = 0;
            }
            if self.tunnel.ahead >= AHEAD_MAX {
                session.await_server();
                return self.poll_gone(cx);
            }
        }
        self.tunnel.look = None;
        let before = buf.filled().len();
        ready!(self.poll_ahead_or_socket(cx, buf, usize::MAX))?;
        self.tunnel.given += (buf.filled().len() - before) as u64;
        self.tunnel.ahead += 1;
        Poll::Ready(Ok(()))
    }

    /// Ready when the client has gone: it is not read, and nothing is written to it, so that this
    /// must be looked for.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let look = &mut self.tunnel.look;
        let look = look.get_or_insert_with(|| Box::pin(sleep(LOOK)));
        loop {
            ready!(look.as_mut().poll(cx));
            look.as_mut().reset(Instant::now() + LOOK);
            if let Some(io) = &mut self.io
                && io.get_mut().has_broken(cx)
            {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
        }
    }
}
